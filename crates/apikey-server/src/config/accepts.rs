//! Which texts a setting accepts, and how they are said to people.

use std::{fmt, net::SocketAddr, time::Duration};

use apikey_domain::Actor;
use apikey_grpc::{client::ServiceAddress, web::AllowedOrigins};
use apikey_identity::{HttpProxy, JwksSource};
use apikey_store_postgres::Schema;

/// The legal texts of a setting. Its `Display` completes the sentence "… must be".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// An IP address and port.
    Address,
    /// `true` or `false`.
    Flag,
    /// A whole number within these bounds, both included.
    Integer { min: u32, max: u32 },
    /// A whole number and a unit, within these bounds, both included.
    Duration { min: Duration, max: Duration },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A path.
    Path,
    /// A line of 1 to that many characters.
    Line { max: usize },
    /// Lines of 1 to that many characters each, separated by commas.
    Lines { max: usize },
    /// Visible ASCII characters, so many of them.
    VisibleAscii { min: usize, max: usize },
    /// A URL that starts with one of these.
    Url(&'static [&'static str]),
    /// Where a service listens.
    ServiceAddress,
    /// The name of a schema of PostgreSQL.
    Schema,
    /// What can name the issuer of a token.
    Issuer,
    /// A path, or a URL that nobody on the way can answer for.
    Jwks,
    /// The URL of an HTTP proxy.
    HttpProxy,
    /// Origins of web pages, separated by commas.
    Origins,
}

impl Accepts {
    /// Whether the text is legal.
    pub(crate) fn accepts(self, text: &str) -> bool {
        match self {
            Self::Address => address(text).is_some(),
            Self::Flag => flag(text).is_some(),
            Self::Integer { min, max } => text.parse().is_ok_and(|number: u32| (min..=max).contains(&number)),
            Self::Duration { min, max } => duration(text).is_some_and(|duration| (min..=max).contains(&duration)),
            Self::OneOf(words) => words.contains(&text),
            Self::Path => !text.is_empty() && !text.contains('\0'),
            Self::Line { max } => is_line(text, max),
            Self::Lines { max } => list(text).all(|line| is_line(line, max)),
            Self::VisibleAscii { min, max } => {
                (min..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
            }
            Self::Url(starts) => is_url(text, starts),
            Self::ServiceAddress => text.parse::<ServiceAddress>().is_ok(),
            Self::Schema => Schema::parse(text).is_ok(),
            // Whether it can is the issuer's affair alone, whatever the subject.
            Self::Issuer => Actor::token(text, "subject").is_ok(),
            Self::Jwks => Self::Path.accepts(text) && JwksSource::parse(text).is_ok(),
            Self::HttpProxy => HttpProxy::parse(text).is_ok(),
            Self::Origins => text.parse::<AllowedOrigins>().is_ok(),
        }
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("an IP address and port, such as 127.0.0.1:8080 or [::1]:8080"),
            Self::Flag => f.write_str("true or false"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Duration { min, max } => {
                write!(f, "a duration from {} to {} (units ms, s, m, h, d)", Length(*min), Length(*max))
            }
            Self::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Self::Path => f.write_str("a path"),
            Self::Line { max } => write!(f, "1 to {max} characters on one line"),
            Self::Lines { max } => write!(f, "texts of 1 to {max} characters, separated by commas"),
            Self::VisibleAscii { min, max } => write!(f, "{min} to {max} visible ASCII characters"),
            Self::Url(starts) => write!(f, "a URL that starts with {}", starts.join(" or ")),
            Self::ServiceAddress => {
                f.write_str("http://host[:port] or https://host[:port], without user, password, path and query")
            }
            Self::Schema => f.write_str("1 to 63 characters out of a-z, 0-9 and _, no digit first, not pg_…"),
            Self::Issuer => {
                write!(f, "1 to {} bytes without white space and control characters", Actor::MAX_LENGTH)
            }
            Self::Jwks => {
                f.write_str("a path, or an https URL without user and password (http for loopback hosts alone)")
            }
            Self::HttpProxy => f.write_str("the URL of an HTTP proxy: http://[user:password@]host[:port], or with https"),
            Self::Origins => f.write_str(
                "origins separated by commas: https://host[:port] without a path (http for loopback hosts alone), and no *",
            ),
        }
    }
}

/// An IP address and port.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// The parts of a list that is separated by commas.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

/// A whole number and a unit: `500ms`, `5s`, `10m`, `12h`, `30d` (days of 24 hours).
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis_per_unit).map(Duration::from_millis)
}

/// A duration as it is written in a setting.
struct Length(Duration);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1_000) { write!(f, "{}s", millis / 1_000) } else { write!(f, "{millis}ms") }
    }
}

fn is_line(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn is_url(text: &str, starts: &[&str]) -> bool {
    let rest = starts.iter().find_map(|start| text.strip_prefix(start));
    rest.is_some_and(|rest| !rest.is_empty()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, millis) in
            [("500ms", 500), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), ("30d", 2_592_000_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "5 s", "5S", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn bounds_are_included_and_what_lies_beyond_them_is_refused() {
        let second = Duration::from_secs;
        let cases: [(Accepts, &[&str], &[&str]); 9] = [
            (Accepts::Address, &["127.0.0.1:0", "[::1]:65535"], &["localhost:80", "127.0.0.1", ":80", "1.2.3.4:65536"]),
            (Accepts::Integer { min: 2, max: 4 }, &["2", "4"], &["1", "5", "-3", "", "3.0"]),
            (Accepts::Duration { min: second(1), max: second(60) }, &["1s", "60s", "1m"], &["999ms", "61s", "5"]),
            (Accepts::OneOf(&["a", "b"]), &["a", "b"], &["A", "", "ab"]),
            (Accepts::VisibleAscii { min: 2, max: 3 }, &["ab", "~~~"], &["a", "abcd", "a b", "éé"]),
            (Accepts::Url(&["https://"]), &["https://x"], &["https://", "http://x", "https://a b"]),
            (Accepts::Lines { max: 2 }, &["ab", "a, b"], &["", "a,", "abc", "a\nb"]),
            (Accepts::Issuer, &["i", "https://issuer.example/"], &["", "a b", "a\n"]),
            (Accepts::Origins, &["https://a", "https://a:1, http://localhost"], &["*", "https://a/", "http://a"]),
        ];
        for (accepts, legal, illegal) in cases {
            assert!(legal.iter().all(|text| accepts.accepts(text)), "{accepts:?} {legal:?}");
            assert!(!illegal.iter().any(|text| accepts.accepts(text)), "{accepts:?} {illegal:?}");
        }
    }
}
