//! One part of the cache: a map with a bound on its memory. Knows no lock and no rule of the fence.
//!
//! Where there is no room, a key goes that was not asked for since the hand of the clock passed it last (Corbató's CLOCK, 1969).

use std::{mem, sync::Arc};

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

/// What a key's allocation takes: its fields, the counters before them, and the allocator's rounding.
const KEY_BYTES: usize = size_of::<CachedKey>() + 32;

/// What an entry's place takes at most: five bytes in a table of up to four times the size that is needed, since tables double,
/// and places that were left can make them double once more.
const PLACE_BYTES: usize = 23;

struct Entry {
    digest: KeyDigest,
    key: Arc<CachedKey>,
    /// In seconds since the clock's origin.
    read_again_at: u32,
    asked_for: bool,
}

/// Keys by their digests.
pub(super) struct Shard {
    /// Where in `entries` a digest stands.
    places: HashTable<u32>,
    entries: Vec<Entry>,
    hand: u32,
    limit: usize,
    /// What the keys take, without the tables.
    key_bytes: usize,
    statistics: CacheStatistics,
}

impl Shard {
    pub(super) fn new(limit: usize) -> Self {
        let statistics = CacheStatistics::default();
        Self { places: HashTable::new(), entries: Vec::new(), hand: 0, limit, key_bytes: 0, statistics }
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
    pub(super) fn look_again(&mut self, digest: &KeyDigest, now: Monotonic) -> Option<Hit> {
        let place = self.place(digest)?;
        let entry = self.entries.get_mut(place as usize)?;
        entry.asked_for = true;
        let now = seconds(now);
        let due = now >= entry.read_again_at;
        if due {
            entry.read_again_at = now.saturating_add(ASK_ANOTHER);
        }
        Some(Hit { key: Arc::clone(&entry.key), due })
    }

    /// Puts a key in its place. A key that is larger than all the room there is stays out.
    pub(super) fn insert(&mut self, digest: KeyDigest, key: Arc<CachedKey>, now: Monotonic) {
        let read_again_at = seconds(now).saturating_add(READ_AGAIN - JITTER + jitter(&digest));
        self.remove(&digest);
        let bytes = KEY_BYTES + key.own_bytes();
        while !self.has_room(bytes) {
            if self.entries.is_empty() {
                return;
            }
            self.displace_one();
        }
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(growth(self.entries.len()));
        }
        let Ok(place) = u32::try_from(self.entries.len()) else { return };
        self.entries.push(Entry { digest, key, read_again_at, asked_for: false });
        self.key_bytes += bytes;
        let Self { places, entries, .. } = self;
        places.insert_unique(hash(&digest), place, |place| hash_at(entries, *place));
    }

    pub(super) fn remove(&mut self, digest: &KeyDigest) {
        if let Some(place) = self.place(digest) {
            self.remove_at(place);
        }
    }

    pub(super) fn clear(&mut self) {
        let statistics = self.statistics;
        *self = Self { statistics, ..Self::new(self.limit) };
    }

    pub(super) fn add_to(&self, sum: CacheStatistics) -> CacheStatistics {
        let CacheStatistics { hits, misses, displaced, .. } = self.statistics;
        CacheStatistics {
            keys: sum.keys + self.entries.len(),
            bytes: sum.bytes + self.bytes(self.entries.capacity()),
            hits: sum.hits + hits,
            misses: sum.misses + misses,
            displaced: sum.displaced + displaced,
        }
    }

    fn place(&self, digest: &KeyDigest) -> Option<u32> {
        let is_it = |place: &u32| self.entries.get(*place as usize).is_some_and(|entry| entry.digest == *digest);
        self.places.find(hash(digest), is_it).copied()
    }

    fn bytes(&self, capacity: usize) -> usize {
        self.key_bytes + capacity * (size_of::<Entry>() + PLACE_BYTES)
    }

    fn has_room(&self, bytes: usize) -> bool {
        let (length, capacity) = (self.entries.len(), self.entries.capacity());
        let grown = if length < capacity { capacity } else { length + growth(length) };
        self.bytes(grown) + bytes <= self.limit
    }

    fn displace_one(&mut self) {
        for _ in 0..LONGEST_SEARCH {
            self.hand = if (self.hand as usize + 1) < self.entries.len() { self.hand + 1 } else { 0 };
            let Some(entry) = self.entries.get_mut(self.hand as usize) else { return };
            if !mem::take(&mut entry.asked_for) {
                break;
            }
        }
        self.remove_at(self.hand);
        self.statistics.displaced += 1;
    }

    /// The last entry takes the place of the one that goes.
    fn remove_at(&mut self, place: u32) {
        let Some(gone) = self.entries.get(place as usize) else { return };
        self.key_bytes -= KEY_BYTES + gone.key.own_bytes();
        if let Ok(found) = self.places.find_entry(hash(&gone.digest), |other| *other == place) {
            found.remove();
        }
        self.entries.swap_remove(place as usize);
        // Where the last one itself went, nobody stands there now.
        if let (Some(moved), Ok(last)) = (self.entries.get(place as usize), u32::try_from(self.entries.len()))
            && let Some(found) = self.places.find_mut(hash(&moved.digest), |other| *other == last)
        {
            *found = place;
        }
    }
}

/// By how many entries the room grows: a quarter, so that little of it stands empty.
fn growth(length: usize) -> usize {
    (length / 4).max(4)
}

fn hash_at(entries: &[Entry], place: u32) -> u64 {
    entries.get(place as usize).map_or(0, |entry| hash(&entry.digest))
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

    use super::{super::tests::a_key, *};

    const ROOM: usize = 64 * 1024;

    fn digest(number: u32) -> KeyDigest {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes[30] = number.to_le_bytes()[0];
        KeyDigest::from_bytes(bytes)
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_secs(seconds))
    }

    fn filled(keys: u32) -> Shard {
        let mut shard = Shard::new(ROOM);
        for number in 0..keys {
            shard.insert(digest(number), a_key(number), at(0));
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
            shard.insert(digest(number), a_key(1_000 + number), at(0));
        }
        for number in 0..200 {
            let found = shard.look(&digest(number), at(0)).map(|hit| hit.key.id());
            let expected = match (number % 2, number % 3) {
                (0, _) => Some(a_key(1_000 + number).id()),
                (_, 0) => None,
                _ => Some(a_key(number).id()),
            };
            assert_eq!(found, expected, "{number}");
        }
        for number in 0..200 {
            shard.remove(&digest(number));
        }
        assert_eq!((statistics(&shard).keys, shard.key_bytes, shard.places.len()), (0, 0, 0));
    }

    #[test]
    fn memory_stays_within_its_bound_and_keys_that_are_asked_for_stay() {
        let mut shard = filled(100);
        for number in 100..5_000 {
            for asked in 0..20 {
                assert!(shard.look(&digest(asked), at(0)).is_some(), "{asked} was displaced by {number}");
            }
            shard.insert(digest(number), a_key(number), at(0));
            assert!(statistics(&shard).bytes <= ROOM);
            assert!(shard.places.allocation_size() <= shard.entries.capacity() * PLACE_BYTES + 64);
        }
        let CacheStatistics { keys, bytes, displaced, .. } = statistics(&shard);
        assert!(displaced > 0 && keys > ROOM / 300 && bytes > ROOM / 2, "{keys} keys in {bytes} bytes");
        assert_eq!(u64::try_from(keys).unwrap() + displaced, 5_000);
    }

    #[test]
    fn a_shard_without_room_holds_nothing() {
        let mut shard = Shard::new(100);
        shard.insert(digest(1), a_key(1), at(0));
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
        shard.insert(digest(7), a_key(7), at(691));
        assert!(!shard.look(&digest(7), at(1_200)).unwrap().due);
    }
}
