//! When the row of a silent replica may be deleted, so that it delays one revocation and not all. Pure.

use super::{Monotonic, ReplicaId, ReplicaRow};

/// Watches the rows of all replicas. One per process; its memory is bounded by the number of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reaper {
    watched: Vec<Watched>,
}

/// A row that may be deleted **on condition that it still has this number of renewals**: in one statement on the primary that
/// checks it. After a failover too: what is renewed on a new timeline drops its lease and joins under another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reaping {
    /// Whose row.
    pub id: ReplicaId,
    /// Its renewals, as they were watched.
    pub renewals: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Watched {
    row: Reaping,
    since: Monotonic,
}

impl Reaper {
    /// Takes a poll: all rows. `now` is read after the poll's answer, so that every renewal
    /// that it counts began before. Returns the rows that have not changed for as long as their lease can last.
    pub fn polled(&mut self, rows: &[ReplicaRow], now: Monotonic) -> Vec<Reaping> {
        let mut reapings = Vec::new();
        let watched = rows.iter().map(|row| {
            let seen = Reaping { id: row.id, renewals: row.renewals };
            let before = self.watched.iter().find(|watched| watched.row == seen);
            let since = before.map_or(now, |watched| watched.since);
            if now >= since + row.lease.waited_out() {
                reapings.push(seen);
            }
            Watched { row: seen, since }
        });
        self.watched = watched.collect();
        reapings
    }

    /// What is watched, and since when.
    pub fn watched(&self) -> impl Iterator<Item = (Reaping, Monotonic)> + '_ {
        self.watched.iter().map(|watched| (watched.row, watched.since))
    }
}
