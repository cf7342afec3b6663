//! Random small histories, on which the checker and the search of all linearizations must agree.

use std::sync::atomic::{AtomicUsize, Ordering};

use apikey_testing::history::{Answer, Kind, Operation, Outcome, Sight};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{accepted, brute_force::is_legal, history, operation, organization};

const CASES: u32 = 6_000;
/// The longest history: all linearizations of more would take too long.
const LONGEST: usize = 7;
const TIME: u64 = 12;

fn any_kind() -> impl Strategy<Value = Kind> {
    let outcome = prop::sample::select(vec![Outcome::Ok, Outcome::Refused, Outcome::Unknown]);
    prop_oneof![
        1 => Just(Kind::Create(organization(), Outcome::Unknown)),
        1 => Just(Kind::Create(organization(), Outcome::Refused)),
        3 => outcome.clone().prop_map(Kind::Revoke),
        2 => outcome.prop_map(Kind::Act),
        3 => Just(accepted()),
        2 => Just(Kind::Verify(Answer::Revoked)),
        1 => Just(Kind::Verify(Answer::Unknown)),
        1 => Just(Kind::Verify(Answer::Invalid)),
        1 => prop::sample::select(vec![Sight::Absent, Sight::Live, Sight::Revoked]).prop_map(Kind::Look),
    ]
}

/// Operations at random times with random answers, most of them after a create.
fn anything() -> impl Strategy<Value = Vec<Operation>> {
    let any =
        (any_kind(), 0..TIME, 0..TIME / 2).prop_map(|(kind, start, length)| operation(start, start + length, kind));
    let create = (0..TIME / 2, 0..TIME / 2)
        .prop_map(|(start, length)| operation(start, start + length, Kind::Create(organization(), Outcome::Ok)));
    (prop::collection::vec(create, 0..=2), prop::collection::vec(any, 0..LONGEST - 1)).prop_map(|(creates, mut all)| {
        // Two creates that both succeed are rare.
        let keep = if all.len() % 4 == 0 { 2 } else { 1 };
        all.extend(creates.into_iter().take(keep));
        all
    })
}

/// A history made from a run of the machine, where every answer is true at some time within its operation; and then up to
/// three operations are moved.
fn almost_legal() -> impl Strategy<Value = Vec<Operation>> {
    let times = (0..4_u64, 0..4_u64, 0..4_u64);
    let place = (0..TIME, 0..3_u64, 0..3_u64, any::<bool>(), 0..4_u8);
    let moved = prop::collection::vec((0..LONGEST, 0..TIME), 0..4);
    (times, prop::collection::vec(place, 1..LONGEST - 2), moved).prop_map(
        |((birth, alive, wavering), places, moved)| {
            let (revocation, death) = (birth + alive, birth + alive + wavering);
            let mut all = vec![
                operation(birth.saturating_sub(1), birth + 1, Kind::Create(organization(), Outcome::Ok)),
                operation(revocation.saturating_sub(1), death + 1, Kind::Revoke(Outcome::Ok)),
            ];
            for (at, before, after, coin, kind) in places {
                let truth = match (at, kind) {
                    (at, 0) if at < birth => Kind::Look(Sight::Absent),
                    (at, _) if at < birth => Kind::Verify(Answer::Unknown),
                    (at, 0) if at < revocation => Kind::Act(Outcome::Ok),
                    (at, 1) if at < revocation => Kind::Look(Sight::Live),
                    (at, _) if at < revocation => accepted(),
                    (at, _) if at < death && coin => accepted(),
                    (_, 0) => Kind::Act(Outcome::Refused),
                    (_, 1) => Kind::Revoke(if coin { Outcome::Ok } else { Outcome::Unknown }),
                    (_, _) => Kind::Verify(Answer::Revoked),
                };
                // A revocation that returns OK ends after the death.
                let end = if matches!(truth, Kind::Revoke(_)) { (at + after).max(death) } else { at + after };
                all.push(operation(at.saturating_sub(before), end, truth));
            }
            for (index, start) in moved {
                let index = index % all.len();
                let length = all[index].end - all[index].start;
                all[index] = Operation { start, end: start + length, ..all[index].clone() };
            }
            all
        },
    )
}

/// Both verdicts must be well represented, or the agreement would mean little.
#[track_caller]
fn agree(histories: impl Strategy<Value = Vec<Operation>>, at_least: usize) {
    let legal = AtomicUsize::new(0);
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&histories, |operations| {
        let expected = is_legal(&operations);
        legal.fetch_add(usize::from(expected), Ordering::Relaxed);
        let violations = history(operations).check();
        prop_assert_eq!(violations.is_empty(), expected, "{:#?}", violations);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let legal = legal.into_inner();
    assert!(legal >= at_least && CASES as usize - legal >= at_least, "{legal} of {CASES} are legal");
}

#[test]
fn the_checker_agrees_with_the_search_on_anything() {
    agree(anything(), 500);
}

#[test]
fn the_checker_agrees_with_the_search_on_what_is_almost_legal() {
    agree(almost_legal(), 1_000);
}
