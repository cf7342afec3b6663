//! Each kind of broken promise, planted into a legal history, is found under its name; and what is allowed is not.

use apikey_domain::KeyEventKind;
use apikey_testing::{
    fixtures::another_organization,
    history::{Answer, FOREVER, History, Kind, Operation, Outcome, Promise, Sight, UseReading},
};

use crate::{accepted, created, history, key, operation, organization, promises};

fn revoked(start: u64, end: u64) -> Operation {
    operation(start, end, Kind::Revoke(Outcome::Ok))
}

/// A key is created, verified, used, revoked twice and refused.
fn ordinary() -> Vec<Operation> {
    vec![
        operation(0, 1, Kind::Look(Sight::Absent)),
        created(10, 20),
        operation(30, 40, accepted()),
        operation(30, 45, Kind::Act(Outcome::Ok)),
        operation(35, 45, Kind::Look(Sight::Live)),
        revoked(50, 70),
        operation(51, 52, Kind::Verify(Answer::Revoked)),
        operation(53, 60, accepted()),
        operation(80, 90, Kind::Verify(Answer::Revoked)),
        revoked(80, 90),
        operation(85, 95, Kind::Act(Outcome::Refused)),
        operation(95, 99, Kind::Look(Sight::Revoked)),
    ]
}

#[track_caller]
fn planted(operation: &Operation, promise: Promise) {
    let mut operations = ordinary();
    operations.push(operation.clone());
    let violations = history(operations).check();
    let [violation] = violations.as_slice() else { panic!("{violations:#?}") };
    assert_eq!(violation.promise, promise);
    assert!(violation.evidence.contains(operation), "{violation:#?}");
}

#[track_caller]
fn allowed(operation: Operation) {
    let mut operations = ordinary();
    operations.push(operation);
    assert_eq!(history(operations).check(), []);
}

#[test]
fn an_ordinary_history_is_legal() {
    assert_eq!(history(ordinary()).check(), []);
    assert_eq!(History::default().check(), []);
}

#[test]
fn a_stale_accept() {
    planted(&operation(71, 72, accepted()), Promise::NoStaleAccept);
    allowed(operation(70, 72, accepted()));
}

#[test]
fn a_change_in_the_name_of_a_revoked_key() {
    planted(&operation(71, 72, Kind::Act(Outcome::Ok)), Promise::NothingInTheNameOfARevokedKey);
    // Somebody has seen the revocation before the change began.
    planted(&operation(53, 60, Kind::Act(Outcome::Ok)), Promise::NothingInTheNameOfARevokedKey);
    // Its answer was lost, but what it did was found in the store.
    planted(&operation(71, FOREVER, Kind::Act(Outcome::Ok)), Promise::NothingInTheNameOfARevokedKey);
    allowed(operation(71, 72, Kind::Act(Outcome::Unknown)));
    allowed(operation(49, FOREVER, Kind::Act(Outcome::Ok)));
}

#[test]
fn an_acknowledged_key_that_is_forgotten() {
    planted(&operation(31, 32, Kind::Verify(Answer::Unknown)), Promise::NoKeyForgotten);
    planted(&operation(98, 99, Kind::Look(Sight::Absent)), Promise::NoKeyForgotten);
    planted(&operation(31, 32, Kind::Revoke(Outcome::Refused)), Promise::NoKeyForgotten);
    allowed(operation(5, 32, Kind::Verify(Answer::Unknown)));
}

#[test]
fn a_revocation_that_is_undone() {
    planted(&operation(71, 72, Kind::Look(Sight::Live)), Promise::RevokedForEver);
}

#[test]
fn a_refusal_that_nobody_caused() {
    planted(&operation(31, 32, Kind::Verify(Answer::Revoked)), Promise::NeverRefusedWithoutRevocation);
    planted(&operation(31, 32, Kind::Verify(Answer::Invalid)), Promise::NeverRefusedWithoutRevocation);
    planted(&operation(31, 32, Kind::Act(Outcome::Refused)), Promise::NeverRefusedWithoutRevocation);
    let never_revoked = history(vec![created(0, 1), operation(2, 3, Kind::Verify(Answer::Revoked))]);
    assert_eq!(promises(&never_revoked), [Promise::NeverRefusedWithoutRevocation]);
}

#[test]
fn a_revocation_of_unknown_outcome_may_come_at_any_later_time_or_never() {
    let begun = |rest: Vec<Operation>| {
        let mut operations = vec![created(0, 1), operation(10, 11, Kind::Revoke(Outcome::Unknown))];
        operations.extend(rest);
        promises(&history(operations))
    };
    assert_eq!(begun(vec![operation(500, 510, accepted())]), []);
    let (refused, later) = (operation(500, 510, Kind::Verify(Answer::Revoked)), operation(520, 530, accepted()));
    assert_eq!(begun(vec![refused, later]), [], "not confirmed: either may be answered");
    let early = operation(5, 9, Kind::Verify(Answer::Revoked));
    assert_eq!(begun(vec![early]), [Promise::NeverRefusedWithoutRevocation]);
}

#[test]
fn a_key_that_is_known_too_early_or_never_created() {
    planted(&operation(2, 5, accepted()), Promise::NotKnownBeforeItsCreation);
    assert_eq!(promises(&history(vec![operation(2, 5, accepted())])), [Promise::NotKnownBeforeItsCreation]);
    let refused = operation(0, 1, Kind::Create(organization(), Outcome::Refused));
    let seen = operation(2, 5, Kind::Look(Sight::Live));
    assert_eq!(promises(&history(vec![refused, seen])), [Promise::NotKnownBeforeItsCreation]);
}

#[test]
fn a_key_that_is_created_twice() {
    planted(&created(10, 20), Promise::CreatedOnce);
}

#[test]
fn a_key_that_speaks_for_another_organization() {
    let foreign = Kind::Verify(Answer::Accepted(another_organization()));
    planted(&operation(31, 32, foreign), Promise::OneOrganization);
}

#[test]
fn a_last_use_that_moves_back() {
    let reading = |seed, start, end, last_used_at| UseReading { key: key(seed), start, end, last_used_at };
    let with = |uses| promises(&History { uses, ..history(ordinary()) });
    let legal =
        [reading(1, 0, 1, None), reading(1, 2, 9, Some(7)), reading(1, 8, 9, Some(5)), reading(1, 10, 11, Some(7))];
    assert_eq!(with(legal.to_vec()), [], "readings that overlap may show either");
    let other = reading(2, 12, 13, Some(1));
    assert_eq!(with([legal.as_slice(), &[other]].concat()), [], "keys are apart");
    for last_used_at in [Some(6), None] {
        let back = reading(1, 12, 13, last_used_at);
        assert_eq!(with([legal.as_slice(), &[back]].concat()), [Promise::LastUseNeverMovesBack]);
    }
}

#[test]
fn an_audit_trail_that_does_not_match() {
    use KeyEventKind::{Issued, Revoked};
    let with = |events: &[KeyEventKind]| {
        let audit = Some(events.iter().map(|kind| (key(1), *kind)).collect());
        promises(&History { audit, ..history(ordinary()) })
    };
    assert_eq!(with(&[Issued, Revoked]), []);
    for wrong in [&[Issued][..], &[Revoked], &[Issued, Revoked, Revoked], &[Issued, Issued, Revoked]] {
        assert_eq!(with(wrong), [Promise::OneEventPerChange], "{wrong:?}");
    }
    let unknown = vec![created(0, 1), operation(2, 3, Kind::Revoke(Outcome::Unknown))];
    for (events, legal) in [(vec![], true), (vec![Revoked], true), (vec![Revoked, Revoked], false)] {
        let audit = [vec![Issued], events].concat().into_iter().map(|kind| (key(1), kind)).collect();
        let history = History { audit: Some(audit), ..history(unknown.clone()) };
        assert_eq!(promises(&history).is_empty(), legal);
    }
    let stranger = History { audit: Some(vec![(key(9), Revoked)]), ..History::default() };
    assert_eq!(promises(&stranger), [Promise::OneEventPerChange], "an event without its change");
}

#[test]
fn what_clients_recorded_apart_is_merged() {
    let mut all = history(vec![created(0, 1), revoked(2, 3)]);
    all.merge(history(vec![operation(4, 5, accepted())]));
    assert_eq!(promises(&all), [Promise::NoStaleAccept]);
}
