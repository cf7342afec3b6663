//! Breadth-first exploration of every reachable state, and seeded random walks where there are too many.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    fmt::Write as _,
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

use crate::{
    setup::Setup,
    world::{Action, Violation, World},
};

/// What an exploration found.
pub(crate) struct Exploration {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// The kinds of step that were taken.
    pub(crate) kinds: BTreeSet<String>,
    pub(crate) took: Duration,
    pub(crate) counterexample: Option<Counterexample>,
}

/// A shortest way to break the promise.
pub(crate) struct Counterexample {
    pub(crate) violation: Violation,
    pub(crate) trace: Vec<Action>,
}

impl Counterexample {
    pub(crate) fn print(&self) -> String {
        let mut text = String::new();
        for (index, action) in self.trace.iter().enumerate() {
            let _ = writeln!(text, "{:3}. {action:?}", index + 1);
        }
        let _ = writeln!(text, "     {:?}", self.violation);
        text
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are fingerprints");
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves are folded into one")]
    fn write_u128(&mut self, key: u128) {
        self.0 = (key ^ key >> 64) as u64;
    }
}

type Ways = HashMap<u128, (u128, Action), BuildHasherDefault<Folded>>;

/// Visits every state that can be reached, until one breaks the promise. Never more than `limit` states: a run that would
/// need more is a mistake of its setup.
#[expect(clippy::disallowed_methods, reason = "the time is shown, and nothing depends on it")]
pub(crate) fn explore(setup: &Setup, limit: usize) -> Exploration {
    let started = Instant::now();
    let first = World::<1>::new(setup);
    let root = first.fingerprint(setup);
    let mut ways: Ways = HashMap::default();
    ways.insert(root, (root, Action::Creates));
    let (mut frontier, mut next) = (vec![(first, root)], Vec::new());
    let mut seen_kinds = Vec::new();
    let (mut steps, mut actions) = (0, Vec::new());
    let mut counterexample = None;
    'all: while !frontier.is_empty() {
        for (world, from) in frontier.drain(..) {
            world.possible(setup, &mut actions);
            for action in &actions {
                let mut after = world.clone();
                let violation = after.take(setup, *action);
                steps += 1;
                let kind = std::mem::discriminant(action);
                if !seen_kinds.iter().any(|(seen, _)| *seen == kind) {
                    seen_kinds.push((kind, *action));
                }
                if let Some(violation) = violation {
                    counterexample = Some(Counterexample { violation, trace: way_to(&ways, root, from, *action) });
                    break 'all;
                }
                let to = after.fingerprint(setup);
                if let Entry::Vacant(entry) = ways.entry(to) {
                    entry.insert((from, *action));
                    next.push((after, to));
                }
            }
            assert!(ways.len() <= limit, "more than {limit} states: {setup:?}");
        }
        std::mem::swap(&mut frontier, &mut next);
    }
    let name = |action: &Action| format!("{action:?}").split(['(', ' ']).next().unwrap_or_default().to_owned();
    let kinds = seen_kinds.iter().map(|(_, action)| name(action)).collect();
    Exploration { states: ways.len(), steps, kinds, took: started.elapsed(), counterexample }
}

fn way_to(ways: &Ways, root: u128, mut at: u128, last: Action) -> Vec<Action> {
    let mut trace = vec![last];
    while at != root {
        let (from, action) = ways[&at];
        trace.push(action);
        at = from;
    }
    trace.reverse();
    trace
}

/// A generator of steps (splitmix64, Steele, Lea and Flood): a seed gives the same walk everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ mixed >> 31) % bound as u64).expect("small")
    }
}

impl Dice {
    /// First the kind of step, then the step: what can happen in many ways is not more likely. Half the time a verification
    /// that is followed goes on, if it can: that is where the promise breaks.
    fn one_of(&mut self, actions: &[Action]) -> Action {
        let verifies = |action: &&Action| {
            matches!(action, Action::Arrives { .. } | Action::IsAdmitted(_) | Action::Notes(_) | Action::Looks(_))
        };
        if let Some(action) = actions.iter().find(verifies).filter(|_| self.below(2) == 0) {
            return *action;
        }
        let mut kinds: Vec<_> = actions.iter().map(std::mem::discriminant).collect();
        kinds.dedup();
        let kind = kinds[self.below(kinds.len())];
        let of_kind: Vec<&Action> = actions.iter().filter(|action| std::mem::discriminant(*action) == kind).collect();
        *of_kind[self.below(of_kind.len())]
    }
}

/// How long time passes in a walk: moments, a renewal's interval, just less than a lease and just more.
const PASSING_MILLIS: [u64; 6] = [1, 200, 5_000, 20_000, 59_400, 60_200];

/// Takes random steps from the beginning, as many walks as asked for, with clocks that drift apart as far as is allowed.
/// Returns how many steps were taken and the first walk that broke the promise.
pub(crate) fn walk<const N: usize>(setup: &Setup, walks: u64, length: usize) -> (usize, Option<Counterexample>) {
    let (mut steps, mut actions) = (0, Vec::new());
    for seed in 0..walks {
        let mut dice = Dice(seed.wrapping_mul(0xA076_1D64_78BD_642F));
        let mut world = World::<N>::new(setup);
        for replica in &mut world.replicas {
            replica.drift_per_million = [-1, 0, 1][dice.below(3)] * setup.drift_per_million;
        }
        let mut trace = Vec::new();
        for _ in 0..length {
            world.possible(setup, &mut actions);
            if actions.is_empty() {
                break;
            }
            let action = match dice.one_of(&actions) {
                // Seldom: within a lease's time there is much to do.
                Action::TimePasses(_) if dice.below(4) > 0 => continue,
                Action::TimePasses(_) => Action::TimePasses(PASSING_MILLIS[dice.below(PASSING_MILLIS.len())]),
                // Rarely, or nothing else would ever come to an end.
                Action::Crashes(_) | Action::Leaves(_) | Action::FailsOver | Action::Restores if dice.below(20) > 0 => {
                    continue;
                }
                action => action,
            };
            trace.push(action);
            steps += 1;
            if let Some(violation) = world.take(setup, action) {
                return (steps, Some(Counterexample { violation, trace }));
            }
        }
    }
    (steps, None)
}
