//! Each rule of the protocol, taken away or turned round, breaks the promise: one test per trap. With `-- --nocapture` each
//! shows its shortest counterexample.

use crate::{
    explore::explore,
    setup::{Setup, Trap},
    world::Violation,
};

const PLAIN: Setup = Setup::PLAIN;
/// Another key is revoked too.
const TWO_KEYS: Setup = Setup { revokes: [Some(0), Some(1)], ..PLAIN };
const REAPER: Setup = Setup { reaper: true, ..PLAIN };
const LEAVE: Setup = Setup { leave: true, ..PLAIN };
const FAILOVER: Setup = Setup { failover: true, ..PLAIN };
const FAILOVER_TWO_KEYS: Setup = Setup { failover: true, ..TWO_KEYS };
const CREATE: Setup = Setup { unborn: Some(0), revokes: [None, None], ..PLAIN };

/// More states than any trap needs.
const LIMIT: usize = 1_500_000;

#[track_caller]
fn breaks(setup: Setup, trap: Trap, expected: Violation) {
    let found = explore(&setup.with(trap), LIMIT);
    let counterexample =
        found.counterexample.unwrap_or_else(|| panic!("{trap:?} broke nothing in {} states", found.states));
    println!("{trap:?}, after {} states in {:.1?}:\n{}", found.states, found.took, counterexample.print());
    assert_eq!(counterexample.violation, expected);
}

macro_rules! traps {
    ($($name:ident: $trap:ident in $setup:expr => $violation:ident;)*) => {
        $(#[test]
        fn $name() {
            breaks($setup, Trap::$trap, Violation::$violation);
        })*

        /// Whoever adds a trap must show that it breaks something.
        #[test]
        fn every_trap_has_a_test() {
            let tested = [$(Trap::$trap),*];
            for trap in Trap::ALL {
                assert!(tested.contains(&trap), "{trap:?}");
            }
        }
    };
}

traps! {
    fill_race_an_old_read_enters_the_cache: FillUnchecked in PLAIN => StaleAccept;
    fill_race_an_old_read_serves_a_later_request: ReadTakenUnchecked in PLAIN => StaleAccept;
    the_fill_is_checked_apart_from_its_insert: FillCheckedApart in PLAIN => StaleAccept;
    two_servers_the_renewal_is_a_read: RenewalByRead in FAILOVER => StaleAccept;
    deleting_too_early_a_revoker_deletes_silent_rows: RowsDeletedByRevoker in TWO_KEYS => StaleAccept;
    a_row_is_reaped_without_looking_again: ReapedUnconditionally in REAPER => StaleAccept;
    leaving_in_the_wrong_order: RowLeavesBeforeDeadline in LEAVE => StaleAccept;
    leaving_with_a_renewal_in_flight: LeavesWithRenewalInFlight in LEAVE => StaleAccept;
    one_id_for_two_joins_an_orphaned_insert_acknowledges_too_much:
        OneIdForTwoJoins in Setup { abandon: true, ..PLAIN } => StaleAccept;
    one_id_for_two_joins_an_old_watcher_reaps_the_living_row:
        OneIdForTwoJoins in Setup { crashes: 1, ..REAPER } => StaleAccept;
    a_poll_on_the_old_primary_counts: PollOnOldPrimaryCounts in FAILOVER => StaleAccept;
    a_commit_on_the_old_primary_a_poll_compares_numbers_alone: PollComparesNumbersAlone in FAILOVER_TWO_KEYS => StaleAccept;
    a_commit_on_the_old_primary_a_read_compares_numbers_alone: ReadComparesNumbersAlone in FAILOVER_TWO_KEYS => StaleAccept;
    a_renewal_is_taken_from_another_timeline: RenewalAcrossTimelines in FAILOVER_TWO_KEYS => StaleAccept;
    applied_is_raised_after_the_evictions: AppliedRaisedAfterEvictions in PLAIN => StaleAccept;
    the_lease_is_published_before_the_evictions: LeasePublishedBeforeEvictions in PLAIN => StaleAccept;
    applied_is_noted_before_the_wait: NotedBeforeTheWait in PLAIN => StaleAccept;
    already_revoked_so_ok_at_once: AlreadyRevokedSoOk in Setup { revokes: [Some(0), Some(0)], ..PLAIN } => StaleAccept;
    the_lease_counts_from_the_reply: LeaseFromReply in PLAIN => StaleAccept;
    the_insert_of_the_row_grants_a_lease: LeaseFromJoin in PLAIN => StaleAccept;
    the_deadline_is_checked_before_the_request_is_read: CheckedBeforeArrival in PLAIN => StaleAccept;
    the_clock_stops_while_the_machine_sleeps: ClockStopsInSleep in PLAIN => StaleAccept;
    the_standby_is_asynchronous: AsynchronousStandby in FAILOVER => StaleAccept;
    the_digests_are_older_than_the_head: DigestsOlderThanHead in PLAIN => StaleAccept;
    the_record_is_older_than_its_head: RecordOlderThanHead in PLAIN => StaleAccept;
    a_join_keeps_the_cache: JoinKeepsCache in REAPER => StaleAccept;
    a_join_empties_the_cache_before_it_raises_applied: JoinEmptiesCacheFirst in REAPER => StaleAccept;
    a_renewal_acknowledges_what_it_only_brings: AcknowledgedBeforeApplied in PLAIN => StaleAccept;
    numbers_come_from_a_sequence: NumbersFromSequence in TWO_KEYS => StaleAccept;
    the_wait_is_counted_from_before_the_commit: WaitCountedFromBeforeCommit in PLAIN => StaleAccept;
    a_restored_database_renews_without_looking_for_the_mark:
        HistoryNotComparedInRenewals in Setup { restores: true, ..TWO_KEYS } => StaleAccept;
    a_copy_answers_and_the_mark_is_not_looked_for: HistoryNotComparedInReads in Setup { copies: true, ..TWO_KEYS } => StaleAccept;
    a_copy_is_polled_and_whoever_revokes_does_not_look_for_itself: PollOnCopyCounts in Setup { copies: true, ..TWO_KEYS } => StaleAccept;
    absence_is_taken_from_a_read_that_began_earlier: AbsenceFromSharedRead in CREATE => Forgotten;
    absence_is_taken_without_a_renewal:
        AbsenceWithoutRenewal in Setup { failover: true, ..CREATE } => Forgotten;
}
