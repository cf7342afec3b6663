//! What the model leaves to the renewal task's clock, and single decisions, one by one.

use std::time::Duration;

use apikey_application::{
    fence::{
        Arrival, Confirmation, Effect, Fence, Lease, Mark, Monotonic, Progress, Reaper, ReplicaId, ReplicaRow, Ruling,
        Statement, may_cache,
    },
    ports::Seq,
};
use apikey_domain::KeyDigest;
use uuid::Uuid;

const LEASE: Lease = Lease::DEFAULT;

fn at(millis: u64) -> Monotonic {
    Monotonic::from_origin(Duration::from_millis(millis))
}

fn seq(timeline: u32, number: u64) -> Seq {
    Seq::new(timeline, number)
}

fn digests(seeds: &[u8]) -> Vec<KeyDigest> {
    seeds.iter().map(|seed| KeyDigest::from_bytes([*seed; 32])).collect()
}

fn new() -> Fence {
    Fence::new(LEASE, Uuid::from_u128(0xABCD << 64 | 0xFFFF_FFFF))
}

/// The statement that the fence wants sent now, and the id in it.
#[track_caller]
fn sent(effects: &[Effect]) -> (Statement, ReplicaId) {
    let sent = effects.iter().find_map(|effect| match effect {
        Effect::Join(statement, id) => Some((*statement, *id)),
        Effect::Renew(statement, mark, _) => Some((*statement, mark.replica)),
        _ => None,
    });
    sent.unwrap_or_else(|| panic!("nothing is sent: {effects:?}"))
}

/// That place, as this replica has marked it by that renewal.
fn marked(seq: Seq, replica: ReplicaId, renewal: u64) -> Seq {
    Seq { mark: Some(Mark { replica, renewal }), ..seq }
}

/// A fence that joined at `at(0)` with `applied` as the head.
fn joined(applied: Seq) -> (Fence, ReplicaId) {
    let mut fence = new();
    let (statement, id) = sent(&fence.tick(at(0)));
    let marked = marked(applied, id, 0);
    assert_eq!(fence.joined(statement, applied, at(1)), [Effect::RaiseApplied(marked), Effect::EvictAll]);
    (fence, id)
}

#[test]
fn a_replica_joins_renews_and_holds_a_lease_that_counts_from_before_the_renewal() {
    let (mut fence, id) = joined(seq(1, 7));
    let mark = Mark { replica: id, renewal: 0 };
    assert_eq!((fence.mark(), fence.applied()), (Some(mark), Some(marked(seq(1, 7), id, 0))));
    let effects = fence.tick(at(5));
    let (renewal, _) = sent(&effects);
    assert_eq!(effects, [Effect::Renew(renewal, mark, 7)]);
    // The answer takes 300 ms, which the lease does not get back: 5 + 2,920.
    let effects = fence.renewed(renewal, seq(1, 7), vec![], at(305));
    assert_eq!(effects, [Effect::PublishDeadline(at(2_925)), Effect::WakeWaiters]);
    let mark = Mark { renewal: renewal.number(), ..mark };
    assert_eq!(fence.mark(), Some(mark));
    assert_eq!(fence.applied(), Some(marked(seq(1, 7), id, 0)), "a renewal without news asks no more of reads");
    assert_eq!(fence.next_tick(), at(1_005));
    assert_eq!(fence.tick(at(1_004)), []);
    let effects = fence.tick(at(1_005));
    assert_eq!(effects, [Effect::Renew(sent(&effects).0, mark, 7)]);
}

#[test]
fn what_a_renewal_brings_is_applied_before_the_lease_and_acknowledged_at_once() {
    let (mut fence, id) = joined(seq(1, 7));
    let (renewal, _) = sent(&fence.tick(at(5)));
    let effects = fence.renewed(renewal, seq(1, 9), digests(&[1, 2]), at(20));
    let expected = [
        Effect::RaiseApplied(marked(seq(1, 9), id, renewal.number())),
        Effect::Evict(digests(&[1, 2])),
        Effect::PublishDeadline(at(2_925)),
        Effect::WakeWaiters,
    ];
    assert_eq!(effects, expected);
    assert_eq!(fence.next_tick(), at(20));
    let effects = fence.tick(at(20));
    let mark = Mark { replica: id, renewal: renewal.number() };
    assert_eq!(effects, [Effect::Renew(sent(&effects).0, mark, 9)]);
}

#[test]
fn another_timeline_or_a_restored_database_ends_the_lease_and_begins_anew_under_another_id() {
    for head in [seq(2, 7), seq(2, 9), seq(1, 6)] {
        let (mut fence, id) = joined(seq(1, 7));
        let (renewal, _) = sent(&fence.tick(at(5)));
        let effects = fence.renewed(renewal, head, digests(&[1]), at(20));
        assert_eq!(effects, [Effect::PublishDeadline(Monotonic::ZERO), Effect::DeleteRow(id)], "{head:?}");
        let (_, next) = sent(&fence.tick(at(20)));
        assert_ne!(next, id);
    }
    let (mut fence, id) = joined(seq(1, 7));
    let (renewal, _) = sent(&fence.tick(at(5)));
    assert_eq!(fence.row_gone(renewal, at(20)), [Effect::PublishDeadline(Monotonic::ZERO)]);
    assert_ne!(sent(&fence.tick(at(20))).1, id);
    let (mut fence, id) = joined(seq(1, 7));
    let (renewal, _) = sent(&fence.tick(at(5)));
    let effects = fence.other_history(renewal, at(20));
    assert_eq!(effects, [Effect::PublishDeadline(Monotonic::ZERO), Effect::DeleteRow(id)]);
    assert_eq!(fence.other_history(renewal, at(21)), [], "an answer that nobody waits for means nothing");
    assert_ne!(sent(&fence.tick(at(21))).1, id);
}

#[test]
fn ids_are_fresh_for_each_attempt_and_each_process() {
    let (mut one, mut another) = (new(), Fence::new(LEASE, Uuid::from_u128(0xABCE << 64)));
    let mut ids = Vec::new();
    for fence in [&mut one, &mut another] {
        for attempt in 0..50 {
            let now = at(1_000 * attempt);
            let (statement, id) = sent(&fence.tick(now));
            ids.push(id.as_uuid());
            assert_eq!(ReplicaId::from_uuid(id.as_uuid()), id);
            fence.lost(statement, now);
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100);
}

#[test]
fn waiting_requests_share_renewals_that_begin_ten_milliseconds_apart() {
    let (mut fence, _) = joined(seq(1, 0));
    let (renewal, _) = sent(&fence.tick(at(5)));
    // Asked while one is in flight that began too early for it.
    fence.asked();
    assert_eq!(fence.tick(at(6)), []);
    fence.renewed(renewal, seq(1, 0), vec![], at(7));
    assert_eq!((fence.next_tick(), fence.tick(at(14))), (at(15), vec![]));
    sent(&fence.tick(at(15)));
}

#[test]
fn a_hint_or_a_lost_connection_is_followed_by_another_renewal_soon() {
    let (mut fence, _) = joined(seq(1, 0));
    let (renewal, _) = sent(&fence.tick(at(5)));
    fence.renewed(renewal, seq(1, 0), vec![], at(7));
    fence.hinted(at(18));
    let (renewal, _) = sent(&fence.tick(at(18)));
    fence.lost(renewal, at(19));
    assert_eq!((fence.next_tick(), fence.unanswered()), (at(269), 0));
    fence.asked();
    assert_eq!(fence.next_tick(), at(28));
}

#[test]
fn hints_of_nothing_are_followed_ten_milliseconds_apart_and_those_of_revocations_at_once() {
    let (mut fence, _) = joined(seq(1, 0));
    let (renewal, _) = sent(&fence.tick(at(5)));
    fence.renewed(renewal, seq(1, 0), vec![], at(7));
    for now in 7..15 {
        fence.hinted(at(now));
        assert_eq!((fence.tick(at(now)), fence.next_tick()), (vec![], at(15)));
    }
    let (mut renewal, _) = sent(&fence.tick(at(15)));
    // Revocation after revocation: each is brought and acknowledged, and the next hint waits for nothing.
    for (number, now) in (1..5).zip((16..).step_by(3)) {
        fence.renewed(renewal, seq(1, number), digests(&[1]), at(now));
        let (acknowledgement, _) = sent(&fence.tick(at(now)));
        fence.renewed(acknowledgement, seq(1, number), vec![], at(now + 1));
        fence.hinted(at(now + 2));
        (renewal, _) = sent(&fence.tick(at(now + 2)));
    }
    // And the first that brought nothing is waited for again.
    fence.renewed(renewal, seq(1, 4), vec![], at(28));
    fence.hinted(at(29));
    assert_eq!(fence.next_tick(), at(27 + 10));
}

#[test]
fn strangers_wait_for_a_renewal_that_begins_a_quarter_of_a_second_after_the_last() {
    let (mut fence, _) = joined(seq(1, 0));
    let (renewal, _) = sent(&fence.tick(at(5)));
    fence.renewed(renewal, seq(1, 0), vec![], at(7));
    for _ in 0..100 {
        fence.asked_by_stranger();
    }
    assert_eq!((fence.next_tick(), fence.tick(at(254))), (at(255), vec![]));
    fence.asked();
    assert_eq!(fence.next_tick(), at(15), "whoever is trusted does not wait for strangers");
}

#[test]
fn a_statement_without_an_answer_is_given_up_until_four_are_unanswered() {
    let (mut fence, _) = joined(seq(1, 0));
    let (mut last, _) = sent(&fence.tick(at(1)));
    for attempt in 1..4 {
        let now = at(1 + 1_000 * attempt);
        assert_eq!(fence.next_tick(), now);
        let effects = fence.tick(now);
        assert_eq!(effects[0], Effect::CloseConnection(last));
        let (next, _) = sent(&effects);
        assert_eq!(fence.renewed(last, seq(1, 5), digests(&[1]), now), [], "an answer that was given up means nothing");
        last = next;
    }
    assert_eq!((fence.unanswered(), fence.next_tick()), (4, Monotonic::MAX));
    assert_eq!(fence.tick(at(1_000_000)), [], "the newest connection is kept");
    // It answers at last: its lease counts from 3,001, and all that was sent before has ended.
    let effects = fence.renewed(last, seq(1, 0), vec![], at(1_000_001));
    assert_eq!(effects, [Effect::PublishDeadline(at(5_921)), Effect::WakeWaiters]);
    assert_eq!(fence.unanswered(), 0);
    // Or it is known dead: one more may be sent.
    let (mut fence, _) = joined(seq(1, 0));
    sent(&fence.tick(at(1)));
    for attempt in 1..4 {
        last = sent(&fence.tick(at(1 + 1_000 * attempt))).0;
    }
    fence.lost(last, at(9_000));
    assert_eq!(fence.unanswered(), 3);
    sent(&fence.tick(at(9_250)));
}

#[test]
fn leaving_drops_the_lease_before_the_row_and_takes_no_answer_after() {
    let (mut fence, id) = joined(seq(1, 0));
    let (renewal, _) = sent(&fence.tick(at(5)));
    let expected = [
        Effect::CloseConnection(renewal),
        Effect::PublishDeadline(Monotonic::ZERO),
        Effect::DeleteRow(id),
        Effect::WakeWaiters,
    ];
    assert_eq!(fence.leave(), expected);
    assert!(fence.has_left());
    assert_eq!(fence.renewed(renewal, seq(1, 5), digests(&[1]), at(6)), []);
    assert_eq!(fence.row_gone(renewal, at(6)), []);
    fence.asked();
    fence.hinted(at(7));
    assert_eq!((fence.tick(at(100_000)), fence.next_tick()), (vec![], Monotonic::MAX));
    assert_eq!(fence.leave(), [Effect::PublishDeadline(Monotonic::ZERO), Effect::WakeWaiters]);
}

#[test]
fn a_verification_is_admitted_under_the_lease_or_after_a_renewal_that_began_after_it_arrived() {
    let renewed_at = |millis: u64| at(millis + 2_920);
    let admits = |strict, arrived, deadline, now| Arrival::new(at(arrived), strict).admit(LEASE, deadline, now).is_ok();
    assert!(admits(false, 1_000, renewed_at(500), at(3_419)));
    assert!(!admits(false, 1_000, renewed_at(500), at(3_420)), "the deadline is reached");
    assert!(!admits(true, 1_000, renewed_at(500), at(1_001)), "strict asks for a renewal of its own");
    assert!(!admits(true, 1_000, renewed_at(1_000), at(1_001)), "at the same instant is not after");
    assert!(admits(true, 1_000, renewed_at(1_001), at(1_002)));
    assert!(admits(false, 1_000, renewed_at(1_001), at(99_999)), "it slept, but its renewal proves enough");
    assert!(!admits(false, 1_000, Monotonic::ZERO, at(1_000)), "there is no lease");
}

#[test]
fn reads_are_judged_by_their_place_and_absence_by_a_renewal_too() {
    let noted =
        |applied| Arrival::new(at(10), false).admit(LEASE, at(9_999), at(11)).map(|admitted| admitted.note(applied));
    let waiter = noted(seq(2, 5)).expect("under a lease");
    for (read, applied, ruling) in [
        (seq(2, 5), seq(2, 9), Ruling::Take),
        (seq(2, 6), seq(2, 5), Ruling::Take),
        (seq(2, 4), seq(2, 5), Ruling::ReadAgain),
        (seq(1, 9), seq(2, 5), Ruling::ReadAgain),
        (seq(3, 9), seq(3, 0), Ruling::BeginAnew),
        (seq(2, 4), seq(3, 0), Ruling::BeginAnew),
    ] {
        assert_eq!(waiter.judge_record(read, applied), ruling, "{read:?} {applied:?}");
    }
    let fresh = at(2_931);
    for (read, begun, deadline, applied, ruling) in [
        (seq(2, 5), at(11), fresh, seq(2, 5), Ruling::Take),
        (seq(2, 4), at(11), fresh, seq(2, 5), Ruling::ReadAgain),
        (seq(2, 5), at(10), fresh, seq(2, 5), Ruling::ReadAgain),
        (seq(2, 5), at(11), at(2_930), seq(2, 5), Ruling::AwaitRenewal),
        (seq(2, 5), at(11), fresh, seq(3, 5), Ruling::BeginAnew),
    ] {
        assert_eq!(waiter.judge_absence(read, begun, LEASE, deadline, applied), ruling, "{read:?} {begun:?}");
    }
    assert!(may_cache(seq(2, 5), seq(2, 5)) && !may_cache(seq(2, 4), seq(2, 5)) && !may_cache(seq(3, 9), seq(2, 5)));
}

#[test]
fn what_lacks_this_replica_s_mark_is_of_another_history() {
    let (me, other) = (ReplicaId::from_uuid(Uuid::from_u128(1)), ReplicaId::from_uuid(Uuid::from_u128(2)));
    let applied = marked(seq(2, 5), me, 7);
    let waiter = Arrival::new(at(10), false).admit(LEASE, at(9_999), at(11)).expect("under a lease").note(applied);
    for (read, ruling) in [
        (marked(seq(2, 5), me, 7), Ruling::Take),
        (marked(seq(2, 6), me, 8), Ruling::Take),
        (marked(seq(2, 6), me, 6), Ruling::ReadAgain),
        (marked(seq(2, 6), other, 9), Ruling::ReadAgain),
        (seq(2, 6), Ruling::ReadAgain),
    ] {
        assert_eq!(waiter.judge_record(read, applied), ruling, "{read:?}");
        assert_eq!(may_cache(read, applied), ruling == Ruling::Take);
    }
    // It has joined again: it asks for another mark, so that reading again would find none.
    let anew = marked(seq(2, 5), other, 0);
    assert_eq!(waiter.judge_record(anew, anew), Ruling::BeginAnew);
    assert_eq!(waiter.judge_absence(applied, at(11), LEASE, at(2_931), anew), Ruling::BeginAnew);
    assert!(may_cache(applied, seq(2, 5)), "whoever looks for no mark is content");
}

fn row(id: u128, acked: u64, renewals: u64, lease: Lease) -> ReplicaRow {
    ReplicaRow { id: ReplicaId::from_uuid(Uuid::from_u128(id)), acked, renewals, lease }
}

#[test]
fn a_revocation_is_confirmed_by_acknowledgements_and_by_each_row_s_own_lease() {
    let long = Lease::new(Duration::from_secs(10)).expect("within bounds");
    let mut confirmation = Confirmation::new(seq(1, 5), at(100), LEASE);
    assert_eq!(confirmation.gives_up_at(), at(4_180));
    let rows = [row(1, 5, 6, LEASE), row(2, 4, 0, LEASE), row(3, 0, 0, long)];
    let own = Mark { replica: rows[0].id, renewal: 6 };
    assert_eq!(confirmation.polled(seq(1, 4), &rows, own, at(200)), Progress::Foreign, "it lags");
    assert_eq!(confirmation.polled(seq(2, 9), &rows, own, at(200)), Progress::Foreign, "another timeline");
    assert_eq!(confirmation.polled(seq(1, 9), &rows[1..], own, at(200)), Progress::Foreign, "its own row is not there");
    let renewed = Mark { renewal: 7, ..own };
    assert_eq!(confirmation.polled(seq(1, 9), &rows, renewed, at(200)), Progress::Foreign, "its own renewal is not");
    let late = Mark { replica: rows[1].id, renewal: 0 };
    assert_eq!(
        confirmation.polled(seq(1, 9), &rows, late, at(99_999)),
        Progress::Waiting(at(3_180)),
        "its own lease is not waited out"
    );
    assert_eq!(confirmation.polled(seq(1, 5), &rows, own, at(200)), Progress::Waiting(at(10_250)));
    assert_eq!(confirmation.gives_up_at(), at(11_250), "the longest lease is waited for");
    assert_eq!(confirmation.polled(seq(1, 9), &rows[..2], own, at(3_179)), Progress::Waiting(at(3_180)));
    let confirmed = Progress::Confirmed { acknowledged: 1, waited_out: 1 };
    assert_eq!(confirmation.polled(seq(1, 9), &rows[..2], own, at(3_180)), confirmed);
    let alone = Progress::Confirmed { acknowledged: 1, waited_out: 0 };
    assert_eq!(confirmation.polled(seq(1, 5), &rows[..1], own, at(200)), alone);
}

#[test]
fn a_row_is_reaped_when_it_was_not_renewed_for_as_long_as_its_lease_can_last() {
    let mut reaper = Reaper::default();
    let poll = |reaper: &mut Reaper, rows: &[ReplicaRow], now| {
        reaper.polled(rows, at(now)).iter().map(|reaping| (reaping.id, reaping.renewals)).collect::<Vec<_>>()
    };
    let (dead, alive) = (row(1, 0, 3, LEASE), |renewals| row(2, 0, renewals, LEASE));
    assert_eq!(poll(&mut reaper, &[dead, alive(1)], 1_000), []);
    assert_eq!(poll(&mut reaper, &[dead, alive(2)], 4_079), []);
    assert_eq!(poll(&mut reaper, &[dead, alive(3)], 4_080), [(dead.id, 3)]);
    assert_eq!(poll(&mut reaper, &[alive(3)], 7_159), []);
    assert_eq!(reaper.watched().count(), 1, "what is gone is forgotten");
    assert_eq!(poll(&mut reaper, &[dead, alive(3)], 7_160), [(alive(3).id, 3)], "who comes back is watched anew");
}
