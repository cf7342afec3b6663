//! The fake keeps the contract that it stands in for, and its faults do what they say.

use apikey_application::ports::{CommitError, KeyStore, StoreError};
use apikey_testing::{
    InMemoryStore, StoreCall,
    fixtures::{a_key, an_organization, issue},
};

async fn fresh() -> InMemoryStore {
    InMemoryStore::new()
}

apikey_testing::store_contract! {
    #[tokio::test(flavor = "multi_thread")]
    fresh
}

#[tokio::test]
async fn a_failure_is_met_once_and_changes_nothing() {
    let (store, key) = (InMemoryStore::new(), a_key(1));
    store.fail_next(StoreCall::Commit, StoreError::TimedOut);
    let error = store.commit(issue(&key)).await.expect_err("the failure is due");
    assert!(matches!(error, CommitError::Store(StoreError::TimedOut)), "{error:?}");
    assert_eq!((store.keys(), store.audit()), (vec![], vec![]));
    store.commit(issue(&key)).await.expect("the failure was met");
    assert_eq!((store.keys(), store.calls(StoreCall::Commit)), (vec![key], 2));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_has_happened() {
    let (store, key) = (InMemoryStore::new(), a_key(1));
    store.fail_next(StoreCall::Commit, StoreError::OutcomeUnknown("lost".into()));
    store.commit(issue(&key)).await.expect_err("the answer is lost");
    assert_eq!(store.keys(), [key]);
}

#[tokio::test]
async fn held_calls_wait_until_they_are_let_go() {
    let (store, key) = (InMemoryStore::new(), a_key(1));
    let held = store.hold(StoreCall::Commit);
    let call = tokio::spawn({
        let (store, commit) = (store.clone(), issue(&key));
        async move { store.commit(commit).await }
    });
    while store.calls(StoreCall::Commit) == 0 {
        tokio::task::yield_now().await;
    }
    let found = store.find_by_id(&an_organization(), key.id()).await.expect("other calls are not held").value;
    assert_eq!((found, call.is_finished()), (None, false));
    drop(held);
    call.await.expect("no panic").expect("the commit goes on");
    assert_eq!(store.keys(), [key]);
}
