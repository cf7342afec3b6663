//! What a verification must prove before it answers. Pure: it is given what the fence has published.
//!
//! The steps are types, so that none can be left out or come too early: an [`Arrival`] is admitted, an [`Admitted`] notes
//! what is applied, a [`Waiter`] looks in memory and, on a miss, judges what was read from the store.

use super::{Lease, Monotonic};
use crate::ports::Seq;

/// A verification whose request has been read. Not earlier: a process that was stopped answers, once it wakes, requests that
/// were queued meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arrival {
    at: Monotonic,
    strict: bool,
}

impl Arrival {
    /// `at` is read after the request was. `strict` asks for proof of freshness by a renewal of its own.
    #[must_use]
    pub const fn new(at: Monotonic, strict: bool) -> Self {
        Self { at, strict }
    }

    /// When the request was there.
    #[must_use]
    pub const fn at(self) -> Monotonic {
        self.at
    }

    /// Whether it may be answered, by the published `deadline` and the time `now`, read after the arrival: under a lease, or
    /// after a renewal that began after the arrival.
    ///
    /// # Errors
    /// The arrival itself, where it must wait for the next renewal and ask again.
    pub fn admit(self, lease: Lease, deadline: Monotonic, now: Monotonic) -> Result<Admitted, Self> {
        let under_lease = !self.strict && now < deadline;
        if under_lease || lease.renewed_after(deadline, self.at) {
            Ok(Admitted { arrived: self.at })
        } else {
            Err(self)
        }
    }
}

/// A verification that may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Admitted {
    arrived: Monotonic,
}

impl Admitted {
    /// Notes what is published as `applied`, before memory is looked at.
    #[must_use]
    pub const fn note(self, applied: Seq) -> Waiter {
        Waiter { arrived: self.arrived, noted: applied }
    }
}

/// A verification that may be answered from memory, or by a read of the store that it finds good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    arrived: Monotonic,
    noted: Seq,
}

/// What a [`Waiter`] does with a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ruling {
    /// Answers by it.
    Take,
    /// Reads again, on another connection: this one has spoken to a server that lags, or that is no longer the primary.
    ReadAgain,
    /// Judges the same read again after a renewal that began after its arrival.
    AwaitRenewal,
    /// Begins anew with the admission: this replica has joined again, and may follow another history now.
    BeginAnew,
}

impl Waiter {
    /// What was published as `applied` when it began to look.
    #[must_use]
    pub const fn noted(&self) -> Seq {
        self.noted
    }

    /// Judges a read that found the key, by the place in the sequence that it brought along. `applied` is what is published
    /// now.
    #[must_use]
    pub fn judge_record(&self, read: Seq, applied: Seq) -> Ruling {
        if may_cache(read, self.noted) {
            Ruling::Take
        } else if same_life(applied, self.noted) {
            Ruling::ReadAgain
        } else {
            Ruling::BeginAnew
        }
    }

    /// Judges a read that found no such key. Creates do not move the head, so that its place in the sequence proves little:
    /// the read must have `begun` after the arrival, on a server that was the primary after the arrival, which a renewal
    /// proves. `deadline` and `applied` are what is published now, read in this order.
    #[must_use]
    pub fn judge_absence(
        &self,
        read: Seq,
        begun: Monotonic,
        lease: Lease,
        deadline: Monotonic,
        applied: Seq,
    ) -> Ruling {
        match self.judge_record(read, applied) {
            Ruling::Take if !same_life(applied, self.noted) => Ruling::BeginAnew,
            Ruling::Take if begun <= self.arrived => Ruling::ReadAgain,
            Ruling::Take if !lease.renewed_after(deadline, self.arrived) => Ruling::AwaitRenewal,
            ruling => ruling,
        }
    }
}

/// Whether a record that was read at `read` may enter the cache. To be asked with what is published as `applied` **under the
/// lock of the record's shard, in one step with the insert**: evictions take that lock after `applied` was raised.
#[must_use]
pub fn may_cache(read: Seq, applied: Seq) -> bool {
    read.contains(applied)
}

/// Whether this replica has followed one history, under one id, from one to the other.
fn same_life(applied: Seq, noted: Seq) -> bool {
    let replica = |seq: Seq| seq.mark.map(|mark| mark.replica);
    applied.timeline == noted.timeline && replica(applied) == replica(noted)
}
