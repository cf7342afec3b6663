//! One key's operations: every answer bounds the key's birth, revocation or death from below or above, and the history is
//! legal if the earliest of each is not too late.
//!
//! The three can be judged apart: an answer that shows one of them to have happened bounds all before it too, so that taking
//! each at its earliest, and none before the one before it, breaks no bound that was not broken already.

use apikey_domain::{KeyId, OrganizationId};

use super::{Answer, Kind, Operation, Outcome, Promise, Sight, Violation};

/// Later than [`super::FOREVER`], by which whatever has happened has happened.
const NEVER: u64 = u64::MAX;

/// When something happened at the earliest and at the latest, and whose answer says so.
struct Window<'a> {
    earliest: u64,
    early_by: Option<&'a Operation>,
    latest: u64,
    late_by: Option<&'a Operation>,
}

impl<'a> Window<'a> {
    const fn from(earliest: Option<&'a Operation>) -> Self {
        let at = match earliest {
            Some(operation) => operation.start,
            None => NEVER,
        };
        Self { earliest: at, early_by: earliest, latest: NEVER, late_by: None }
    }

    const fn any() -> Self {
        Self { earliest: 0, early_by: None, latest: NEVER, late_by: None }
    }

    /// It had not yet happened at some time within that operation.
    fn not_before(&mut self, operation: &'a Operation) {
        if operation.start > self.earliest {
            (self.earliest, self.early_by) = (operation.start, Some(operation));
        }
    }

    /// It had happened at some time within that operation.
    fn not_after(&mut self, operation: &'a Operation) {
        if operation.end < self.latest {
            (self.latest, self.late_by) = (operation.end, Some(operation));
        }
    }
}

pub(super) fn check(key: KeyId, operations: &[&Operation], violations: &mut Vec<Violation>) {
    let mut broken = |promise, evidence: &[&Operation]| {
        let evidence = evidence.iter().map(|operation| (*operation).clone()).collect();
        violations.push(Violation { key, promise, evidence });
    };

    let creates = |outcome| move |kind: &Kind| matches!(kind, Kind::Create(_, of) if *of == outcome);
    let revokes = |kind: &Kind| matches!(kind, Kind::Revoke(Outcome::Ok | Outcome::Unknown));
    let first = |of: &dyn Fn(&Kind) -> bool| {
        operations.iter().copied().filter(|operation| of(&operation.kind)).min_by_key(|operation| operation.start)
    };
    let mut successes = operations.iter().copied().filter(|operation| creates(Outcome::Ok)(&operation.kind));
    let create = successes.next();
    if let (Some(one), Some(another)) = (create, successes.next()) {
        broken(Promise::CreatedOnce, &[one, another]);
    }

    let mut birth = Window::from(create.or_else(|| first(&creates(Outcome::Unknown))));
    let mut revocation = Window::from(first(&revokes));
    let mut death = Window::any();
    if let Some(create) = create {
        birth.not_after(create);
    }
    for &operation in operations {
        match &operation.kind {
            Kind::Create(..) | Kind::Revoke(Outcome::Unknown) | Kind::Act(Outcome::Unknown) => {}
            Kind::Revoke(Outcome::Ok) => {
                birth.not_after(operation);
                revocation.not_after(operation);
                death.not_after(operation);
            }
            Kind::Revoke(Outcome::Refused) | Kind::Verify(Answer::Unknown) | Kind::Look(Sight::Absent) => {
                birth.not_before(operation);
            }
            Kind::Verify(Answer::Accepted(_)) => {
                birth.not_after(operation);
                death.not_before(operation);
            }
            Kind::Act(Outcome::Ok) | Kind::Look(Sight::Live) => {
                birth.not_after(operation);
                revocation.not_before(operation);
            }
            Kind::Verify(Answer::Revoked) | Kind::Act(Outcome::Refused) | Kind::Look(Sight::Revoked) => {
                birth.not_after(operation);
                revocation.not_after(operation);
            }
            Kind::Verify(Answer::Invalid) => broken(Promise::NeverRefusedWithoutRevocation, &[operation]),
        }
    }

    for window in [&birth, &revocation, &death] {
        if window.earliest > window.latest {
            let evidence: Vec<&Operation> = window.early_by.into_iter().chain(window.late_by).collect();
            broken(promise(window.early_by, std::ptr::eq(window, &raw const birth)), &evidence);
            // What follows from it would only repeat it.
            break;
        }
    }

    if let Some(Kind::Create(home, _)) = create.map(|create| &create.kind) {
        let elsewhere = |organization: &OrganizationId| organization != home;
        for &operation in operations {
            if matches!(&operation.kind, Kind::Verify(Answer::Accepted(organization)) if elsewhere(organization)) {
                broken(Promise::OneOrganization, &[operation]);
            }
        }
    }
}

/// Which promise is broken where something had not happened by the time of that operation, though another saw it before.
fn promise(early_by: Option<&Operation>, birth: bool) -> Promise {
    match early_by.map(|operation| &operation.kind) {
        Some(Kind::Verify(Answer::Accepted(_))) => Promise::NoStaleAccept,
        Some(Kind::Act(_)) => Promise::NothingInTheNameOfARevokedKey,
        Some(Kind::Look(Sight::Live)) => Promise::RevokedForEver,
        Some(Kind::Verify(Answer::Unknown) | Kind::Look(Sight::Absent) | Kind::Revoke(Outcome::Refused)) => {
            Promise::NoKeyForgotten
        }
        Some(Kind::Create(..)) => Promise::NotKnownBeforeItsCreation,
        _ if birth => Promise::NotKnownBeforeItsCreation,
        _ => Promise::NeverRefusedWithoutRevocation,
    }
}
