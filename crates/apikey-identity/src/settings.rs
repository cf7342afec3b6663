//! What a deployment says about its issuer, and the bounds of each value. Reads no environment and no file.

use std::{fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use apikey_domain::{Actor, PermissionCatalogue};
use reqwest::Url;

use crate::{claims::ClaimRules, jwks_document::JwksError, proxy::HttpProxy};

/// How the tokens of one issuer are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// The exact value of `iss`: 1 to 255 bytes without white space.
    pub issuer: String,
    /// The accepted values of `aud`, at least one; a token needs one of them.
    pub audiences: Vec<String>,
    /// Where the issuer's keys are.
    pub jwks: JwksSource,
    /// The proxy that an `https` address beyond loopback is fetched through; by default none. The environment is not read.
    pub proxy: Option<HttpProxy>,
    /// The claim that names the organization. By default `custom:org_id`, as Pidgr's tokens have it.
    pub organization_claim: String,
    /// The claim that lists permissions, as an array of names or as one string with spaces between them. By default
    /// `permissions`.
    pub permissions_claim: String,
    /// How far the issuer's clock may be off when `exp` and `nbf` are checked: 0 to 300 s, by default 30 s.
    pub leeway: Duration,
    /// How often the keys are fetched anew, give or take 10 %: 1 s to 24 h, by default 10 min.
    pub refresh_interval: Duration,
    /// How long after a fetch no token with an unknown `kid` can cause another: 0 to 1 h, by default 30 s. Zero leaves it to
    /// strangers how often the issuer is asked.
    pub cool_down: Duration,
}

impl JwtSettings {
    /// The bounds of [`leeway`](Self::leeway).
    pub const LEEWAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(5);
    /// The bounds of [`refresh_interval`](Self::refresh_interval).
    pub const REFRESH_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
    /// The bounds of [`cool_down`](Self::cool_down).
    pub const COOL_DOWN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

    /// Settings with the default of everything that has one.
    #[must_use]
    pub fn new(issuer: impl Into<String>, audiences: Vec<String>, jwks: JwksSource) -> Self {
        Self {
            issuer: issuer.into(),
            audiences,
            jwks,
            proxy: None,
            organization_claim: "custom:org_id".to_owned(),
            permissions_claim: "permissions".to_owned(),
            leeway: Duration::from_secs(30),
            refresh_interval: Duration::from_mins(10),
            cool_down: Duration::from_secs(30),
        }
    }

    /// The rules for claims, once every value has been found to be in its bounds.
    pub(crate) fn rules(&self, catalogue: PermissionCatalogue) -> Result<ClaimRules, JwtSetupError> {
        let Self {
            issuer,
            audiences,
            jwks: _,
            proxy: _,
            organization_claim,
            permissions_claim,
            leeway,
            refresh_interval,
            cool_down,
        } = self;
        // The subject stands in for those of tokens to come; the issuer is what is checked.
        Actor::token(issuer, "subject").map_err(|_| JwtSetupError::Issuer)?;
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(JwtSetupError::Audiences);
        }
        for (name, claim) in
            [("the organization claim", organization_claim), ("the permissions claim", permissions_claim)]
        {
            if claim.is_empty() {
                return Err(JwtSetupError::EmptyClaimName(name));
            }
        }
        for (name, value, bounds) in [
            ("leeway", leeway, Self::LEEWAY),
            ("refresh interval", refresh_interval, Self::REFRESH_INTERVAL),
            ("cool-down", cool_down, Self::COOL_DOWN),
        ] {
            if !bounds.contains(value) {
                return Err(JwtSetupError::OutOfBounds { name, bounds });
            }
        }
        Ok(ClaimRules {
            issuer: issuer.clone(),
            audiences: audiences.clone(),
            organization_claim: organization_claim.clone(),
            permissions_claim: permissions_claim.clone(),
            leeway: *leeway,
            catalogue,
        })
    }
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// A file, read at start and again at each refresh.
    File(PathBuf),
    /// An address, fetched from start on.
    Url(JwksUrl),
}

impl JwksSource {
    /// An address where the text contains `://`, otherwise the path of a file.
    ///
    /// # Errors
    /// [`JwksUrlError`] for an address that is not accepted.
    pub fn parse(text: &str) -> Result<Self, JwksUrlError> {
        if text.contains("://") { JwksUrl::parse(text).map(Self::Url) } else { Ok(Self::File(text.into())) }
    }
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// The address of a JWKS: `https`, or `http` on the loopback interface (`localhost`, 127.0.0.0/8, `[::1]`).
///
/// Its `Display` and `Debug` leave the query out.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksUrl(Url);

/// The text is not the address of a JWKS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an https address without user and password; http is for loopback hosts alone")]
pub struct JwksUrlError;

impl JwksUrl {
    /// Accepts an address that nobody on the way can answer for.
    ///
    /// # Errors
    /// [`JwksUrlError`] for every other text.
    pub fn parse(text: &str) -> Result<Self, JwksUrlError> {
        let url = Url::parse(text).map_err(|_| JwksUrlError)?;
        let credentials = !url.username().is_empty() || url.password().is_some();
        match url.scheme() {
            "https" if !credentials => Ok(Self(url)),
            "http" if !credentials && is_loopback(&url) => Ok(Self(url)),
            _ => Err(JwksUrlError),
        }
    }

    /// Whether TLS proves who answers.
    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether a proxy may stand in between: only where TLS proves who answers, and never on the way to this machine itself.
    #[must_use]
    pub fn may_use_proxy(&self) -> bool {
        self.is_https() && !is_loopback(&self.0)
    }

    /// The address for a request.
    pub(crate) fn get(&self) -> Url {
        self.0.clone()
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.origin().ascii_serialization(), self.0.path())
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwksUrl({self})")
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The settings cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum JwtSetupError {
    /// The issuer cannot name an actor.
    #[error("the issuer must be 1 to {max} bytes without white space and control characters", max = Actor::MAX_LENGTH)]
    Issuer,
    /// There is no audience, or an empty one.
    #[error("at least one audience is needed, and none may be empty")]
    Audiences,
    /// A claim has no name.
    #[error("{0} must not be empty")]
    EmptyClaimName(&'static str),
    /// A duration is too short or too long.
    #[error("the {name} must be {} to {} seconds", bounds.start().as_secs(), bounds.end().as_secs())]
    OutOfBounds {
        /// Which one.
        name: &'static str,
        /// What is accepted.
        bounds: RangeInclusive<Duration>,
    },
    /// The file with the issuer's keys cannot be used.
    #[error("the keys in {path} cannot be used")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: JwksError,
    },
    /// There can be no connections by TLS, as a rule since the system has no CA certificates.
    #[error("the client for the issuer's keys cannot be set up")]
    Client(#[source] JwksError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_nobody_on_the_way_can_answer_for_are_accepted() {
        for legal in [
            "https://issuer.example/jwks.json",
            "https://127.0.0.1:8443/jwks",
            "http://127.0.0.1:1/jwks",
            "http://127.8.9.10/",
            "http://[::1]:8080/jwks",
            "http://localhost/jwks",
        ] {
            assert!(matches!(JwksSource::parse(legal), Ok(JwksSource::Url(_))), "{legal}");
        }
        for illegal in [
            "http://issuer.example/jwks.json",
            "http://10.0.0.1/jwks",
            "http://127.0.0.1.example.com/jwks",
            "http://localhost.example.com/jwks",
            "http://[::2]/jwks",
            "http://0.0.0.0/jwks",
            "https://user:password@issuer.example/jwks",
            "https://user@issuer.example/jwks",
            "ftp://127.0.0.1/jwks",
            "file:///etc/jwks.json",
            "https://",
        ] {
            assert_eq!(JwksSource::parse(illegal), Err(JwksUrlError), "{illegal}");
        }
        assert_eq!(JwksSource::parse("keys/jwks.json"), Ok(JwksSource::File("keys/jwks.json".into())));
    }

    #[test]
    fn the_query_of_an_address_is_not_shown() {
        let url = JwksUrl::parse("https://issuer.example:8443/jwks?code=hidden#hidden").unwrap();
        assert_eq!(url.to_string(), "https://issuer.example:8443/jwks");
        assert_eq!(format!("{url:?}"), "JwksUrl(https://issuer.example:8443/jwks)");
    }
}
