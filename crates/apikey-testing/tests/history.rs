//! The judge of histories is judged: it agrees with a search of all linearizations, and finds what is planted.

#![expect(clippy::panic, clippy::indexing_slicing, reason = "a panic is a failed test")]

#[path = "history/agreement.rs"]
mod agreement;
#[path = "history/brute_force.rs"]
mod brute_force;
#[path = "history/planted.rs"]
mod planted;

use apikey_application::ports::{CommitError, KeyStore as _};
use apikey_domain::{KeyId, OrganizationId};
use apikey_testing::{
    InMemoryStore,
    fixtures::{a_key, an_organization, issue},
    history::{Answer, History, Kind, Operation, Outcome, Promise, Sight},
};

fn key(seed: u64) -> KeyId {
    a_key(seed).id()
}

fn organization() -> OrganizationId {
    an_organization()
}

fn operation(start: u64, end: u64, kind: Kind) -> Operation {
    Operation { key: key(1), start, end, kind }
}

fn history(operations: Vec<Operation>) -> History {
    History { operations, ..History::default() }
}

fn promises(history: &History) -> Vec<Promise> {
    history.check().into_iter().map(|violation| violation.promise).collect()
}

fn created(start: u64, end: u64) -> Operation {
    operation(start, end, Kind::Create(organization(), Outcome::Ok))
}

fn accepted() -> Kind {
    Kind::Verify(Answer::Accepted(organization()))
}

/// What is recorded of a real store, one call after the other, is legal; with one answer changed, it is not.
#[tokio::test]
async fn a_recorded_run_of_the_store_is_legal() {
    let store = InMemoryStore::new();
    let mut operations = Vec::new();
    for seed in 1..20 {
        let subject = a_key(seed);
        let mut record = |step: u64, kind| {
            let start = 1_000 * seed + 10 * step;
            operations.push(Operation { key: subject.id(), start, end: start + 5, kind });
        };
        record(0, Kind::Look(Sight::Absent));
        let outcome = match store.commit(issue(&subject)).await {
            Ok(_) => Outcome::Ok,
            Err(CommitError::Store(_)) => Outcome::Unknown,
            Err(error) => panic!("{error}"),
        };
        record(1, Kind::Create(organization(), outcome));
        let found = store.find_by_digest(subject.digest()).await.map(|read| read.value);
        record(2, Kind::Look(if matches!(found, Ok(Some(_))) { Sight::Live } else { Sight::Absent }));
        record(3, accepted());
    }
    let mut history = history(operations);
    assert_eq!(promises(&history), []);
    let last = history.operations.len() - 1;
    history.operations[last].kind = Kind::Verify(Answer::Unknown);
    assert_eq!(promises(&history), [Promise::NoKeyForgotten]);
}
