//! A clock that a test sets.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use apikey_application::ports::Clock;
use apikey_domain::Timestamp;

/// A clock that stands still until a test moves it. Copies share the instant.
#[derive(Clone, Debug)]
pub struct FixedClock(Arc<Mutex<Timestamp>>);

impl FixedClock {
    /// A clock that stands at that instant.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// Moves the clock to that instant, forward or back.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().expect("no test panics while it sets the clock") = now;
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().expect("no test panics while it sets the clock");
        *now = now.saturating_add(by);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no test panics while it sets the clock")
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
        clock.set(an_instant());
        assert_eq!(copy.now(), an_instant());
    }
}
