//! What keys leave behind: their last use, and the audit trail.

use std::collections::BTreeMap;

use apikey_domain::{KeyEventKind, KeyId};

use super::{Answer, Kind, Operation, Outcome, Promise, Sight, UseReading, Violation};

/// A reading that began after another had ended shows nothing older.
pub(super) fn check_uses(uses: &[UseReading], violations: &mut Vec<Violation>) {
    let mut keys: BTreeMap<KeyId, Vec<UseReading>> = BTreeMap::new();
    for reading in uses {
        keys.entry(reading.key).or_default().push(*reading);
    }
    for (key, mut by_start) in keys {
        by_start.sort_by_key(|reading| reading.start);
        let mut by_end = by_start.clone();
        by_end.sort_by_key(|reading| reading.end);
        let (mut ended, mut newest) = (by_end.into_iter().peekable(), None);
        for reading in by_start {
            while let Some(before) = ended.next_if(|before| before.end < reading.start) {
                newest = newest.max(before.last_used_at);
            }
            if reading.last_used_at < newest {
                violations.push(Violation { key, promise: Promise::LastUseNeverMovesBack, evidence: Vec::new() });
                break;
            }
        }
    }
}

/// How many events of a kind there must be.
struct Expected {
    at_least: usize,
    at_most: usize,
}

pub(super) fn check_audit(
    audit: &[(KeyId, KeyEventKind)],
    keys: &BTreeMap<KeyId, Vec<&Operation>>,
    violations: &mut Vec<Violation>,
) {
    let mut found: BTreeMap<(KeyId, &str), usize> = BTreeMap::new();
    for (key, kind) in audit {
        *found.entry((*key, kind.name())).or_default() += 1;
    }
    for (key, operations) in keys {
        for kind in KeyEventKind::ALL {
            let Expected { at_least, at_most } = expected(kind, operations);
            let events = found.remove(&(*key, kind.name())).unwrap_or_default();
            if !(at_least..=at_most).contains(&events) {
                let evidence = operations.iter().filter(|operation| changes(kind, operation)).map(|of| (*of).clone());
                violations.push(Violation {
                    key: *key,
                    promise: Promise::OneEventPerChange,
                    evidence: evidence.collect(),
                });
            }
        }
    }
    // Events of keys that nobody did anything to. A lost answer to a create does not tell the id.
    let strangers = found.into_keys().filter(|(_, kind)| *kind != KeyEventKind::Issued.name());
    violations.extend(strangers.map(|(key, _)| Violation {
        key,
        promise: Promise::OneEventPerChange,
        evidence: Vec::new(),
    }));
}

fn changes(kind: KeyEventKind, operation: &Operation) -> bool {
    match kind {
        KeyEventKind::Issued => matches!(operation.kind, Kind::Create(..)),
        KeyEventKind::Revoked => matches!(operation.kind, Kind::Revoke(_)),
    }
}

fn expected(kind: KeyEventKind, operations: &[&Operation]) -> Expected {
    let any = |of: fn(&Kind) -> bool| usize::from(operations.iter().any(|operation| of(&operation.kind)));
    match kind {
        KeyEventKind::Issued => Expected {
            at_least: any(|kind| {
                matches!(
                    kind,
                    Kind::Create(_, Outcome::Ok)
                        | Kind::Verify(Answer::Accepted(_) | Answer::Revoked)
                        | Kind::Look(Sight::Live | Sight::Revoked)
                )
            }),
            at_most: any(|kind| matches!(kind, Kind::Create(_, Outcome::Ok | Outcome::Unknown))),
        },
        KeyEventKind::Revoked => Expected {
            at_least: any(|kind| {
                matches!(kind, Kind::Revoke(Outcome::Ok) | Kind::Verify(Answer::Revoked) | Kind::Look(Sight::Revoked))
            }),
            at_most: any(|kind| matches!(kind, Kind::Revoke(Outcome::Ok | Outcome::Unknown))),
        },
    }
}
