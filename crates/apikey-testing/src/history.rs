//! What many clients did to a running system at once, and the judge of it. Knows no system: it sees operations alone, each
//! with its start, its end and its outcome.
//!
//! Per key, a history is legal if there are three instants, *birth* ≤ *revocation* ≤ *death*, that explain every answer:
//!
//! ```text
//!        unborn    │       live       │ either may be answered │   revoked
//!   ───────────────┼──────────────────┼────────────────────────┼──────────────►
//!                birth            revocation                 death
//!           within the          not before the           before any revoke
//!          create's call     first revoke began          that returned OK ends
//! ```
//!
//! This is linearizability of a register (Herlihy and Wing, 1990) that goes unborn → live → revoked, but for the time between
//! the commit of a revocation and its OK: there, one replica may know of it while another does not. What commits in the name
//! of a key does so before its revocation; a verification may accept it until its death.
//!
//! [`History::check`] takes near-linear time, since every answer bounds these instants from one side.

mod one_key;
mod trails;

use std::collections::BTreeMap;

use apikey_domain::{KeyEventKind, KeyId, OrganizationId};

/// The end of an operation whose answer was lost, but whose effect was found in the store when all was over.
pub const FOREVER: u64 = u64::MAX - 1;

/// An operation on one key, or with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which key.
    pub key: KeyId,
    /// When the client began it: nanoseconds on one clock for all clients, read before the request is sent.
    pub start: u64,
    /// When its answer was there: the same clock, read after the answer. Means nothing where the outcome is unknown.
    pub end: u64,
    /// What it was, and what came of it.
    pub kind: Kind,
}

/// What an operation was, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key is created, in that organization. Refused: it was not.
    Create(OrganizationId, Outcome),
    /// The key is revoked. Refused: there is no such key.
    Revoke(Outcome),
    /// The genuine key, in its one spelling, is verified.
    Verify(Answer),
    /// A change that is authorized by the key. Refused: the key was not accepted.
    Act(Outcome),
    /// The key is looked up in the store itself.
    Look(Sight),
}

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was carried out.
    Ok,
    /// It was certainly not carried out, for the reason that [`Kind`] names. Any other refusal says nothing about the key and
    /// is not recorded.
    Refused,
    /// Nobody knows: it may have been carried out, or may yet be.
    Unknown,
}

/// What a verification answered. One that failed says nothing and is not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The key is accepted, and speaks for that organization.
    Accepted(OrganizationId),
    /// The key is refused: it is revoked.
    Revoked,
    /// The key is refused: it is not known.
    Unknown,
    /// The key is refused for any other reason, though it is well-formed and may do what was asked.
    Invalid,
}

/// What was seen in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// There is no such key.
    Absent,
    /// The key, not revoked.
    Live,
    /// The key, revoked.
    Revoked,
}

/// A reading of a key's `last_used_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UseReading {
    /// Which key.
    pub key: KeyId,
    /// When the reading began, on the clock of [`Operation::start`].
    pub start: u64,
    /// When its answer was there.
    pub end: u64,
    /// What it showed: microseconds since the Unix epoch.
    pub last_used_at: Option<i64>,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What clients did, in any order.
    pub operations: Vec<Operation>,
    /// Readings of `last_used_at`, in any order.
    pub uses: Vec<UseReading>,
    /// The audit trail as it is when all is over and nothing is under way any more, if it was read.
    pub audit: Option<Vec<(KeyId, KeyEventKind)>>,
}

/// The system broke a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// To which key.
    pub key: KeyId,
    /// Which promise.
    pub promise: Promise,
    /// What contradicts it or each other.
    pub evidence: Vec<Operation>,
}

/// What the system promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// No verification that began after a revocation returned OK is accepted.
    NoStaleAccept,
    /// Nothing commits in the name of a key after its revocation.
    NothingInTheNameOfARevokedKey,
    /// A key whose creation was acknowledged is never lost or called unknown.
    NoKeyForgotten,
    /// A revocation is never undone.
    RevokedForEver,
    /// No key is refused, as revoked or as anything else, before somebody revokes it: an outage is not a verdict.
    NeverRefusedWithoutRevocation,
    /// No key is known before somebody creates it.
    NotKnownBeforeItsCreation,
    /// No key is created twice.
    CreatedOnce,
    /// No key speaks for another organization than the one it was created in.
    OneOrganization,
    /// `last_used_at` never moves back.
    LastUseNeverMovesBack,
    /// Each change has exactly one audit event, and no event is without its change.
    OneEventPerChange,
}

impl History {
    /// Adds what another client recorded.
    pub fn merge(&mut self, other: Self) {
        let Self { operations, uses, audit } = other;
        self.operations.extend(operations);
        self.uses.extend(uses);
        if let Some(audit) = audit {
            self.audit.get_or_insert_default().extend(audit);
        }
    }

    /// Every promise that was broken, key by key: where a key's answers contradict each other more than once in the same way,
    /// the widest contradiction.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut keys: BTreeMap<KeyId, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(operation.key).or_default().push(operation);
        }
        let mut violations = Vec::new();
        for (key, operations) in &keys {
            one_key::check(*key, operations, &mut violations);
        }
        trails::check_uses(&self.uses, &mut violations);
        if let Some(audit) = &self.audit {
            trails::check_audit(audit, &keys, &mut violations);
        }
        violations
    }
}
