//! One part of the cache: a map with a bound on its memory. Knows no lock and no rule of the fence.
//!
//! Where there is no room, a key goes that was not asked for since the hand of the clock passed it last (Corbató's CLOCK, 1969).

use std::{hint::black_box, sync::Arc};

use apikey_domain::KeyDigest;
use hashbrown::HashTable;

use super::{CacheStatistics, CachedKey, Hit};
use crate::fence::Monotonic;

/// After so many seconds, give or take [`JITTER`], a record is read again: the most that changes made by hand, past the service,
/// go unnoticed.
const READ_AGAIN: u32 = 600;
const JITTER: u32 = 60;

/// After so many seconds somebody else is asked to read it again, where the first could not.
const ASK_ANOTHER: u32 = 30;

/// How many keys that were asked for lately the hand passes before it takes one of them all the same.
const LONGEST_SEARCH: usize = 32;

/// What a key's allocation takes: its fields, and the counters before them.
const KEY_BYTES: usize = size_of::<CachedKey>() + 16;

/// What the smallest table takes, at most.
const SMALLEST_TABLE: usize = 64;

/// Keys by their digests.
pub(super) struct Shard {
    keys: HashTable<Arc<CachedKey>>,
    /// A place in the table.
    hand: usize,
    limit: usize,
    /// What the keys take, without the table.
    key_bytes: usize,
    statistics: CacheStatistics,
}

impl Shard {
    pub(super) fn new(limit: usize) -> Self {
        let statistics = CacheStatistics::default();
        Self { keys: HashTable::new(), hand: 0, limit, key_bytes: 0, statistics }
    }

    pub(super) fn look(&mut self, digest: &KeyDigest, now: Monotonic) -> Option<Hit> {
        let hit = self.look_again(digest, now);
        if hit.is_some() {
            self.statistics.hits += 1;
        } else {
            self.statistics.misses += 1;
        }
        hit
    }

    /// The same for whoever was counted already.
    pub(super) fn look_again(&self, digest: &KeyDigest, now: Monotonic) -> Option<Hit> {
        self.look_ahead(digest);
        let key = self.keys.find(hash(digest), |key| key.digest() == digest)?;
        Some(Hit { due: key.ask(seconds(now), ASK_ANOTHER), key: Arc::clone(key) })
    }

    /// Reads of whichever key stands where this one would stand if nobody had been there before, which mostly is this one. A
    /// processor does so while it still finds out where the key really is: of a million keys, none is in its cache, and each of
    /// these steps would otherwise begin when the one before has ended.
    fn look_ahead(&self, digest: &KeyDigest) {
        let place = usize::try_from(hash(digest)).unwrap_or(0) & (self.keys.num_buckets() - 1);
        black_box(self.keys.get_bucket(place).map(|key| key.has_use()));
    }

    /// Puts a key in its place. A key that is larger than all the room there is stays out.
    pub(super) fn insert(&mut self, key: Arc<CachedKey>, now: Monotonic) {
        key.read_again_at(seconds(now).saturating_add(READ_AGAIN - JITTER + jitter(key.digest())));
        self.remove(key.digest());
        let bytes = bytes_of(&key);
        while !self.has_room(bytes) {
            if self.keys.is_empty() {
                return;
            }
            self.displace_one();
        }
        self.key_bytes += bytes;
        self.keys.insert_unique(hash(key.digest()), key, |key| hash(key.digest()));
    }

    pub(super) fn remove(&mut self, digest: &KeyDigest) {
        if let Ok(found) = self.keys.find_entry(hash(digest), |key| key.digest() == digest) {
            let (key, _) = found.remove();
            self.key_bytes -= bytes_of(&key);
        }
    }

    pub(super) fn clear(&mut self) {
        let statistics = self.statistics;
        *self = Self { statistics, ..Self::new(self.limit) };
    }

    pub(super) fn add_to(&self, sum: CacheStatistics) -> CacheStatistics {
        let CacheStatistics { hits, misses, displaced, .. } = self.statistics;
        CacheStatistics {
            keys: sum.keys + self.keys.len(),
            bytes: sum.bytes + self.key_bytes + self.keys.allocation_size(),
            hits: sum.hits + hits,
            misses: sum.misses + misses,
            displaced: sum.displaced + displaced,
        }
    }

    /// Whether so much more fits, and the table too should it have to double for it.
    fn has_room(&self, bytes: usize) -> bool {
        let table = self.keys.allocation_size();
        let is_full = self.keys.len() == self.keys.capacity();
        let table = if is_full { (2 * table).max(SMALLEST_TABLE) } else { table };
        self.key_bytes + bytes + table <= self.limit
    }

    fn displace_one(&mut self) {
        let mut passed = 0;
        for _ in 0..self.keys.num_buckets() {
            self.hand = if self.hand + 1 < self.keys.num_buckets() { self.hand + 1 } else { 0 };
            let Ok(place) = self.keys.get_bucket_entry(self.hand) else { continue };
            if place.get().take_asked_for() && passed < LONGEST_SEARCH {
                passed += 1;
                continue;
            }
            let (key, _) = place.remove();
            self.key_bytes -= bytes_of(&key);
            self.statistics.displaced += 1;
            return;
        }
    }
}

fn bytes_of(key: &CachedKey) -> usize {
    KEY_BYTES + key.own_bytes()
}

/// A digest is its own hash: nobody can choose keys, so that nobody can choose where they stand.
const fn hash(digest: &KeyDigest) -> u64 {
    let Some(first) = digest.as_bytes().first_chunk() else { return 0 };
    u64::from_le_bytes(*first)
}

/// Differs from key to key, so that keys that came together are not read again together.
const fn jitter(digest: &KeyDigest) -> u32 {
    let [.., second_last, _] = *digest.as_bytes();
    second_last as u32 % (2 * JITTER + 1)
}

fn seconds(instant: Monotonic) -> u32 {
    u32::try_from(instant.since_origin().as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::tests::{a_key, digest},
        *,
    };

    const ROOM: usize = 64 * 1024;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_secs(seconds))
    }

    fn filled(keys: u32) -> Shard {
        let mut shard = Shard::new(ROOM);
        for number in 0..keys {
            shard.insert(a_key(number), at(0));
        }
        shard
    }

    fn statistics(shard: &Shard) -> CacheStatistics {
        shard.add_to(CacheStatistics::default())
    }

    #[test]
    fn keys_are_found_where_others_have_come_and_gone() {
        let mut shard = filled(200);
        for number in (0..200).step_by(3) {
            shard.remove(&digest(number));
        }
        for number in (0..200).step_by(2) {
            shard.insert(a_key(number), at(0));
        }
        for number in 0..200 {
            let found = shard.look(&digest(number), at(0)).map(|hit| hit.key.id());
            let expected = (number % 2 == 0 || number % 3 != 0).then(|| a_key(number).id());
            assert_eq!(found, expected, "{number}");
        }
        for number in 0..200 {
            shard.remove(&digest(number));
        }
        assert_eq!((statistics(&shard).keys, shard.key_bytes), (0, 0));
    }

    #[test]
    fn memory_stays_within_its_bound_and_keys_that_are_asked_for_stay() {
        let mut shard = filled(100);
        for number in 100..5_000 {
            for asked in 0..20 {
                assert!(shard.look(&digest(asked), at(0)).is_some(), "{asked} was displaced by {number}");
            }
            shard.insert(a_key(number), at(0));
            assert!(statistics(&shard).bytes <= ROOM);
        }
        let CacheStatistics { keys, bytes, displaced, .. } = statistics(&shard);
        assert!(displaced > 0 && keys > ROOM / 200 && bytes > ROOM / 2, "{keys} keys in {bytes} bytes");
        assert_eq!(u64::try_from(keys).unwrap() + displaced, 5_000);
    }

    #[test]
    fn a_shard_without_room_holds_nothing() {
        let mut shard = Shard::new(100);
        shard.insert(a_key(1), at(0));
        assert!(shard.look(&digest(1), at(0)).is_none());
    }

    #[test]
    fn a_record_is_due_after_about_ten_minutes_and_one_asker_is_told() {
        let mut shard = filled(256);
        let due: Vec<bool> = (0..256).map(|number| shard.look(&digest(number), at(600)).unwrap().due).collect();
        assert!(due.contains(&true) && due.contains(&false), "they come one after the other");
        for number in 0..256 {
            assert!(!filled(256).look(&digest(number), at(539)).unwrap().due);
        }
        let mut due_at = |seconds| shard.look(&digest(7), at(seconds)).unwrap().due;
        assert_eq!([661, 662, 690, 691].map(&mut due_at), [true, false, false, true]);
        shard.insert(a_key(7), at(691));
        assert!(!shard.look(&digest(7), at(1_200)).unwrap().due);
    }
}
