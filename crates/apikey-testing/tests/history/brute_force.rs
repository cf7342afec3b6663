//! The definition itself: a history is legal if some order of its events, one that keeps whatever ended before something
//! else began, is a run of the little machine below. Searches them all.

use apikey_testing::history::{Answer, Kind, Operation, Outcome, Sight};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unborn,
    Live,
    /// Revoked, but not everybody knows.
    Wavering,
    Revoked,
}

/// A revocation is two events: its commit, and that it is known everywhere.
struct Event<'a> {
    operation: &'a Operation,
    second: bool,
}

pub(crate) fn is_legal(operations: &[Operation]) -> bool {
    let mut events = Vec::new();
    for operation in operations {
        events.push(Event { operation, second: false });
        if matches!(operation.kind, Kind::Revoke(Outcome::Ok | Outcome::Unknown)) {
            events.push(Event { operation, second: true });
        }
    }
    search(&events, &mut vec![false; events.len()], State::Unborn)
}

fn search(events: &[Event<'_>], done: &mut [bool], state: State) -> bool {
    let due = |index: usize| !done[index] && !is_unknown(events[index].operation);
    if !(0..events.len()).any(due) {
        return true;
    }
    // What has ended before another begins comes first.
    let horizon = (0..events.len()).filter(|index| due(*index)).map(|index| events[index].operation.end).min();
    let ready: Vec<usize> = (0..events.len())
        .filter(|index| !done[*index] && Some(events[*index].operation.start) <= horizon)
        .filter(|index| !events[*index].second || done[*index - 1])
        .collect();
    for index in ready {
        if let Some(after) = step(state, &events[index]) {
            done[index] = true;
            let found = search(events, done, after);
            done[index] = false;
            if found {
                return true;
            }
        }
    }
    false
}

fn is_unknown(operation: &Operation) -> bool {
    matches!(
        operation.kind,
        Kind::Create(_, Outcome::Unknown) | Kind::Revoke(Outcome::Unknown) | Kind::Act(Outcome::Unknown)
    )
}

/// What the machine does at an event; `None` where it can't have happened.
fn step(state: State, event: &Event<'_>) -> Option<State> {
    use State::{Live, Revoked, Unborn, Wavering};
    let possible_in = |states: &[State]| states.contains(&state).then_some(state);
    match &event.operation.kind {
        Kind::Create(_, Outcome::Refused) => Some(state),
        Kind::Create(_, Outcome::Ok | Outcome::Unknown) => possible_in(&[Unborn]).map(|_| Live),
        Kind::Revoke(Outcome::Ok | Outcome::Unknown) => match (state, event.second) {
            (Unborn, _) | (Live, true) => None,
            (Live, false) => Some(Wavering),
            (Wavering | Revoked, false) => Some(state),
            (Wavering | Revoked, true) => Some(Revoked),
        },
        Kind::Revoke(Outcome::Refused) | Kind::Verify(Answer::Unknown) | Kind::Look(Sight::Absent) => {
            possible_in(&[Unborn])
        }
        Kind::Verify(Answer::Accepted(_)) => possible_in(&[Live, Wavering]),
        Kind::Act(Outcome::Ok | Outcome::Unknown) | Kind::Look(Sight::Live) => possible_in(&[Live]),
        Kind::Verify(Answer::Revoked) | Kind::Act(Outcome::Refused) | Kind::Look(Sight::Revoked) => {
            possible_in(&[Wavering, Revoked])
        }
        Kind::Verify(Answer::Invalid) => None,
    }
}
