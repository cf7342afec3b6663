//! How long a lease lasts, for who holds it and for who waits for its end. Reads no clock.

use std::{ops::Add, time::Duration};

/// An instant of this machine's monotonic clock: the time since some fixed instant of its past. It MUST go on while the
/// machine sleeps (`CLOCK_BOOTTIME`), or a lease outlives its end. Instants of two machines are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// Before every instant that a clock reads: as a deadline, no lease.
    pub const ZERO: Self = Self(Duration::ZERO);
    /// After every instant that a clock reads.
    pub const MAX: Self = Self(Duration::MAX);

    /// The instant that lies so long after the clock's origin.
    #[must_use]
    pub const fn from_origin(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// How long after the clock's origin.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    /// Stops at [`Monotonic::MAX`].
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// By how much a clock may run fast or slow: 1 %, a hundred times what quartz does.
const DRIFT_PERCENT: u32 = 1;

/// What is left for the grain of clocks and the rounding of this arithmetic.
const SLACK: Duration = Duration::from_millis(50);

/// A replica's *T*: how long its leases last, 1 to 60 s.
///
/// Short confirms a revocation fast past a dead replica; long rides out an outage of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(Duration);

/// The lease is not between 1 and 60 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease lasts 1 to 60 s")]
pub struct LeaseOutOfRange;

impl Lease {
    /// The shortest lease.
    pub const MIN: Self = Self(Duration::from_secs(1));
    /// The longest lease.
    pub const MAX: Self = Self(Duration::from_mins(1));
    /// What is used unless something else is configured.
    pub const DEFAULT: Self = Self(Duration::from_secs(3));

    /// A lease of that length.
    ///
    /// # Errors
    /// [`LeaseOutOfRange`] below [`Lease::MIN`] or above [`Lease::MAX`].
    pub fn new(length: Duration) -> Result<Self, LeaseOutOfRange> {
        let lease = Self(length);
        if (Self::MIN..=Self::MAX).contains(&lease) { Ok(lease) } else { Err(LeaseOutOfRange) }
    }

    /// *T* itself.
    #[must_use]
    pub const fn length(self) -> Duration {
        self.0
    }

    /// How long the holder may use it by its own clock, from before the renewal was sent: *T*(1 − 1 %) − 50 ms.
    #[must_use]
    pub fn held(self) -> Duration {
        self.0.saturating_sub(self.0 * DRIFT_PERCENT / 100 + SLACK)
    }

    /// How long anybody else must wait by their own clock until it has ended: *T*(1 + 1 %) + 50 ms.
    #[must_use]
    pub fn waited_out(self) -> Duration {
        self.0 + self.0 * DRIFT_PERCENT / 100 + SLACK
    }

    /// How long after its beginning a renewal is followed by the next, and how long it may take: *T*/3.
    #[must_use]
    pub fn renewal_interval(self) -> Duration {
        self.0 / 3
    }

    /// When a lease ends whose renewal began at `begun`.
    pub(super) fn deadline(self, begun: Monotonic) -> Monotonic {
        begun + self.held()
    }

    /// Whether the lease with that deadline came from a renewal that began after `instant`.
    pub(super) fn renewed_after(self, deadline: Monotonic, instant: Monotonic) -> bool {
        deadline > instant + self.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_stops_before_the_others_stop_waiting_even_if_both_clocks_are_off() {
        for lease in [Lease::MIN, Lease::DEFAULT, Lease::MAX] {
            let slow_holder = lease.held().as_secs_f64() / 0.99;
            let fast_waiter = lease.waited_out().as_secs_f64() / 1.01;
            assert!(slow_holder < lease.length().as_secs_f64() && lease.length().as_secs_f64() < fast_waiter);
        }
        assert_eq!(Lease::DEFAULT.held(), Duration::from_millis(2_920));
        assert_eq!(Lease::DEFAULT.waited_out(), Duration::from_millis(3_080));
        assert_eq!(Lease::DEFAULT.renewal_interval(), Duration::from_secs(1));
    }

    #[test]
    fn bounds_are_inclusive() {
        let millis = |millis| Lease::new(Duration::from_millis(millis));
        assert_eq!(millis(1_000), Ok(Lease::MIN));
        assert_eq!(millis(60_000), Ok(Lease::MAX));
        assert_eq!(millis(999), Err(LeaseOutOfRange));
        assert_eq!(millis(60_001), Err(LeaseOutOfRange));
    }
}
