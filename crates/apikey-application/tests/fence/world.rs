//! The modelled world: a database that may fail over, a network, replicas whose every decision is made by the production
//! [`Fence`], revokers, a reaper, and a clock. One [`Action`] is one atomic step; between any two a process may pause.
//!
//! Reads may be begun by anybody at any time, and verifications are followed only where they could break the promise: this
//! allows more than the real service does, so that what holds here holds there.

use apikey_application::{
    fence::{
        Admitted, Arrival, Confirmation, Fence, Lease, Mark, Monotonic, Reaper, ReplicaId, ReplicaRow, Statement,
        Waiter,
    },
    ports::Seq,
};
use uuid::Uuid;

use crate::{
    database::{Database, Record, Rows},
    setup::{Setup, Trap},
};

pub(crate) const KEYS: usize = 2;
pub(crate) const MESSAGES: usize = 6;
pub(crate) const FLIGHTS: usize = 2;
const QUEUE: usize = 8;
/// By how much real time every reading of a clock moves on, so that no two readings are equal.
pub(crate) const READING_MILLIS: u64 = 10;

/// The whole state. `N` replicas.
#[derive(Clone)]
pub(crate) struct World<const N: usize> {
    pub(crate) now_millis: u64,
    /// The primary.
    pub(crate) main: Database,
    /// After a failover, the isolated old primary; or a copy of the database. It answers reads; what it writes is never replicated
    /// and never answered.
    pub(crate) old: Option<Database>,
    /// What the database can be restored from.
    pub(crate) dump: Option<Database>,
    pub(crate) restored: bool,
    /// The head when the database was copied.
    pub(crate) copied_at: u64,
    /// With an asynchronous standby: the primary as it was one commit ago.
    pub(crate) behind: Option<Database>,
    pub(crate) messages: [Option<Message>; MESSAGES],
    pub(crate) replicas: [Replica; N],
    pub(crate) revokers: [Revoker; 2],
    pub(crate) reaper: Reaper,
    pub(crate) creation: Creation,
    /// What clients know: these revocations have returned OK.
    pub(crate) confirmed: [bool; KEYS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Creation {
    None,
    Committed,
    Acknowledged,
}

/// A replica's process.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) fence: Fence,
    pub(crate) queue: Queue,
    /// What the fence's effects have published.
    pub(crate) applied: Seq,
    pub(crate) deadline: Monotonic,
    pub(crate) cache: [Option<Record>; KEYS],
    pub(crate) flights: [Option<Flight>; FLIGHTS],
    pub(crate) verifier: Verifier,
    pub(crate) crashes_left: u8,
    /// Left, but the fence was not told.
    pub(crate) left_silently: bool,
    /// For how long this machine's clock has stood still.
    pub(crate) lag_millis: u64,
    pub(crate) drift_per_million: i64,
}

/// The fence's effects that are still to be carried out, one step each.
#[derive(Clone, Copy)]
pub(crate) struct Queue {
    pub(crate) steps: [Step; QUEUE],
    pub(crate) length: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Raise(Seq),
    Evict(usize),
    Publish(Monotonic),
    Send(What),
    Close(Statement),
}

/// A statement under way, its execution, and the way of its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) from: usize,
    pub(crate) what: What,
    pub(crate) wanted: bool,
    pub(crate) stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Join(Statement, ReplicaId),
    Renew(Statement, Mark, u64),
    Delete(ReplicaId),
    Reap(apikey_application::fence::Reaping),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Sent,
    /// Only where a statement wrongly sees two snapshots.
    HalfDone([bool; KEYS]),
    /// Executed where no answer will ever come from.
    Unanswerable,
    Joined(Seq),
    Renewed(Seq, [bool; KEYS]),
    Gone,
    OtherHistory,
}

/// A read of the store that whoever waits for the key shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flight {
    pub(crate) key: usize,
    pub(crate) begun: Monotonic,
    /// Only where record and head are wrongly of two snapshots.
    pub(crate) half: Option<Record>,
    pub(crate) result: Option<(Record, Seq)>,
    /// Only where the check is wrongly made apart from the insert.
    pub(crate) approved: bool,
}

/// A verification that began after the key's revocation had returned OK, or after its creation had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Followed {
    pub(crate) key: usize,
    pub(crate) at: Monotonic,
    pub(crate) strict: bool,
    /// Whether the revocation had returned OK when it began.
    pub(crate) revoked: bool,
}

/// How far a verification that is followed is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verifier {
    Idle,
    /// Only where the lease is wrongly checked before the request was read.
    CheckedEarly(Admitted),
    Arrived {
        followed: Followed,
        arrival: Arrival,
        noted_early: Seq,
    },
    Admitted {
        followed: Followed,
        admitted: Admitted,
        noted_early: Option<Seq>,
    },
    Noted {
        followed: Followed,
        waiter: Waiter,
        noted: Seq,
        looked: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Revoker {
    pub(crate) key: Option<usize>,
    pub(crate) stage: Revoking,
    /// A poll whose answer is under way: the head, the rows, and what this revoker's own replica has acknowledged there.
    pub(crate) poll: Option<(Seq, Rows, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Revoking {
    Idle,
    /// Only where numbers come from a sequence, not from the locked head.
    Numbered(u64),
    /// Only where the wait is counted from before the commit.
    Watched(Monotonic),
    Committed(Seq, Option<Monotonic>),
    Confirming(Confirmation),
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    Main,
    Old,
}

/// One atomic step of somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    TimePasses(u64),
    SleepsWithClockStopped(usize),
    FailsOver,
    Dumps,
    Restores,
    IsCopied,
    Begins(usize),
    GivesUp(usize),
    LosesConnection(usize),
    Vanishes(usize),
    Executes(usize, Server),
    AnswerArrives(usize),
    CarriesOut(usize),
    Leaves(usize),
    Crashes(usize),
    BeginsRead(usize, usize),
    Reads(usize, usize, Server),
    ReadsAtOnce(usize, usize, Server),
    Fills(usize, usize),
    ChecksEarly(usize),
    Arrives { replica: usize, key: usize, strict: bool },
    IsAdmitted(usize),
    Notes(usize),
    Looks(usize),
    Judges(usize, usize),
    Creates,
    CreateReturns,
    LooksAtClock(usize),
    TakesNumber(usize),
    Revokes(usize, Server),
    SeesCommit(usize),
    Polls(usize, Server),
    TakesPoll(usize),
    ReaperPolls(Server),
}

/// The promise was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// A key was accepted by a verification that began after its revocation had returned OK.
    StaleAccept,
    /// A key was called unknown by a verification that began after its creation had returned OK.
    Forgotten,
}

impl Queue {
    pub(crate) const EMPTY: Self = Self { steps: [Step::Evict(0); QUEUE], length: 0 };

    pub(crate) fn push(&mut self, step: Step) {
        self.steps[self.length] = step;
        self.length += 1;
    }

    pub(crate) fn pending(&self) -> &[Step] {
        &self.steps[..self.length]
    }

    pub(crate) fn pop(&mut self) -> Step {
        let first = self.steps[0];
        self.steps.copy_within(1..self.length, 0);
        self.length -= 1;
        first
    }
}

impl Replica {
    fn new(process: u128, lease: Lease, crashes_left: u8) -> Self {
        Self {
            fence: Fence::new(lease, Uuid::from_u128(process << 32)),
            queue: Queue::EMPTY,
            applied: Seq::new(0, 0),
            deadline: Monotonic::ZERO,
            cache: [None; KEYS],
            flights: [None; FLIGHTS],
            verifier: Verifier::Idle,
            crashes_left,
            left_silently: false,
            lag_millis: 0,
            drift_per_million: 0,
        }
    }

    /// Another process in this one's place: its memory is gone, its statements may still be under way.
    pub(crate) fn restart(&mut self, index: usize, lease: Lease) {
        let left = self.crashes_left - 1;
        // The machine's clock and its drift stay what they are.
        let (lag_millis, drift_per_million) = (self.lag_millis, self.drift_per_million);
        let process = (index as u128 + 1) * 1_000 + u128::from(left) + 1;
        *self = Self { lag_millis, drift_per_million, ..Self::new(process, lease, left) };
    }

    pub(crate) const fn has_left(&self) -> bool {
        self.fence.has_left() || self.left_silently
    }
}

impl<const N: usize> World<N> {
    pub(crate) fn new(setup: &Setup) -> Self {
        let revoker = |key: &Option<usize>| Revoker { key: *key, stage: Revoking::Idle, poll: None };
        Self {
            now_millis: 10 * setup.tick_millis(),
            main: Database::new(setup.unborn),
            old: None,
            dump: None,
            restored: false,
            copied_at: u64::MAX,
            behind: None,
            messages: [None; MESSAGES],
            replicas: std::array::from_fn(|index| {
                Replica::new((index as u128 + 1) * 1_000, setup.lease(), setup.crashes)
            }),
            revokers: [revoker(&setup.revokes[0]), revoker(&setup.revokes[1])],
            reaper: Reaper::default(),
            creation: Creation::None,
            confirmed: [false; KEYS],
        }
    }

    /// Reads a replica's clock.
    pub(crate) fn replica_now(&mut self, index: usize) -> Monotonic {
        let now = self.replica_next(index);
        self.now_millis += READING_MILLIS;
        now
    }

    /// What a replica's clock would show, if it were read.
    pub(crate) fn replica_next(&self, index: usize) -> Monotonic {
        let Replica { lag_millis, drift_per_million, .. } = self.replicas[index];
        drifted(self.now_millis + READING_MILLIS - lag_millis, drift_per_million)
    }

    /// Reads the clock of the revokers and the reaper, which drifts the other way than the first replica's.
    pub(crate) fn other_now(&mut self) -> Monotonic {
        self.now_millis += READING_MILLIS;
        drifted(self.now_millis, -self.replicas[0].drift_per_million)
    }

    pub(crate) fn server(&self, server: Server) -> &Database {
        match server {
            Server::Main => &self.main,
            Server::Old => self.old.as_ref().expect("the action is possible only after a failover"),
        }
    }

    pub(crate) fn server_mut(&mut self, server: Server) -> &mut Database {
        match server {
            Server::Main => &mut self.main,
            Server::Old => self.old.as_mut().expect("the action is possible only after a failover"),
        }
    }

    pub(crate) fn free_messages(&self, setup: &Setup) -> usize {
        setup.messages - self.messages.iter().flatten().count()
    }

    pub(crate) fn send(&mut self, from: usize, what: What) {
        let wanted = matches!(what, What::Join(..) | What::Renew(..));
        let free = self.messages.iter_mut().find(|slot| slot.is_none()).expect("a free slot");
        *free = Some(Message { from, what, wanted, stage: Stage::Sent });
    }

    /// Which verifications are worth following.
    pub(crate) fn matters(&self, key: usize, setup: &Setup) -> bool {
        self.confirmed[key] || setup.unborn == Some(key) && self.creation == Creation::Acknowledged
    }

    pub(crate) fn row(setup: &Setup, id: ReplicaId, acked: u64) -> ReplicaRow {
        let id = if setup.has(Trap::OneIdForTwoJoins) { ReplicaId::from_uuid(Uuid::from_u128(7)) } else { id };
        ReplicaRow { id, acked, renewals: 0, lease: setup.lease() }
    }
}

fn drifted(millis: u64, per_million: i64) -> Monotonic {
    let rate = 1_000_000_u64.checked_add_signed(per_million).expect("a small drift");
    Monotonic::from_origin(std::time::Duration::from_micros(millis * rate / 1_000))
}
