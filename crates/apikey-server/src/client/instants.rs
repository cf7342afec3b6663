//! Instants between RFC 3339 and the domain, from the year 0001 to the end of 9999.
//!
//! By civil time and not by `jiff::Timestamp`, which ends a day before the year 9999 does.

use apikey_domain::Timestamp;
use jiff::{SignedDuration, civil::DateTime, fmt::temporal::Pieces};

const UNIX_EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
const NANOS_PER_MICRO: i128 = 1_000;

/// An instant in RFC 3339, in UTC, with the fraction that it has.
pub(super) fn rfc3339(instant: Timestamp) -> String {
    format!("{}Z", civil(instant))
}

/// The same to the second, for tables.
pub(super) fn to_the_second(instant: Timestamp) -> String {
    format!("{:.0}Z", civil(instant))
}

/// Reads RFC 3339 with any offset. What is finer than a microsecond is cut off.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let pieces = Pieces::parse(text).ok()?;
    if pieces.time_zone_annotation().is_some() {
        return None;
    }
    let offset = SignedDuration::from_secs(pieces.to_numeric_offset()?.seconds().into());
    let since = pieces.date().to_datetime(pieces.time()?).duration_since(UNIX_EPOCH).checked_sub(offset)?;
    let micros = i64::try_from(since.as_nanos().div_euclid(NANOS_PER_MICRO)).ok()?;
    Timestamp::from_unix_micros(micros).ok()
}

/// The date and time in UTC. Every `Timestamp` has one, so that nothing saturates.
fn civil(instant: Timestamp) -> DateTime {
    UNIX_EPOCH.saturating_add(SignedDuration::from_micros(instant.unix_micros()))
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
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("0001-01-01T00:00:00.000001Z", "0001-01-01T00:00:00.000001Z"),
            ("0001-01-01T01:00:00+01:00", "0001-01-01T00:00:00Z"),
            ("1969-12-31T23:59:59.9999999Z", "1969-12-31T23:59:59.999999Z"),
            ("9999-12-30T22:00:01Z", "9999-12-30T22:00:01Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("9999-12-31T22:59:59.999999-01:00", "9999-12-31T23:59:59.999999Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(parse(text).map(rfc3339).as_deref(), Some(written), "{text}");
        }
        assert_eq!(parse("2027-01-31T00:00:00.9Z").map(to_the_second).as_deref(), Some("2027-01-31T00:00:00Z"));
        assert_eq!(to_the_second(Timestamp::MIN), "0001-01-01T00:00:00Z");
        assert_eq!(to_the_second(Timestamp::MAX), "9999-12-31T23:59:59Z");
        for illegal in [
            "",
            "tomorrow",
            "2027-01-31",
            "2027-01-31T00:00:00",
            "2027-02-29T00:00:00Z",
            "2027-01-31T00:00:00Z[UTC]",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "10000-01-01T00:00:00Z",
            "+010000-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(illegal), None, "{illegal}");
        }
    }
}
