//! The machine's clocks and generator: the only place that reads them. Knows no rule.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use apikey_application::{
    fence::Monotonic,
    ports::{Clock, Entropy, EntropyError},
};
use apikey_domain::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// The machine's wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the adapter of the port through which everything else tells the time"
    )]
    fn now(&self) -> Timestamp {
        let (micros, latest) = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => (i64::try_from(since.as_micros()).unwrap_or(i64::MAX), Timestamp::MAX),
            Err(before) => {
                (i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros), Timestamp::MIN)
            }
        };
        Timestamp::from_unix_micros(micros).unwrap_or(latest)
    }

    fn monotonic(&self) -> Monotonic {
        monotonic()
    }
}

/// On Linux the clock goes on while the machine sleeps. Where there is no such clock, a machine that sleeps may answer by a lease
/// that has ended, until it renews: leave sleeping to machines that serve nobody.
fn monotonic() -> Monotonic {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    Monotonic::from_origin(Duration::new(seconds, nanos))
}

/// By how much the machine's clock may differ from the database's before it is said.
const LARGE_DIFFERENCE: Duration = Duration::from_secs(1);

/// The database's time, as the last renewal brought it, and the monotonic time since: the same on all replicas, whatever their
/// machines' clocks say.
#[derive(Debug)]
pub(crate) struct DatabaseClock {
    /// Microseconds from the monotonic clock's origin to the Unix epoch's.
    offset: AtomicI64,
    differs: AtomicBool,
}

impl DatabaseClock {
    /// A clock that shows the machine's own time until it is set.
    pub(crate) fn new() -> Self {
        let offset = SystemClock.now().unix_micros() - micros(monotonic());
        Self { offset: AtomicI64::new(offset), differs: AtomicBool::new(false) }
    }

    /// At that instant, or a little later, the database's clock showed that time.
    pub(crate) fn set(&self, at: Monotonic, time: Timestamp) {
        self.offset.store(time.unix_micros() - micros(at), Ordering::Relaxed);
        let difference = self.difference();
        metrics::gauge!("apikeys_clock_difference_seconds").set(difference.as_secs_f64());
        let differs = difference > LARGE_DIFFERENCE;
        if differs && !self.differs.swap(differs, Ordering::Relaxed) {
            let seconds = difference.as_secs_f64();
            tracing::warn!(seconds, "this machine's clock differs from the database's, which is the one that counts");
        }
        self.differs.store(differs, Ordering::Relaxed);
    }

    fn difference(&self) -> Duration {
        Duration::from_micros(self.now().unix_micros().abs_diff(SystemClock.now().unix_micros()))
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        self.now_by(monotonic())
    }

    fn now_by(&self, reading: Monotonic) -> Timestamp {
        let micros = micros(reading).saturating_add(self.offset.load(Ordering::Relaxed));
        Timestamp::from_unix_micros(micros).unwrap_or(if micros < 0 { Timestamp::MIN } else { Timestamp::MAX })
    }

    fn monotonic(&self) -> Monotonic {
        monotonic()
    }
}

fn micros(instant: Monotonic) -> i64 {
    i64::try_from(instant.since_origin().as_micros()).unwrap_or(i64::MAX)
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter of the port from which everything else draws")]
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(buffer).map_err(|error| EntropyError(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_s_time_counts_from_when_the_renewal_began() {
        let clock = DatabaseClock::new();
        assert!(clock.difference() < LARGE_DIFFERENCE, "until it is set, it shows the machine's");
        let an_hour_ago = SystemClock.now().unix_micros() - 3_600_000_000;
        let begun = clock.monotonic();
        clock.set(begun, Timestamp::from_unix_micros(an_hour_ago).unwrap());
        let since = micros(clock.monotonic()) - micros(begun);
        let now = clock.now().unix_micros();
        assert!((an_hour_ago..=an_hour_ago + since + 10_000_000).contains(&now), "{an_hour_ago} {now}");
        assert!(clock.differs.load(Ordering::Relaxed));
        clock.set(clock.monotonic(), SystemClock.now());
        assert!(!clock.differs.load(Ordering::Relaxed));
    }

    #[test]
    fn the_monotonic_clock_goes_forward() {
        let first = SystemClock.monotonic();
        assert!(first > Monotonic::ZERO && SystemClock.monotonic() >= first);
    }
}
