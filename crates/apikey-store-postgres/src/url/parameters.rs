//! The parameters of a URL: which ones there are, and what those about encryption say together.

use std::path::PathBuf;

use super::{ClientCertificate, Encryption, UrlError};

/// Every parameter that is understood.
pub(super) const KNOWN: [&str; 22] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Parameters of libpq and of other programs' URLs that do not exist here, and what to do instead, if there is something.
const OTHERS: [(&str, &str); 27] = [
    ("client_encoding", "it is always UTF8"),
    ("connection_limit", "set database_connections"),
    ("currentSchema", "set database_schema"),
    ("fallback_application_name", "set application_name"),
    ("gssencmode", ""),
    ("gsslib", ""),
    ("krbsrvname", ""),
    ("passfile", "set database_url_file"),
    ("pgbouncer", "the proxy must keep prepared statements"),
    ("pool_timeout", "set database_acquire_timeout"),
    ("prepared_statements", ""),
    ("replication", ""),
    ("require_auth", "a password is sent in clear text or as MD5 over verified TLS alone"),
    ("requirepeer", ""),
    ("schema", "set database_schema"),
    ("search_path", "set database_schema"),
    ("service", ""),
    ("ssl", "set sslmode"),
    ("ssl_max_protocol_version", ""),
    ("ssl_min_protocol_version", "TLS 1.2 is the oldest"),
    ("sslcertmode", ""),
    ("sslcompression", ""),
    ("sslcrl", ""),
    ("sslcrldir", ""),
    ("sslpassword", "decrypt the file of sslkey"),
    ("sslsni", ""),
    ("statement_timeout", "set database_statement_timeout"),
];

/// What to do instead of a parameter of other programs, as the end of a sentence.
pub(super) fn advice(name: &str) -> String {
    let advice = OTHERS.iter().find(|(other, _)| *other == name).map_or("", |(_, advice)| advice);
    if advice.is_empty() { String::new() } else { format!(": {advice}") }
}

/// The parameters, those about encryption apart from the others.
pub(super) struct Parameters<'a> {
    pub(super) ssl: Ssl<'a>,
    pub(super) rest: Vec<&'a str>,
}

/// The parameters about encryption.
#[derive(Default)]
pub(super) struct Ssl<'a> {
    mode: Option<&'a str>,
    roots: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl<'a> Parameters<'a> {
    pub(super) fn read(query: &'a str) -> Result<Self, UrlError> {
        let (mut ssl, mut rest) = (Ssl::default(), Vec::new());
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        for (index, parameter) in parameters.enumerate() {
            let Some((name, value)) = parameter.split_once('=') else { return Err(UrlError::Malformed) };
            let decoded = || percent_decoded(value).map(Some).ok_or(UrlError::Malformed);
            match name {
                "sslmode" => ssl.mode = Some(value),
                "sslrootcert" => ssl.roots = decoded()?,
                "sslcert" => ssl.certificate = decoded()?,
                "sslkey" => ssl.key = decoded()?,
                name if KNOWN.contains(&name) => rest.push(parameter),
                // A `?` that is not encoded stands in the password.
                name if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                    return Err(UrlError::Malformed);
                }
                name => {
                    let other = OTHERS.iter().find(|(other, _)| *other == name);
                    return Err(other.map_or(UrlError::Unknown { position: index + 1 }, |(name, _)| {
                        UrlError::Unsupported { name }
                    }));
                }
            }
        }
        Ok(Self { ssl, rest })
    }
}

impl Ssl<'_> {
    /// What they say together; where they say nothing, certificates are checked unless the server is on this machine.
    pub(super) fn encryption(self, is_local: bool) -> Result<(Encryption, Option<ClientCertificate>), UrlError> {
        let Self { mode, roots, certificate, key } = self;
        let default = if is_local && roots.is_none() { "prefer" } else { "verify-full" };
        let system = roots.as_deref() == Some("system");
        let file = roots.as_ref().filter(|_| !system).map(PathBuf::from);
        let encryption = match mode.unwrap_or(default) {
            "verify-full" => Encryption::Verified { roots: file },
            "verify-ca" => Encryption::OfAuthority { roots: file.ok_or(UrlError::SystemRoots)? },
            "disable" => Encryption::Disabled,
            "prefer" => Encryption::Preferred,
            "require" => Encryption::Required,
            _ => return Err(UrlError::SslMode),
        };
        if roots.is_some() && !encryption.is_verified() {
            return Err(UrlError::SslRootCert);
        }
        let client_certificate = match (certificate, key) {
            (None, None) => None,
            (Some(chain), Some(key)) if encryption != Encryption::Disabled => {
                Some(ClientCertificate { chain: chain.into(), key: key.into() })
            }
            _ => return Err(UrlError::SslCert),
        };
        Ok((encryption, client_certificate))
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
