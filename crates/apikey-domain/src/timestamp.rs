//! Instants as they are stored: whole microseconds since the Unix epoch. Never reads a clock.

use std::time::Duration;

/// An instant in UTC, in whole microseconds since 1970-01-01T00:00:00Z.
///
/// Microseconds are what both databases store, so that a value survives a round trip unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The instant lies outside the years 0001 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the instant lies outside the years 0001 to 9999")]
pub struct TimestampOutOfRange;

impl Timestamp {
    /// 0001-01-01T00:00:00Z, the earliest instant of `google.protobuf.Timestamp`.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// 9999-12-31T23:59:59.999999Z, the latest instant of `google.protobuf.Timestamp` in whole microseconds.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// The instant that many microseconds after the Unix epoch.
    ///
    /// # Errors
    /// [`TimestampOutOfRange`] before [`Timestamp::MIN`] or after [`Timestamp::MAX`].
    pub const fn from_unix_micros(micros: i64) -> Result<Self, TimestampOutOfRange> {
        if micros < Self::MIN.0 || micros > Self::MAX.0 { Err(TimestampOutOfRange) } else { Ok(Self(micros)) }
    }

    /// Microseconds since the Unix epoch, negative before it.
    #[must_use]
    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// This instant moved forward, at most to [`Timestamp::MAX`]; fractions of a microsecond are cut off.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros).min(Self::MAX.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        for (micros, legal) in [
            (Timestamp::MIN.0 - 1, false),
            (Timestamp::MIN.0, true),
            (0, true),
            (Timestamp::MAX.0, true),
            (Timestamp::MAX.0 + 1, false),
        ] {
            assert_eq!(Timestamp::from_unix_micros(micros).is_ok(), legal, "{micros}");
        }
    }

    #[test]
    fn addition_stops_at_the_latest_instant() {
        assert_eq!(Timestamp::MAX.saturating_add(Duration::from_micros(1)), Timestamp::MAX);
        assert_eq!(Timestamp(5).saturating_add(Duration::from_nanos(2_999)), Timestamp(7));
        assert_eq!(Timestamp(5).saturating_add(Duration::MAX), Timestamp::MAX);
    }
}
