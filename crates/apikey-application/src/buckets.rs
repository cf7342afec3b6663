//! So many events in a second, for each of those who share a service, in bounded memory. Pure: it is told the time.
//!
//! Of each is kept one instant: when all that it has done would be over, had it kept to the rate (the generic cell rate algorithm).

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::fence::Monotonic;

/// Of how many something is remembered, at least. Twice as many at most, of some 100 bytes each.
const REMEMBERED: usize = 8_192;

/// How much of its rate each has left.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    /// What one event takes.
    interval: Duration,
    /// By how much one may be ahead of its rate.
    tolerance: Duration,
    over_at: Mutex<Generations<K>>,
}

/// Whoever has done nothing for as long as others filled a generation is forgotten with it.
#[derive(Debug)]
struct Generations<K> {
    young: HashMap<K, Monotonic>,
    old: HashMap<K, Monotonic>,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// So many events a second, and after a pause so many at once; at least one.
    pub(crate) fn new(per_second: NonZeroU32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.get();
        let over_at = Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() });
        Self { interval, tolerance: interval * burst.max(1), over_at }
    }

    /// Whether it has anything left.
    pub(crate) fn has_room(&self, who: &K, now: Monotonic) -> bool {
        self.over_at().get(who).is_none_or(|over_at| over_at + self.interval <= now + self.tolerance)
    }

    /// Counts an event, also where nothing is left: then it takes longer until something is.
    pub(crate) fn count(&self, who: &K, now: Monotonic) {
        let mut over_at = self.over_at();
        let over = over_at.get(who).map_or(now, |over| over.max(now));
        over_at.set(who, over + self.interval);
    }

    /// Counts an event if there is room for it, and says so.
    pub(crate) fn take(&self, who: &K, now: Monotonic) -> bool {
        let has_room = self.has_room(who, now);
        if has_room {
            self.count(who, now);
        }
        has_room
    }

    /// Of how many something is remembered.
    #[cfg(test)]
    fn remembered(&self) -> usize {
        let over_at = self.over_at();
        over_at.young.len() + over_at.old.len()
    }

    /// A panic elsewhere leaves nothing half changed.
    fn over_at(&self) -> MutexGuard<'_, Generations<K>> {
        self.over_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Generations<K> {
    fn get(&self, who: &K) -> Option<Monotonic> {
        self.young.get(who).or_else(|| self.old.get(who)).copied()
    }

    fn set(&mut self, who: &K, over_at: Monotonic) {
        if let Some(known) = self.young.get_mut(who) {
            *known = over_at;
            return;
        }
        if self.young.len() >= REMEMBERED {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(who.clone(), over_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_secs(1_000) + Duration::from_millis(millis))
    }

    fn two_a_second_and_three_at_once() -> Buckets<u32> {
        Buckets::new(NonZeroU32::new(2).unwrap(), 3)
    }

    #[test]
    fn after_a_burst_the_rate_is_kept_and_a_pause_gives_the_burst_back() {
        let buckets = two_a_second_and_three_at_once();
        let taken = |at: Monotonic| (0..10).filter(|_| buckets.take(&1, at)).count();
        assert_eq!(taken(at(0)), 3);
        assert_eq!((taken(at(499)), taken(at(500)), taken(at(2_000))), (0, 1, 3));
        assert_eq!(taken(at(60_000)), 3);
        assert!(buckets.take(&2, at(60_000)), "others are not concerned");
    }

    #[test]
    fn what_is_counted_without_room_has_to_be_waited_for() {
        let buckets = two_a_second_and_three_at_once();
        for _ in 0..5 {
            buckets.count(&1, at(0));
        }
        assert!(!buckets.has_room(&1, at(1_499)) && buckets.has_room(&1, at(1_500)));
    }

    #[test]
    fn memory_is_bounded_and_the_latest_are_remembered() {
        let buckets = two_a_second_and_three_at_once();
        for who in 0..100_000 {
            for _ in 0..3 {
                buckets.count(&who, at(0));
            }
            assert!(buckets.remembered() <= 2 * REMEMBERED);
        }
        let forgotten = (0..100_000).filter(|who| buckets.has_room(who, at(0))).count();
        assert!((100_000 - 2 * REMEMBERED..=100_000 - REMEMBERED).contains(&forgotten), "{forgotten}");
        assert!(!buckets.has_room(&99_999, at(0)));
    }
}
