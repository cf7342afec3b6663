//! Who waits for whom, and for how long: each case is brought about by a transaction beside the store.

use std::time::Duration;

use apikey_application::ports::{CommitError, KeyStore as _, StoreError, Use};
use apikey_domain::{ApiKey, KeyId};
use apikey_store_postgres::{Options, PostgresStore};
use apikey_testing::{
    fixtures::{a_key, an_organization, confirm, issue, on_behalf_of, revoke, seconds_later},
    postgres::TestDatabase,
};
use futures_util::{StreamExt as _, stream};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::contract::{beside, patient};

/// A store that holds these keys, a transaction beside it that has begun, and somebody who watches.
pub(crate) async fn scene(keys: &[&ApiKey], options: Options) -> (PostgresStore, Client, Client) {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let store = PostgresStore::connect(database.url(), options).await.unwrap();
    for key in keys {
        store.commit(issue(key)).await.unwrap();
    }
    let other = beside(&database).await;
    other.batch_execute("BEGIN").await.unwrap();
    (store, other, beside(&database).await)
}

/// Returns when some statement of this database waits for a lock.
pub(crate) async fn until_somebody_waits(watcher: &Client) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for _ in 0..6_000 {
        let count: i64 = watcher.query_one(waiting, &[]).await.unwrap().get(0);
        if count > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody waits");
}

async fn run(client: &Client, statement: &str, id: KeyId) {
    assert_eq!(client.execute(statement, &[&id.to_string()]).await.unwrap(), 1);
}

const NOTE_A_USE: &str = "UPDATE api_keys SET last_used_at = created_at + interval '7 s' WHERE id = $1::text::uuid";
const LOCK_THE_KEY: &str = "SELECT FROM api_keys WHERE id = $1::text::uuid FOR UPDATE";
const REVOKE: &str =
    "UPDATE api_keys SET revoked_at = created_at, revision = 2, narrowed_seq = 1 WHERE id = $1::text::uuid";

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_waited_for_the_note_of_a_use_keeps_the_use() {
    let key = a_key(1);
    let (store, other, watcher) = scene(&[&key], patient()).await;
    run(&other, NOTE_A_USE, key.id()).await;
    let revocation = tokio::spawn({
        let (store, key) = (store.clone(), key.clone());
        async move { store.commit(revoke(&key, seconds_later(9))).await }
    });
    until_somebody_waits(&watcher).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(revocation.await.unwrap().unwrap().number, 1);
    let stored = store.find_by_id(&an_organization(), key.id()).await.unwrap().value.unwrap();
    assert_eq!(stored.parts().last_used_at, Some(seconds_later(7)));
    assert_eq!(stored.parts().revoked_at, Some(seconds_later(9)));
    assert_eq!(store.commit(confirm(&key, seconds_later(10))).await.unwrap().number, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_that_waited_for_a_later_use_does_not_move_back() {
    let key = a_key(1);
    let (store, other, watcher) = scene(&[&key], patient()).await;
    run(&other, NOTE_A_USE, key.id()).await;
    let earlier = Use { key_id: key.id(), at: seconds_later(5) };
    let recording = tokio::spawn({
        let store = store.clone();
        async move { store.record_uses(&[earlier]).await }
    });
    until_somebody_waits(&watcher).await;
    other.batch_execute("COMMIT").await.unwrap();
    recording.await.unwrap().unwrap();
    let stored = store.find_by_id(&an_organization(), key.id()).await.unwrap().value.unwrap();
    assert_eq!(stored.parts().last_used_at, Some(seconds_later(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_waited_for_the_revocation_of_its_authorizer_is_refused() {
    for revokes in [false, true] {
        let (authorizer, target) = (a_key(1), a_key(2));
        let (store, other, watcher) = scene(&[&authorizer, &target], patient()).await;
        other.execute(LOCK_THE_KEY, &[&authorizer.id().to_string()]).await.unwrap();
        run(&other, REVOKE, authorizer.id()).await;
        let mutation = if revokes { revoke(&target, seconds_later(1)) } else { issue(&a_key(3)) };
        let mutation = on_behalf_of(&authorizer, mutation);
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.commit(mutation).await }
        });
        until_somebody_waits(&watcher).await;
        other.batch_execute("COMMIT").await.unwrap();
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, CommitError::AuthorizerNotStanding), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_does_not_wait_for_the_note_of_a_use_of_its_authorizer() {
    let authorizer = a_key(1);
    let options = Options { lock_timeout: Duration::from_millis(1), ..patient() };
    let (store, other, _) = scene(&[&authorizer], options).await;
    run(&other, NOTE_A_USE, authorizer.id()).await;
    store.commit(on_behalf_of(&authorizer, issue(&a_key(2)))).await.unwrap();
    other.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_waits_too_long_changes_nothing_and_says_so() {
    let (authorizer, target) = (a_key(1), a_key(2));
    let options = Options { lock_timeout: Duration::from_millis(20), ..patient() };
    let (store, other, watcher) = scene(&[&authorizer, &target], options).await;
    let timed_out = |error: CommitError| match error {
        CommitError::Store(error @ StoreError::TimedOut) => assert!(error.is_retryable()),
        other => panic!("{other:?}"),
    };
    other.execute(LOCK_THE_KEY, &[&authorizer.id().to_string()]).await.unwrap();
    timed_out(store.commit(on_behalf_of(&authorizer, issue(&a_key(3)))).await.unwrap_err());
    timed_out(store.commit(on_behalf_of(&authorizer, revoke(&target, seconds_later(1)))).await.unwrap_err());
    let error = store.record_uses(&[Use { key_id: authorizer.id(), at: seconds_later(1) }]).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut), "{error:?}");
    other.batch_execute("ROLLBACK; BEGIN; SELECT FROM revocation_head FOR UPDATE").await.unwrap();
    timed_out(store.commit(revoke(&target, seconds_later(1))).await.unwrap_err());
    other.batch_execute("ROLLBACK").await.unwrap();
    let events: i64 = watcher.query_one("SELECT count(*) FROM audit_events", &[]).await.unwrap().get(0);
    assert_eq!(events, 2, "the two issues and nothing else");
    assert_eq!(store.commit(revoke(&target, seconds_later(1))).await.unwrap().number, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_tells_whoever_listens() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let store = PostgresStore::connect(database.url(), patient()).await.unwrap();
    let (client, mut connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    let messages = stream::poll_fn(move |context| connection.poll_message(context));
    let (notes, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(messages.for_each(move |message| {
        if let Ok(AsyncMessage::Notification(note)) = message {
            notes.send((note.channel().to_owned(), note.payload().to_owned())).unwrap();
        }
        std::future::ready(())
    }));
    client.batch_execute("LISTEN apikeys_revocation").await.unwrap();
    for seed in 1..=2 {
        let key = a_key(seed);
        store.commit(issue(&key)).await.unwrap();
        store.commit(revoke(&key, seconds_later(1))).await.unwrap();
        // A confirmation and an issue tell nobody.
        store.commit(confirm(&key, seconds_later(2))).await.unwrap();
    }
    for number in ["1", "2"] {
        let note = tokio::time::timeout(Duration::from_mins(1), heard.recv()).await.unwrap();
        assert_eq!(note, Some(("apikeys_revocation".to_owned(), number.to_owned())));
    }
    assert!(heard.try_recv().is_err());
}
