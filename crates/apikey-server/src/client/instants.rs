//! Instants between RFC 3339 and the domain.

use std::time::Duration;

use apikey_application::ports::Clock as _;
use apikey_domain::Timestamp;

use crate::system::SystemClock;

/// An instant in RFC 3339, in UTC, with the fraction that it has.
pub(super) fn rfc3339(instant: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(instant.unix_micros())
        .map_or_else(|_| String::new(), |instant| instant.to_string())
}

/// The same to the second, for tables.
pub(super) fn to_the_second(instant: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(instant.unix_micros())
        .map_or_else(|_| String::new(), |instant| format!("{instant:.0}"))
}

/// Reads RFC 3339 with any offset. What is finer than a microsecond is cut off.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    Timestamp::from_unix_micros(instant.as_microsecond()).ok()
}

/// That long from now.
pub(super) fn after(duration: Duration) -> Timestamp {
    SystemClock.now().saturating_add(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_survive_being_written_and_read() {
        for (text, written) in [
            ("2027-01-31T00:00:00Z", "2027-01-31T00:00:00Z"),
            ("2027-01-31T01:30:00.000001+01:30", "2027-01-31T00:00:00.000001Z"),
            ("2027-01-31T00:00:00.1234567Z", "2027-01-31T00:00:00.123456Z"),
        ] {
            assert_eq!(parse(text).map(rfc3339).as_deref(), Some(written), "{text}");
        }
        assert_eq!(parse("2027-01-31T00:00:00.9Z").map(to_the_second).as_deref(), Some("2027-01-31T00:00:00Z"));
        for illegal in ["", "tomorrow", "2027-01-31", "2027-01-31T00:00:00"] {
            assert_eq!(parse(illegal), None, "{illegal}");
        }
    }
}
