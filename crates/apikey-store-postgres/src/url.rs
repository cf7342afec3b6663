//! The database's URL: whom to connect to, as whom, and how much encryption to insist on. Never shows what it holds.

use std::{fmt, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use crate::Options;

/// How long what was sent may remain unacknowledged by the peer's system before the connection is given up: as long as a
/// statement and its repetition may take together, so that a link that was broken for a moment costs nothing.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// The URL cannot be used. Never holds any part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not begin with `postgres://` or `postgresql://`.
    #[error("the URL must begin with postgres:// or postgresql://")]
    Scheme,
    /// A part of it is malformed, or a parameter is unknown or has an illegal value.
    #[error("the URL is malformed, or has a parameter that is not known")]
    Malformed,
    /// It names no host.
    #[error("the URL names no host")]
    Host,
    /// It names a socket's folder beside other hosts.
    #[error("a Unix socket must be the only host of the URL")]
    SocketAmongHosts,
    /// `sslmode` is none of those that exist here.
    #[error("sslmode must be disable, prefer, require or verify-full")]
    SslMode,
    /// `sslrootcert` stands beside a mode that checks no certificate.
    #[error("sslrootcert needs sslmode=verify-full")]
    SslRootCert,
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
    /// Always, with a certificate for the host's name that one of the roots vouches for.
    Verified {
        /// A PEM file of roots; `None` for those that the operating system trusts.
        roots: Option<PathBuf>,
    },
}

/// A URL that was read.
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) encryption: Encryption,
    /// The folder and the port of a Unix socket, if that is where the server listens.
    pub(crate) socket: Option<(PathBuf, u16)>,
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
        let (base, parameters) = url.split_once('?').unwrap_or((url, ""));
        let mut rest = Vec::new();
        let (mut mode, mut roots) = (None, None);
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", value)) => roots = Some(percent_decoded(value).ok_or(UrlError::Malformed)?),
                _ => rest.push(parameter),
            }
        }
        let encryption = encryption(mode, roots)?;
        // The driver's own error could quote the URL.
        let mut config: Config = format!("{base}?{}", rest.join("&")).parse().map_err(|_| UrlError::Malformed)?;
        if config.get_ssl_mode() != SslMode::Prefer {
            // The driver found a mode where this function did not: a `?` that is not encoded stands in the password.
            return Err(UrlError::Malformed);
        }
        let socket = socket(&config)?;
        let names = |name: &str| rest.iter().any(|parameter| parameter.starts_with(name));
        if config.get_application_name().is_none() {
            config.application_name("apikeys");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(options.connect_timeout);
        }
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
        Ok(Self { config, encryption, socket })
    }
}

fn encryption(mode: Option<&str>, roots: Option<String>) -> Result<Encryption, UrlError> {
    let encryption = match mode {
        Some("disable") => Encryption::Disabled,
        None | Some("prefer") => Encryption::Preferred,
        Some("require") => Encryption::Required,
        Some("verify-full") => {
            let roots = roots.filter(|roots| roots != "system").map(PathBuf::from);
            return Ok(Encryption::Verified { roots });
        }
        Some(_) => return Err(UrlError::SslMode),
    };
    if roots.is_some() { Err(UrlError::SslRootCert) } else { Ok(encryption) }
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

/// `None` where the text is not percent-encoded UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
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
            ("?sslmode=verify-ca", Err(UrlError::SslMode)),
            ("?sslmode=allow", Err(UrlError::SslMode)),
            ("?sslmode=", Err(UrlError::SslMode)),
            ("?sslmode=Require", Err(UrlError::SslMode)),
            ("?sslmode=require&sslrootcert=/a.pem", Err(UrlError::SslRootCert)),
            ("?sslrootcert=/a.pem", Err(UrlError::SslRootCert)),
            ("?sslmode=verify-full&sslrootcert=%2", Err(UrlError::Malformed)),
            ("?sslcert=/a.pem", Err(UrlError::Malformed)),
        ] {
            let parsed = parse(&format!("postgres://user:secret@localhost/keys{parameters}"));
            assert_eq!(parsed.map(|target| target.encryption), expected, "{parameters}");
        }
    }

    #[test]
    fn urls_that_lead_nowhere_are_refused() {
        for (url, expected) in [
            ("", UrlError::Scheme),
            ("mysql://localhost/keys", UrlError::Scheme),
            ("host=localhost user=keys", UrlError::Scheme),
            ("postgres:///keys", UrlError::Host),
            ("postgres://localhost:port/keys", UrlError::Malformed),
            ("postgres://localhost/keys?unknown=1", UrlError::Malformed),
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
