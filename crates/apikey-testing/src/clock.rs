//! A clock that a test sets.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use apikey_application::{fence::Monotonic, ports::Clock};
use apikey_domain::Timestamp;

/// A clock that stands still until a test moves it. Copies share the instant.
///
/// Its monotonic side moves on by a nanosecond with each reading, so that no two readings are equal.
#[derive(Clone, Debug)]
pub struct FixedClock(Arc<Mutex<Timestamp>>, Arc<AtomicU64>);

/// What the monotonic side shows first, in nanoseconds: long enough after its origin that all leases can have ended.
const FIRST: u64 = 1_000_000_000_000;

impl FixedClock {
    /// A clock that stands at that instant.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(now)), Arc::new(AtomicU64::new(FIRST)))
    }

    /// Moves the clock to that instant, forward or back.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().expect("no test panics while it sets the clock") = now;
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().expect("no test panics while it sets the clock");
        *now = now.saturating_add(by);
        self.1.fetch_add(u64::try_from(by.as_nanos()).expect("less than 584 years"), Ordering::AcqRel);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no test panics while it sets the clock")
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_origin(Duration::from_nanos(self.1.fetch_add(1, Ordering::AcqRel)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::an_instant;

    #[test]
    fn copies_share_the_instant() {
        let clock = FixedClock::at(an_instant());
        let copy = clock.clone();
        copy.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), an_instant().saturating_add(Duration::from_secs(1)));
        assert!(clock.monotonic() < copy.monotonic());
        clock.set(an_instant());
        assert_eq!(copy.now(), an_instant());
    }
}
