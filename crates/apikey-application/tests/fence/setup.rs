//! What a model run contains: which actors, which faults, and which rule is broken on purpose.

use std::time::Duration;

use apikey_application::fence::Lease;

/// The actors and faults of a run. Everything off is one replica, one key and nobody who revokes.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each fault is there or not")]
pub(crate) struct Setup {
    /// How many keys are verified. Any other is revoked all the same, and moves the head.
    pub(crate) keys: usize,
    /// A key that is created during the run.
    pub(crate) unborn: Option<usize>,
    /// Which key each revoker revokes. Twice the same is a repeated revocation.
    pub(crate) revokes: [Option<usize>; 2],
    /// Answers to polls may be under way for a while.
    pub(crate) slow_polls: bool,
    pub(crate) reaper: bool,
    pub(crate) leave: bool,
    /// How often each replica is killed and started again.
    pub(crate) crashes: u8,
    /// Connections break, and what they carried may be executed all the same.
    pub(crate) abandon: bool,
    /// Statements are given up after a while, too, until four are unanswered.
    pub(crate) times_out: bool,
    pub(crate) failover: bool,
    /// A dump is taken, and the database is restored from it, on the same timeline. Before it is up again every lease has ended,
    /// and nobody waits any more for a confirmation.
    pub(crate) restores: bool,
    /// A copy of the database answers to the same name: on the same timeline, with a life of its own. Renewals and their answers
    /// stay with the database from which it was made.
    pub(crate) copies: bool,
    /// Whether verifications are strict.
    pub(crate) strict: Option<bool>,
    /// At most so many statements are under way.
    pub(crate) messages: usize,
    pub(crate) rows: usize,
    pub(crate) flights: usize,
    /// After how many ticks of the clock a lease has ended.
    pub(crate) lease_ticks: u64,
    /// On walks, by how much a clock may run fast or slow.
    pub(crate) drift_per_million: i64,
    pub(crate) trap: Option<Trap>,
}

/// A rule that is broken on purpose: always in the model's environment or in how the driver uses the production code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trap {
    FillUnchecked,
    FillCheckedApart,
    ReadTakenUnchecked,
    RenewalByRead,
    RowsDeletedByRevoker,
    RowLeavesBeforeDeadline,
    LeavesWithRenewalInFlight,
    OneIdForTwoJoins,
    PollOnOldPrimaryCounts,
    PollComparesNumbersAlone,
    ReadComparesNumbersAlone,
    AppliedRaisedAfterEvictions,
    LeasePublishedBeforeEvictions,
    NotedBeforeTheWait,
    AlreadyRevokedSoOk,
    LeaseFromReply,
    LeaseFromJoin,
    CheckedBeforeArrival,
    ClockStopsInSleep,
    AsynchronousStandby,
    ReapedUnconditionally,
    DigestsOlderThanHead,
    RecordOlderThanHead,
    JoinKeepsCache,
    JoinEmptiesCacheFirst,
    AcknowledgedBeforeApplied,
    RenewalAcrossTimelines,
    AbsenceFromSharedRead,
    AbsenceWithoutRenewal,
    NumbersFromSequence,
    WaitCountedFromBeforeCommit,
    HistoryNotComparedInRenewals,
    HistoryNotComparedInReads,
    PollOnCopyCounts,
}

impl Trap {
    pub(crate) const ALL: [Self; 34] = [
        Self::FillUnchecked,
        Self::FillCheckedApart,
        Self::ReadTakenUnchecked,
        Self::RenewalByRead,
        Self::RowsDeletedByRevoker,
        Self::RowLeavesBeforeDeadline,
        Self::LeavesWithRenewalInFlight,
        Self::OneIdForTwoJoins,
        Self::PollOnOldPrimaryCounts,
        Self::PollComparesNumbersAlone,
        Self::ReadComparesNumbersAlone,
        Self::AppliedRaisedAfterEvictions,
        Self::LeasePublishedBeforeEvictions,
        Self::NotedBeforeTheWait,
        Self::AlreadyRevokedSoOk,
        Self::LeaseFromReply,
        Self::LeaseFromJoin,
        Self::CheckedBeforeArrival,
        Self::ClockStopsInSleep,
        Self::AsynchronousStandby,
        Self::ReapedUnconditionally,
        Self::DigestsOlderThanHead,
        Self::RecordOlderThanHead,
        Self::JoinKeepsCache,
        Self::JoinEmptiesCacheFirst,
        Self::AcknowledgedBeforeApplied,
        Self::RenewalAcrossTimelines,
        Self::AbsenceFromSharedRead,
        Self::AbsenceWithoutRenewal,
        Self::NumbersFromSequence,
        Self::WaitCountedFromBeforeCommit,
        Self::HistoryNotComparedInRenewals,
        Self::HistoryNotComparedInReads,
        Self::PollOnCopyCounts,
    ];
}

impl Setup {
    /// One replica, one key, one revoker, no faults.
    pub(crate) const PLAIN: Self = Self {
        keys: 1,
        unborn: None,
        revokes: [Some(0), None],
        slow_polls: false,
        reaper: false,
        leave: false,
        crashes: 0,
        abandon: false,
        times_out: false,
        failover: false,
        restores: false,
        copies: false,
        strict: Some(false),
        messages: 2,
        rows: 2,
        flights: 1,
        lease_ticks: 1,
        drift_per_million: 10_000,
        trap: None,
    };

    pub(crate) const fn with(self, trap: Trap) -> Self {
        Self { trap: Some(trap), ..self }
    }

    pub(crate) fn has(&self, trap: Trap) -> bool {
        self.trap == Some(trap)
    }

    /// Whether there is more than one history on a timeline.
    pub(crate) const fn has_histories(&self) -> bool {
        self.restores || self.copies
    }

    /// Without histories nobody looks which mark a read brings: more is allowed than by the real service.
    pub(crate) fn looks_for_no_mark(&self) -> bool {
        !self.has_histories() || self.has(Trap::HistoryNotComparedInReads)
    }

    /// The longest lease, so that a second more or less within one tick of the clock means nothing.
    #[expect(clippy::unused_self, reason = "a property of the run")]
    pub(crate) const fn lease(&self) -> Lease {
        Lease::MAX
    }

    /// A lease is held for 59.35 s and waited for 60.65 s; both are over after exactly `lease_ticks` ticks, and not before,
    /// whatever happens between the ticks.
    pub(crate) fn tick_millis(&self) -> u64 {
        let waited = u64::try_from(self.lease().waited_out().as_millis()).expect("a minute");
        waited / self.lease_ticks + 10_000 / self.lease_ticks
    }

    /// In how many ticks a monotonic instant lies.
    pub(crate) fn tick_of(&self, instant: Duration) -> u64 {
        u64::try_from(instant.as_millis()).expect("a short run") / self.tick_millis()
    }
}
