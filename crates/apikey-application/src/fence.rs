//! The fence: why a revoked key is dead on every replica before its revocation returns. Pure and synchronous.
//!
//! A replica may answer from memory only while it holds a *lease*. A lease comes from a *renewal* alone: one write on the
//! database's primary, which acknowledges what this replica has applied and brings every digest revoked since. A revoker
//! waits until each replica has acknowledged its revocation, or until a lease that did not know of it must have ended. The
//! idea is Gray and Cheriton's ("Leases", SOSP 1989), with renewals that carry the number of the last revocation.
//!
//! | who | file |
//! |---|---|
//! | the replica's renewal task: [`Fence`] | this one |
//! | its verifications: [`Arrival`], [`Waiter`], [`may_cache`] | `verification.rs` |
//! | who revokes: [`Confirmation`] | `confirmation.rs` |
//! | who clears up behind dead replicas: [`Reaper`] | `reaper.rs` |
//! | how long a lease lasts: [`Lease`], [`Monotonic`] | `lease.rs` |
//!
//! Nothing here knows a clock, a connection, a task or a lock: events come in with the time at which they happened, effects
//! go out. **The order of the effects is the protocol**: whoever carries them out does so one after the other, and hands in
//! no event before the effects of the one before are done.

mod confirmation;
mod lease;
mod reaper;
mod verification;

use std::time::Duration;

use apikey_domain::KeyDigest;
use uuid::Uuid;

use crate::ports::Seq;

pub use confirmation::{Confirmation, Progress};
pub use lease::{Lease, LeaseOutOfRange, Monotonic};
pub use reaper::{Reaper, Reaping};
pub use verification::{Admitted, Arrival, Ruling, Waiter, may_cache};

/// Renewals that waiting requests ask for begin at least this far apart, so that a crowd of them shares one.
const ASKED_APART: Duration = Duration::from_millis(10);

/// Renewals that strangers ask for begin at least this far apart from any other: each is a write on the primary, and anybody can make
/// up a key. Less than a refusal takes at least (`REFUSAL` in `apikey-grpc`), so that an unknown key cannot be told from a revoked one.
const STRANGERS_APART: Duration = Duration::from_millis(250);

/// After a failure the next attempt begins this much later, unless a waiting request asks for it sooner.
const RETRY: Duration = Duration::from_millis(250);

/// At most so many statements of one replica may be unanswered. The database's side of a closed connection lives on while it
/// waits for a standby, so that each statement given up may hold a backend there.
const UNANSWERED_LIMIT: u8 = 4;

/// A replica as the others know it. Fresh for each attempt to join: a row with a used id could be acknowledged by an old
/// INSERT that commits late, or deleted by somebody who watched the row's former life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(u128);

impl ReplicaId {
    /// The id as a UUID, as it is stored.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        Uuid::from_u128(self.0)
    }

    /// An id as it was stored.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id.as_u128())
    }
}

/// What a replica has left in the database: its row, and in it the number of the renewal that wrote it last.
///
/// It tells one history from another. A renewal is committed only where the row shows the last one whose answer is known, and
/// its number is never used again. So whatever shows this number or a greater one in that row has this renewal, and all that
/// it brought, in its past; a database that was restored from before it does not, nor does a copy that was made before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Whose row.
    pub replica: ReplicaId,
    /// The number of the renewal; 0 for the row as it was made.
    pub renewal: u64,
}

impl Mark {
    /// Whether this was read where the other one is in the past.
    #[must_use]
    pub fn follows(self, earlier: Self) -> bool {
        self.replica == earlier.replica && self.renewal >= earlier.renewal
    }
}

/// A replica's row, as revokers and reapers read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaRow {
    /// Whose row.
    pub id: ReplicaId,
    /// The number up to which that replica has applied every revocation.
    pub acked: u64,
    /// The number of the last renewal that was committed; grows with each.
    pub renewals: u64,
    /// How long that replica's leases last: others wait by this, so that it can be changed by a rolling restart.
    pub lease: Lease,
}

impl ReplicaRow {
    /// What its replica has left there.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { replica: self.id, renewal: self.renewals }
    }
}

/// Which statement an answer belongs to. Numbers are never used twice by one [`Fence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statement(u64);

impl Statement {
    /// Its number: greater than that of every statement before it.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// What the renewal task must do now, in this order and one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Publish this as `applied`: from now on, nothing older may enter the cache.
    RaiseApplied(Seq),
    /// Take these keys out of the cache, each under its shard's lock.
    Evict(Vec<KeyDigest>),
    /// Empty the cache, each shard under its lock.
    EvictAll,
    /// Publish this as the deadline of the lease; [`Monotonic::ZERO`] drops it.
    PublishDeadline(Monotonic),
    /// Wake everybody who waits for a renewal: they decide anew.
    WakeWaiters,
    /// Close the connection of that statement, without a cancel: a commit that is cancelled while it waits for its standby
    /// reports success.
    CloseConnection(Statement),
    /// Delete that row, if the database can be reached. Nobody waits for the answer.
    DeleteRow(ReplicaId),
    /// In one plain INSERT, make a row with this id, `acked` = the head as that statement reads it. Answer by
    /// [`Fence::joined`] or [`Fence::lost`].
    Join(Statement, ReplicaId),
    /// In one autocommitted UPDATE of the row with that mark in its past, set `acked` to this number, write the statement's own
    /// number, and bring the head and every digest with a greater number than `acked`, all of one snapshot. Answer by
    /// [`Fence::renewed`], [`Fence::row_gone`], [`Fence::other_history`] or [`Fence::lost`].
    Renew(Statement, Mark, u64),
}

/// A replica's membership and lease, driven by its one renewal task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    lease: Lease,
    process: u128,
    joins: u32,
    statements: u64,
    unanswered: u8,
    phase: Phase,
    /// When the next statement should begin, if none is in flight.
    due: Monotonic,
    last_begun: Monotonic,
    /// Hints are followed from then on.
    hints_from: Monotonic,
    /// The latest renewal brought revocations, so that the next is their acknowledgement.
    acknowledges: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Out { joining: Option<(InFlight, ReplicaId)> },
    In { mark: Mark, applied: Seq, renewal: Option<InFlight> },
    Left,
}

/// A statement whose answer is wanted. `begun` is the time before a connection was sought for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    statement: Statement,
    begun: Monotonic,
}

impl Fence {
    /// A replica that has not joined. `process` is random, and another one for each start of the process: the ids of its
    /// joins are derived from its upper 96 bits.
    #[must_use]
    pub const fn new(lease: Lease, process: Uuid) -> Self {
        Self {
            lease,
            process: process.as_u128(),
            joins: 0,
            statements: 0,
            unanswered: 0,
            phase: Phase::Out { joining: None },
            due: Monotonic::ZERO,
            last_begun: Monotonic::ZERO,
            hints_from: Monotonic::ZERO,
            acknowledges: false,
        }
    }

    /// When [`Fence::tick`] has something to do, unless an answer comes first.
    #[must_use]
    pub fn next_tick(&self) -> Monotonic {
        match self.in_flight() {
            Some(_) if self.unanswered >= UNANSWERED_LIMIT => Monotonic::MAX,
            Some(in_flight) => in_flight.begun + self.lease.renewal_interval(),
            None if self.phase == Phase::Left => Monotonic::MAX,
            None => self.due,
        }
    }

    /// A waiting request needs a renewal that begins after now.
    pub fn asked(&mut self) {
        self.due = self.due.min(self.last_begun + ASKED_APART);
    }

    /// The same for somebody who is not known: it waits longer where others do not ask.
    pub fn asked_by_stranger(&mut self) {
        self.due = self.due.min(self.last_begun + STRANGERS_APART);
    }

    /// There may be a new revocation. Anybody in the database can say so: after a renewal that brought none, the next hint is
    /// followed 10 ms after it had begun.
    pub fn hinted(&mut self, now: Monotonic) {
        self.due = self.due.min(now.max(self.hints_from));
    }

    /// Time has passed. Gives up a statement that was not answered in time, and begins the next one when it is due. `now` is
    /// read before the call: a renewal's lease counts from it, whenever the statement is sent.
    pub fn tick(&mut self, now: Monotonic) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(in_flight) = self.in_flight() {
            if now < self.next_tick() {
                return effects;
            }
            // It stays counted as unanswered: nobody knows when the database will be done with it.
            effects.push(Effect::CloseConnection(in_flight.statement));
            self.forget_in_flight();
            self.due = now;
        }
        if now >= self.due && self.phase != Phase::Left {
            effects.push(self.begin(now));
        }
        effects
    }

    fn begin(&mut self, now: Monotonic) -> Effect {
        self.statements += 1;
        self.unanswered += 1;
        self.last_begun = now;
        self.due = now + self.lease.renewal_interval();
        let in_flight = InFlight { statement: Statement(self.statements), begun: now };
        if let Phase::In { mark, applied, renewal } = &mut self.phase {
            *renewal = Some(in_flight);
            return Effect::Renew(in_flight.statement, *mark, applied.number);
        }
        self.joins = self.joins.wrapping_add(1);
        let id = ReplicaId(self.process & !u128::from(u32::MAX) | u128::from(self.joins));
        self.phase = Phase::Out { joining: Some((in_flight, id)) };
        Effect::Join(in_flight.statement, id)
    }

    /// The row is there, made on a database whose head was `head`. Grants no lease: only a renewal does.
    pub fn joined(&mut self, statement: Statement, head: Seq, now: Monotonic) -> Vec<Effect> {
        match self.phase {
            Phase::Out { joining: Some((in_flight, replica)) } if in_flight.statement == statement => {
                self.unanswered = 0;
                self.due = now;
                let mark = Mark { replica, renewal: 0 };
                let applied = Seq { mark: Some(mark), ..head };
                self.phase = Phase::In { mark, applied, renewal: None };
                // In this order, so that no older read slips in behind the broom.
                vec![Effect::RaiseApplied(applied), Effect::EvictAll]
            }
            _ => Vec::new(),
        }
    }

    /// The renewal was committed: `head` and the digests revoked since are of its snapshot.
    pub fn renewed(&mut self, statement: Statement, head: Seq, revoked: Vec<KeyDigest>, now: Monotonic) -> Vec<Effect> {
        let Some((begun, replica, applied)) = self.answered(statement) else { return Vec::new() };
        if head.timeline != applied.timeline || head.number < applied.number {
            // A failover, or a table that was put back by hand: what was applied may not be what is recorded there.
            return self.drop_out(Some(replica), now);
        }
        let mark = Mark { replica, renewal: statement.number() };
        let brings = head.number > applied.number;
        // Without anything new, reads that began before this renewal are as good as those that begin after it.
        let head = if brings { Seq { mark: Some(mark), ..head } } else { applied };
        self.phase = Phase::In { mark, applied: head, renewal: None };
        let mut effects = Vec::with_capacity(4);
        let acknowledged = std::mem::replace(&mut self.acknowledges, brings);
        if !acknowledged && !self.acknowledges {
            self.hints_from = begun + ASKED_APART;
        }
        if brings {
            effects.extend([Effect::RaiseApplied(head), Effect::Evict(revoked)]);
            // At once again: that renewal is the acknowledgement.
            self.due = now;
        }
        effects.extend([Effect::PublishDeadline(self.lease.deadline(begun)), Effect::WakeWaiters]);
        effects
    }

    /// The renewal found no row: somebody took this replica for dead.
    pub fn row_gone(&mut self, statement: Statement, now: Monotonic) -> Vec<Effect> {
        self.answered(statement).map(|_| self.drop_out(None, now)).unwrap_or_default()
    }

    /// The row is there and lacks what this replica has renewed: the database was restored to an earlier state, or is another
    /// one. Revocations that are recorded there may not be among those that were applied.
    pub fn other_history(&mut self, statement: Statement, now: Monotonic) -> Vec<Effect> {
        self.answered(statement).map(|(_, row, _)| self.drop_out(Some(row), now)).unwrap_or_default()
    }

    /// The statement failed or its connection broke, and no answer will come. It may have been committed all the same, now or
    /// later. A lease that is held goes on until its deadline.
    pub fn lost(&mut self, statement: Statement, now: Monotonic) {
        if self.in_flight().is_some_and(|in_flight| in_flight.statement == statement) {
            self.unanswered = self.unanswered.saturating_sub(1);
            self.forget_in_flight();
            self.due = now + RETRY;
        }
    }

    /// This replica leaves for good, so that nobody has to wait for it. An answer that is still under way is not taken any
    /// more: no lease can follow.
    pub fn leave(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        effects.extend(self.in_flight().map(|in_flight| Effect::CloseConnection(in_flight.statement)));
        // First the deadline, then the row: while the row is there, others wait for the lease.
        effects.push(Effect::PublishDeadline(Monotonic::ZERO));
        match self.phase {
            Phase::Out { joining: Some((_, replica)) } | Phase::In { mark: Mark { replica, .. }, .. } => {
                effects.push(Effect::DeleteRow(replica));
            }
            Phase::Out { joining: None } | Phase::Left => {}
        }
        effects.push(Effect::WakeWaiters);
        self.phase = Phase::Left;
        effects
    }

    /// Whether [`Fence::leave`] was called.
    #[must_use]
    pub const fn has_left(&self) -> bool {
        matches!(self.phase, Phase::Left)
    }

    /// What this replica knows to stand in the database: under which id it has joined, and its last renewal that was answered.
    #[must_use]
    pub const fn mark(&self) -> Option<Mark> {
        match self.phase {
            Phase::In { mark, .. } => Some(mark),
            Phase::Out { .. } | Phase::Left => None,
        }
    }

    /// What the next renewal will acknowledge.
    #[must_use]
    pub const fn applied(&self) -> Option<Seq> {
        match self.phase {
            Phase::In { applied, .. } => Some(applied),
            Phase::Out { .. } | Phase::Left => None,
        }
    }

    /// Since when the statement is in flight whose answer is awaited.
    #[must_use]
    pub fn in_flight_since(&self) -> Option<Monotonic> {
        self.in_flight().map(|in_flight| in_flight.begun)
    }

    /// How many statements were sent whose end is not known; at most 4.
    #[must_use]
    pub const fn unanswered(&self) -> u8 {
        self.unanswered
    }

    const fn in_flight(&self) -> Option<InFlight> {
        match self.phase {
            Phase::Out { joining: Some((in_flight, _)) } => Some(in_flight),
            Phase::In { renewal, .. } => renewal,
            Phase::Out { joining: None } | Phase::Left => None,
        }
    }

    const fn forget_in_flight(&mut self) {
        match &mut self.phase {
            Phase::Out { joining } => *joining = None,
            Phase::In { renewal, .. } => *renewal = None,
            Phase::Left => {}
        }
    }

    /// The database has answered the renewal that is awaited. Whatever was sent before it is taken to have ended too: writes
    /// are answered in the order of the log, once the standby has it.
    const fn answered(&mut self, statement: Statement) -> Option<(Monotonic, ReplicaId, Seq)> {
        match self.phase {
            Phase::In { mark, applied, renewal: Some(in_flight) } if in_flight.statement.0 == statement.0 => {
                self.unanswered = 0;
                Some((in_flight.begun, mark.replica, applied))
            }
            _ => None,
        }
    }

    /// First the lease, then the row; then a new one under another id.
    fn drop_out(&mut self, row: Option<ReplicaId>, now: Monotonic) -> Vec<Effect> {
        self.phase = Phase::Out { joining: None };
        self.due = now;
        let mut effects = vec![Effect::PublishDeadline(Monotonic::ZERO)];
        effects.extend(row.map(Effect::DeleteRow));
        effects
    }
}
