//! When a committed revocation may be answered with OK. Pure: polls and time come from outside.

use std::time::Duration;

use super::{Lease, Mark, Monotonic, ReplicaRow};
use crate::ports::Seq;

/// How much longer than the longest lease a confirmation may take: for connecting and polling.
const GRACE: Duration = Duration::from_secs(1);

/// A revocation that was committed and must yet reach every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Confirmation {
    commit: Seq,
    seen: Monotonic,
    longest: Lease,
}

/// How far a confirmation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// No replica accepts the key any more.
    Confirmed {
        /// How many replicas said so themselves.
        acknowledged: usize,
        /// For how many the end of their lease was waited for.
        waited_out: usize,
    },
    /// Poll again soon; at this instant at the latest, when the last of the leases that are waited for has ended.
    Waiting(Monotonic),
    /// The poll does not contain the commit, or not what this process itself has renewed: it was answered by a server that lags
    /// or is no longer the primary, or by another database. Poll again, on another connection.
    Foreign,
}

impl Confirmation {
    /// A revocation, or the repetition of one, with its own place in the sequence. `seen` is read after the commit's answer.
    /// `own` is this process's own lease, which bounds the time while no other is known.
    #[must_use]
    pub const fn new(commit: Seq, seen: Monotonic, own: Lease) -> Self {
        Self { commit, seen, longest: own }
    }

    /// Takes a poll: all rows, and the head of the same snapshot. `own` is this process's own mark, as it was before the poll
    /// began. `now` is read after the poll's answer.
    ///
    /// Its own row must acknowledge the revocation, and is not waited out: it is the proof that the poll was answered where this
    /// process renews, by a database that has the commit in its past, and not by a copy of it.
    ///
    /// A row that is missing is no reason to wait: its replica has dropped its lease, or was watched until it had none. One
    /// that joins later begins with this revocation applied.
    pub fn polled(&mut self, head: Seq, rows: &[ReplicaRow], own: Mark, now: Monotonic) -> Progress {
        let own = rows.iter().find(|row| row.mark().follows(own));
        let Some(own) = own.filter(|_| head.contains(self.commit)) else {
            return Progress::Foreign;
        };
        let (mut acknowledged, mut waited_out, mut until) = (0, 0, None);
        for row in rows {
            self.longest = self.longest.max(row.lease);
            let ends = self.seen + row.lease.waited_out();
            if row.acked >= self.commit.number {
                acknowledged += 1;
            } else if now >= ends && row.id != own.id {
                waited_out += 1;
            } else {
                until = until.max(Some(ends));
            }
        }
        until.map_or(Progress::Confirmed { acknowledged, waited_out }, Progress::Waiting)
    }

    /// When to give up and answer that the revocation is committed, not confirmed.
    #[must_use]
    pub fn gives_up_at(&self) -> Monotonic {
        self.seen + self.longest.waited_out() + GRACE
    }

    /// Since when the leases are waited for.
    #[must_use]
    pub const fn seen(&self) -> Monotonic {
        self.seen
    }

    /// What must be acknowledged.
    #[must_use]
    pub const fn commit(&self) -> Seq {
        self.commit
    }
}
