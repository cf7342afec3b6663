//! The `Date` of an answer (RFC 9110, section 6.6.1).
//!
//! hyper's own panics where the clock shows a year that an HTTP date cannot express. Such an answer has no date here. hyper's HTTP/1.1
//! looks at the clock in any case, whenever a connection makes progress, so that it cannot be spoken then.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use httpdate::HttpDate;

/// The first second after 9999, since 1970: four digits are all that an HTTP date has for a year.
const END: u64 = 253_402_300_800;

/// Why HTTP/1.1 is not spoken.
pub(super) const IMPOSSIBLE: &str =
    "the machine's clock is outside of the years 1970 to 9999: HTTP/1.1 cannot be spoken";

thread_local! {
    /// The last second that was asked for on this thread, and its date.
    static LAST: RefCell<(u64, Option<HeaderValue>)> = const { RefCell::new((u64::MAX, None)) };
}

/// Today's date and time; `None` before 1970 and after 9999.
pub(super) fn now() -> Option<HeaderValue> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the date of an answer is the machine's, and nothing is decided by it"
    )]
    at(SystemTime::now())
}

/// Whether there is no such date.
pub(super) fn is_impossible() -> bool {
    now().is_none()
}

fn at(now: SystemTime) -> Option<HeaderValue> {
    let second = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    LAST.with_borrow_mut(|(last, date)| {
        if *last != second {
            (*last, *date) = (second, written(second));
        }
        date.clone()
    })
}

fn written(second: u64) -> Option<HeaderValue> {
    let instant = (second < END).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(second))?;
    HeaderValue::try_from(HttpDate::from(instant).to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_date_from_1970_to_9999_and_none_before_and_after() {
        let at = |second: i64| {
            let distance = Duration::from_secs(second.unsigned_abs());
            let epoch = SystemTime::UNIX_EPOCH;
            let instant = if second < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
            at(instant.unwrap()).map(|date| date.to_str().unwrap().to_owned())
        };
        assert_eq!(at(0).unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(784_111_777).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778).unwrap(), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(at(253_402_300_799).unwrap(), "Fri, 31 Dec 9999 23:59:59 GMT");
        for outside in [-1, -62_135_596_800, 253_402_300_800, i64::MAX / 4] {
            assert_eq!(at(outside), None, "{outside}");
        }
    }
}
