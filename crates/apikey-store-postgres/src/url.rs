//! The database's URL: whom to connect to, as whom, and how much encryption to insist on. Never shows what it holds.

mod parameters;

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use crate::Options;
use parameters::Parameters;

/// How long what was sent may remain unacknowledged by the peer's system before the connection is given up: as long as a
/// statement and its repetition may take together, so that a link that was broken for a moment costs nothing.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// The URL cannot be used. Never holds any part of it, but for the names of parameters that everybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not begin with `postgres://` or `postgresql://`.
    #[error("the URL must begin with postgres:// or postgresql://")]
    Scheme,
    /// A part of it is malformed, or a parameter has an illegal value.
    #[error(
        "the URL is malformed (user, password and names must be percent-encoded), or a parameter has an illegal value"
    )]
    Malformed,
    /// A parameter of other programs.
    #[error("the URL's parameter {name} does not exist here{}", parameters::advice(name))]
    Unsupported {
        /// Its name.
        name: &'static str,
    },
    /// A parameter that is not known at all. Its name is not shown, since it may be a part of a password that is not encoded.
    #[error("parameter {position} of the URL is not known (those are: {})", parameters::KNOWN.join(", "))]
    Unknown {
        /// Its place among the parameters, from 1.
        position: usize,
    },
    /// It names no host.
    #[error("the URL names no host")]
    Host,
    /// It names a socket's folder beside other hosts.
    #[error("a Unix socket must be the only host of the URL")]
    SocketAmongHosts,
    /// `sslmode` is none of those that exist here.
    #[error("sslmode must be disable, prefer, require, verify-ca or verify-full")]
    SslMode,
    /// `sslrootcert` stands beside a mode that checks no certificate.
    #[error("sslrootcert needs sslmode=verify-full or verify-ca")]
    SslRootCert,
    /// The operating system's roots vouch for whoever has a name, so that without the name nothing is checked.
    #[error("sslmode=verify-ca needs sslrootcert with the file of a CA of your own")]
    SystemRoots,
    /// One of `sslcert` and `sslkey` is missing.
    #[error("sslcert and sslkey need each other, and an sslmode that encrypts")]
    SslCert,
    /// The server is on another machine, its certificate is not to be checked, and nobody agreed to that.
    #[error(
        "sslmode={mode} checks no certificate, so that whoever stands in between can read the password or answer for the \
         database: use verify-full, or agree by database_allow_unverified"
    )]
    Unverified {
        /// The value of `sslmode`.
        mode: &'static str,
    },
}

/// How much encryption to insist on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// None.
    Disabled,
    /// If the server offers it; its certificate is not checked.
    Preferred,
    /// Always; the server's certificate is not checked.
    Required,
    /// Always, with a certificate that one of these roots vouches for, whatever its name.
    OfAuthority {
        /// A PEM file of roots.
        roots: PathBuf,
    },
    /// Always, with a certificate for the host's name that one of the roots vouches for.
    Verified {
        /// A PEM file of roots; `None` for those that the operating system trusts.
        roots: Option<PathBuf>,
    },
}

impl Encryption {
    /// The value of `sslmode`.
    pub(crate) const fn mode(&self) -> &'static str {
        match self {
            Self::Disabled => "disable",
            Self::Preferred => "prefer",
            Self::Required => "require",
            Self::OfAuthority { .. } => "verify-ca",
            Self::Verified { .. } => "verify-full",
        }
    }

    /// Whether the server's certificate is checked.
    pub(crate) const fn is_verified(&self) -> bool {
        matches!(self, Self::OfAuthority { .. } | Self::Verified { .. })
    }
}

/// The certificate chain that this side presents, and its private key: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// A URL that was read.
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) encryption: Encryption,
    pub(crate) client_certificate: Option<ClientCertificate>,
    /// The folder and the port of a Unix socket, if that is where the server listens.
    pub(crate) socket: Option<(PathBuf, u16)>,
    /// The server is on this machine, so that nobody stands in between.
    pub(crate) is_local: bool,
    /// How long opening a connection may take.
    pub(crate) connect_timeout: Duration,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("encryption", &self.encryption).finish_non_exhaustive()
    }
}

/// PostgreSQL's own default.
const DEFAULT_PORT: u16 = 5432;

impl Target {
    pub(crate) fn parse(url: &str, options: &Options) -> Result<Self, UrlError> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(UrlError::Scheme);
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let Parameters { ssl, rest } = Parameters::read(query)?;
        // The driver's own error could quote the URL.
        let mut config: Config = format!("{base}?{}", rest.join("&")).parse().map_err(|_| UrlError::Malformed)?;
        if config.get_ssl_mode() != SslMode::Prefer {
            // The driver found a mode where this function did not: a `?` that is not encoded stands in the password.
            return Err(UrlError::Malformed);
        }
        let socket = socket(&config)?;
        let is_local = socket.is_some() || is_loopback(&config);
        let (encryption, client_certificate) = ssl.encryption(is_local)?;
        if !is_local && !encryption.is_verified() && !options.allow_unverified {
            return Err(UrlError::Unverified { mode: encryption.mode() });
        }
        let names = |name: &str| rest.iter().any(|parameter| parameter.starts_with(name));
        if config.get_application_name().is_none() {
            config.application_name("apikeys");
        }
        let connect_timeout = config.get_connect_timeout().copied().unwrap_or(options.connect_timeout);
        config.connect_timeout(connect_timeout);
        if !names("keepalives") {
            // A peer that vanished without a word is noticed within a minute, not after two hours.
            config.keepalives_idle(Duration::from_secs(30));
            config.keepalives_interval(Duration::from_secs(10));
            config.keepalives_retries(3);
        }
        if config.get_tcp_user_timeout().is_none() {
            // Keepalives are not sent while something sent before is unacknowledged: without this, the system goes on for a quarter
            // of an hour, in which a lease that waits for that very answer cannot be had.
            config.tcp_user_timeout(UNACKNOWLEDGED);
        }
        Ok(Self { config, encryption, client_certificate, socket, is_local, connect_timeout })
    }

    /// Whether a password may be sent as it is: nobody can stand in between, or the server has proven who it is.
    pub(crate) fn is_protected(&self) -> bool {
        self.is_local || self.encryption.is_verified()
    }
}

/// Whether every host is this machine.
fn is_loopback(config: &Config) -> bool {
    let by_name = |host: &Host| match host {
        Host::Tcp(name) => {
            name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    // Where there are addresses, they alone are connected to.
    match config.get_hostaddrs() {
        [] => config.get_hosts().iter().all(by_name),
        addresses => addresses.iter().all(IpAddr::is_loopback),
    }
}

fn socket(config: &Config) -> Result<Option<(PathBuf, u16)>, UrlError> {
    let port = config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
    match config.get_hosts() {
        [] if config.get_hostaddrs().is_empty() => Err(UrlError::Host),
        #[cfg(unix)]
        [Host::Unix(folder)] => Ok(Some((folder.clone(), port))),
        #[cfg(unix)]
        hosts if hosts.iter().any(|host| matches!(host, Host::Unix(_))) => Err(UrlError::SocketAmongHosts),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, UrlError> {
        Target::parse(url, &Options::default())
    }

    #[test]
    fn the_mode_says_how_much_encryption_there_must_be() {
        let verified = |roots: Option<&str>| Encryption::Verified { roots: roots.map(PathBuf::from) };
        for (parameters, expected) in [
            ("", Ok(Encryption::Preferred)),
            ("?sslmode=disable", Ok(Encryption::Disabled)),
            ("?sslmode=prefer", Ok(Encryption::Preferred)),
            ("?application_name=x&sslmode=require", Ok(Encryption::Required)),
            ("?sslmode=verify-full", Ok(verified(None))),
            ("?sslmode=verify-full&sslrootcert=system", Ok(verified(None))),
            ("?sslrootcert=%2Fa%20b.pem&sslmode=verify-full&connect_timeout=3", Ok(verified(Some("/a b.pem")))),
            ("?sslrootcert=/a.pem", Ok(verified(Some("/a.pem")))),
            ("?sslmode=verify-ca&sslrootcert=/a.pem", Ok(Encryption::OfAuthority { roots: "/a.pem".into() })),
            ("?sslmode=verify-ca", Err(UrlError::SystemRoots)),
            ("?sslmode=verify-ca&sslrootcert=system", Err(UrlError::SystemRoots)),
            ("?sslmode=allow", Err(UrlError::SslMode)),
            ("?sslmode=", Err(UrlError::SslMode)),
            ("?sslmode=Require", Err(UrlError::SslMode)),
            ("?sslmode=require&sslrootcert=/a.pem", Err(UrlError::SslRootCert)),
            ("?sslmode=verify-full&sslrootcert=%2", Err(UrlError::Malformed)),
            ("?sslcert=/a.pem", Err(UrlError::SslCert)),
            ("?sslkey=/a.pem", Err(UrlError::SslCert)),
            ("?sslcert=/a.pem&sslkey=/a.key&sslmode=disable", Err(UrlError::SslCert)),
        ] {
            let parsed = parse(&format!("postgres://user:secret@localhost/keys{parameters}"));
            assert_eq!(parsed.map(|target| target.encryption), expected, "{parameters}");
        }
        let target = parse("postgres://localhost/keys?sslcert=/a.pem&sslkey=/a.key").unwrap();
        assert_eq!(target.client_certificate, Some(ClientCertificate { chain: "/a.pem".into(), key: "/a.key".into() }));
    }

    #[test]
    fn on_other_machines_the_certificate_is_checked_unless_somebody_agreed() {
        let agreed = Options { allow_unverified: true, ..Options::default() };
        for host in ["db.example", "10.0.0.1", "localhost,db.example", "127.0.0.1.example", "[2001:db8::1]"] {
            let url = |parameters: &str| format!("postgres://user:secret@{host}/keys{parameters}");
            let target = parse(&url("")).unwrap();
            assert_eq!(target.encryption, Encryption::Verified { roots: None }, "{host}");
            assert!(target.is_protected());
            parse(&url("?sslmode=verify-ca&sslrootcert=/a.pem")).unwrap();
            for mode in ["disable", "prefer", "require"] {
                let url = url(&format!("?sslmode={mode}"));
                assert_eq!(parse(&url).map(drop), Err(UrlError::Unverified { mode }), "{host}");
                assert!(!Target::parse(&url, &agreed).unwrap().is_protected());
            }
            let by_agreement = Target::parse(&url(""), &agreed).unwrap();
            assert!(by_agreement.encryption.is_verified(), "who agrees still has to say what to");
        }
        // A name that says one thing and an address that says another.
        let elsewhere = "postgres://user:secret@localhost/keys?hostaddr=10.0.0.1&sslmode=disable";
        assert_eq!(parse(elsewhere).map(drop), Err(UrlError::Unverified { mode: "disable" }));
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "localhost,127.0.0.1", "%2Frun%2Fpostgresql"] {
            let target = parse(&format!("postgres://user:secret@{host}/keys")).unwrap();
            assert_eq!(target.encryption, Encryption::Preferred, "{host}");
            assert!(target.is_protected());
        }
    }

    #[test]
    fn parameters_of_other_programs_are_refused_by_name_and_others_by_their_place() {
        for (parameter, told) in [
            ("sslpassword=x", "parameter sslpassword does not exist here"),
            ("schema=keys", "parameter schema does not exist here: set database_schema"),
            ("connection_limit=5", "parameter connection_limit does not exist here: set database_connections"),
            ("hunter2=x", "parameter 2 of the URL is not known (those are: application_name,"),
            ("sslmod=require", "parameter 2 of the URL is not known"),
            ("hunter2", "the URL is malformed"),
        ] {
            let error = parse(&format!("postgres://localhost/keys?application_name=a&{parameter}")).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn the_url_s_own_time_limit_for_connecting_wins() {
        let limit = |url| parse(url).unwrap().connect_timeout;
        assert_eq!(limit("postgres://localhost/keys"), Options::default().connect_timeout);
        assert_eq!(limit("postgres://localhost/keys?connect_timeout=17"), Duration::from_secs(17));
    }

    #[test]
    fn urls_that_lead_nowhere_are_refused() {
        for (url, expected) in [
            ("", UrlError::Scheme),
            ("mysql://localhost/keys", UrlError::Scheme),
            ("host=localhost user=keys", UrlError::Scheme),
            ("postgres:///keys", UrlError::Host),
            ("postgres://localhost:port/keys", UrlError::Malformed),
            ("postgres://localhost/keys?unknown=1", UrlError::Unknown { position: 1 }),
            ("postgres://user:pass?word@localhost/keys?sslmode=require", UrlError::Malformed),
            ("postgres://%2Frun%2Fpostgresql,localhost/keys", UrlError::SocketAmongHosts),
        ] {
            assert_eq!(parse(url).map(drop), Err(expected), "{url}");
        }
    }

    #[test]
    fn a_socket_is_told_from_a_host() {
        let socket = |url| parse(url).map(|target| target.socket);
        assert_eq!(socket("postgres://localhost/keys"), Ok(None));
        assert_eq!(socket("postgres://one:5433,two:5434/keys?target_session_attrs=read-write"), Ok(None));
        let expected = Some((PathBuf::from("/run/postgresql"), 5433));
        assert_eq!(socket("postgres://%2Frun%2Fpostgresql:5433/keys"), Ok(expected));
    }

    #[test]
    fn a_peer_that_acknowledges_nothing_is_given_up_soon_unless_the_url_says_otherwise() {
        let limit = |url| parse(url).unwrap().config.get_tcp_user_timeout().copied();
        assert_eq!(limit("postgres://localhost/keys"), Some(UNACKNOWLEDGED));
        assert_eq!(limit("postgres://localhost/keys?tcp_user_timeout=45"), Some(Duration::from_secs(45)));
    }

    #[test]
    fn no_part_of_a_url_is_shown() {
        let shown = format!("{:?}", parse("postgres://somebody:hunter2@somewhere/keys").unwrap());
        assert!(["somebody", "hunter2", "somewhere", "keys"].iter().all(|part| !shown.contains(part)), "{shown}");
        for illegal in ["postgres://u:hunter2@h:hunter2/d", "hunter2", "postgres://u:p@h/d?hunter2=hunter2"] {
            let error = parse(illegal).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
