//! Connections that are lost, refused, exhausted or abandoned, and that the store is none the worse for it.

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use apikey_application::{
    fence::Lease,
    ports::{CommitError, KeyStore as _, Revocations as _, StoreError},
};
use apikey_store_postgres::{ConnectError, ConnectionError, MigrateError, Options, PostgresStore, UrlSource};
use apikey_testing::{
    fixtures::{a_key, an_organization, issue, revoke, seconds_later},
    postgres::{PASSWORD, TestDatabase, TestServer},
};
use futures_util::future::join_all;
use tokio::{net::TcpListener, time::Instant};
use tokio_postgres::Client;

use super::{
    contract::{beside, patient},
    locks::{scene, until_somebody_waits},
    revocations::a_replica,
};

/// Asks until the store answers; every failure before must be one that may pass.
pub(crate) async fn until_it_answers(store: &PostgresStore) {
    for _ in 0..600 {
        match store.ping().await {
            Ok(()) => return,
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the store does not recover");
}

pub(crate) async fn terminate_the_others(client: &Client) -> i64 {
    let statement = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'apikeys'";
    client.query_one(statement, &[]).await.unwrap().get(0)
}

/// Ends the sessions of a role of the shared server.
fn terminate(role: &str) {
    let statement = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'");
    assert_ne!(TestServer::shared().psql("postgres", &statement), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_that_were_closed_are_replaced() {
    let (store, _, watcher) = scene(&[&a_key(1)], patient()).await;
    for _ in 0..3 {
        for answer in join_all((0..8).map(|_| store.ping())).await {
            answer.unwrap();
        }
        assert!(terminate_the_others(&watcher).await >= 1);
        until_it_answers(&store).await;
        assert!(store.find_by_digest(a_key(1).digest()).await.unwrap().value.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_is_lost_is_of_unknown_outcome_and_a_read_is_not() {
    let key = a_key(1);
    let (store, other, watcher) = scene(&[&key], patient()).await;
    // Once unhindered, so that the statements are prepared.
    store.commit(issue(&a_key(2))).await.unwrap();
    store.commit(revoke(&a_key(2), seconds_later(1))).await.unwrap();
    other.batch_execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let issuing = tokio::spawn({
        let store = store.clone();
        async move { store.commit(issue(&a_key(3))).await }
    });
    until_somebody_waits(&watcher).await;
    terminate_the_others(&watcher).await;
    let error = issuing.await.unwrap().unwrap_err();
    assert!(matches!(error, CommitError::Store(StoreError::OutcomeUnknown(_))), "{error:?}");
    let reading = tokio::spawn({
        let (store, id) = (store.clone(), key.id());
        async move { store.find_by_id(&an_organization(), id).await }
    });
    until_somebody_waits(&watcher).await;
    terminate_the_others(&watcher).await;
    let error = reading.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    other.batch_execute("ROLLBACK").await.unwrap();
    until_it_answers(&store).await;
    store.commit(issue(&a_key(3))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_too_late_is_not_waited_for() {
    let key = a_key(1);
    let (store, other, watcher) = scene(&[&key], Options { max_connections: 2, ..patient() }).await;
    drop(store);
    let database: String = watcher.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    let url = TestDatabase::create().url().to_owned();
    let url = format!("{}/{database}", url.rsplit_once('/').unwrap().0);
    let hasty = Options { statement_timeout: Duration::from_millis(300), max_connections: 2, ..patient() };
    let store = PostgresStore::connect(&url, hasty).await.unwrap();
    other.batch_execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // More often than there are connections: each was given up.
    for _ in 0..5 {
        let error = store.find_by_digest(key.digest()).await.unwrap_err();
        assert!(matches!(error, StoreError::TimedOut), "{error:?}");
        let error = store.commit(issue(&a_key(2))).await.unwrap_err();
        assert!(matches!(error, CommitError::Store(StoreError::OutcomeUnknown(_))), "{error:?}");
    }
    other.batch_execute("ROLLBACK").await.unwrap();
    let patient = PostgresStore::connect(&url, patient()).await.unwrap();
    assert!(patient.find_by_digest(key.digest()).await.unwrap().value.is_some());
    until_it_answers(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_finds_no_connection_free_is_told_so() {
    let key = a_key(1);
    let options = Options { max_connections: 1, acquire_timeout: Duration::from_millis(100), ..patient() };
    let (store, other, watcher) = scene(&[&key], options).await;
    other.batch_execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let first = tokio::spawn({
        let (store, digest) = (store.clone(), *key.digest());
        async move { store.find_by_digest(&digest).await }
    });
    until_somebody_waits(&watcher).await;
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Overloaded), "{error:?}");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert!(first.await.unwrap().unwrap().value.is_some());
    store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_takes_its_connection_with_it() {
    let key = a_key(1);
    let (store, other, watcher) = scene(&[&key], Options { max_connections: 1, ..patient() }).await;
    other.batch_execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let digest = *key.digest();
    tokio::select! {
        answer = store.find_by_digest(&digest) => panic!("{answer:?}"),
        () = until_somebody_waits(&watcher) => {}
    }
    // The answer to the abandoned call must never be taken for the answer to this one.
    store.ping().await.unwrap();
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(store.find_by_digest(a_key(2).digest()).await.unwrap().value, None);
    assert!(store.find_by_digest(&digest).await.unwrap().value.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_closed_answers_nothing() {
    let (store, _, _) = scene(&[], patient()).await;
    assert!(!store.any_keys().await.unwrap());
    store.commit(issue(&a_key(1))).await.unwrap();
    assert!(store.any_keys().await.unwrap());
    store.close();
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

/// All that an error shows, of itself and of its causes.
fn shown(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(|error| format!("{error} {error:?} {error:#?}")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn no_error_shows_the_password() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let secrets = [PASSWORD, "another-password"];
    let mut texts = vec![format!("{:?}", PostgresStore::connect(database.url(), patient()).await.unwrap())];
    let address = database.url().split_once('@').unwrap().1;
    let port = address.split_once('/').unwrap().0.split_once(':').unwrap().1;
    for url in [
        database.url().replace(PASSWORD, "another-password"),
        database.url().replace("test_", "missing_"),
        database.url().replace(port, "1"),
        database.url().replace(port, PASSWORD),
        database.url().replace("127.0.0.1", "host.invalid"),
        format!("{}?sslmode=require", database.url()),
        format!("{}?sslmode={PASSWORD}", database.url()),
        format!("{}?{PASSWORD}={PASSWORD}", database.url()),
        format!("{}?sslmode=verify-full&sslrootcert=/{PASSWORD}/", database.url()),
    ] {
        let error = PostgresStore::connect(&url, patient()).await.expect_err(&url);
        assert!(matches!(error, ConnectError::Target(_) | ConnectError::Connection(_)), "{error:?}");
        texts.push(shown(&error));
        let error = PostgresStore::migrate(&url, patient()).await.expect_err(&url);
        assert!(matches!(error, MigrateError::Target(_) | MigrateError::Connection(_)), "{error:?}");
        texts.push(shown(&error));
    }
    for text in texts {
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_or_stands_still_is_survived() {
    let server = TestServer::start(&[]);
    let database = server.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let options =
        Options { statement_timeout: Duration::from_secs(2), connect_timeout: Duration::from_secs(2), ..patient() };
    let store = PostgresStore::connect(database.url(), options).await.unwrap();
    for seed in 1..=8 {
        store.commit(issue(&a_key(seed))).await.unwrap();
    }
    let seq = store.commit(revoke(&a_key(1), seconds_later(1))).await.unwrap();
    server.crash();
    until_it_answers(&store).await;
    for seed in 1..=8 {
        let read = store.find_by_digest(a_key(seed).digest()).await.unwrap();
        assert_eq!(read.value.unwrap().parts().revoked_at.is_some(), seed == 1, "what was confirmed is kept");
        assert_eq!(read.seq, seq);
    }
    let paused = server.pause();
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut), "{error:?}");
    let error = store.commit(issue(&a_key(9))).await.unwrap_err();
    assert!(error_of_a_dead_server(&error), "{error:?}");
    drop(paused);
    until_it_answers(&store).await;
    store.commit(issue(&a_key(10))).await.unwrap();
}

/// A new connection cannot be opened, or a statement on an old one is not answered.
fn error_of_a_dead_server(error: &CommitError) -> bool {
    matches!(error, CommitError::Store(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_server_grants_fewer_connections_than_the_pool_may_hold_calls_wait_for_those() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let role = format!("limited_{}", database.name());
    let create = format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 4");
    TestServer::shared().psql("postgres", &create);
    PostgresStore::grant(database.url(), patient(), &role).await.unwrap();
    let url = database.url().replace("//apikeys:", &format!("//{role}:"));
    let store = PostgresStore::connect(&url, Options { max_connections: 16, ..patient() }).await.unwrap();
    // Two more are taken, as by a lease.
    store.revocations().join(a_replica(1), Lease::DEFAULT).await.unwrap();
    store.revocations().replicas().await.unwrap();
    let created = (1..=50).map(|seed| {
        let store = store.clone();
        async move { store.commit(issue(&a_key(seed))).await }
    });
    for outcome in join_all(created).await {
        outcome.unwrap();
    }
    // Nobody waits for connections that are not there.
    terminate(&role);
    until_it_answers(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_the_few_connections_that_there_are_does_not_wait_for_ever() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let role = format!("single_{}", database.name());
    let server = TestServer::shared();
    server.psql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 3"));
    PostgresStore::grant(database.url(), patient(), &role).await.unwrap();
    let url = database.url().replace("//apikeys:", &format!("//{role}:"));
    let options = Options { max_connections: 16, acquire_timeout: Duration::from_millis(200), ..patient() };
    let store = PostgresStore::connect(&url, options).await.unwrap();
    store.ping().await.unwrap();
    server.psql("postgres", &format!("ALTER ROLE {role} CONNECTION LIMIT 1"));
    let other = beside(&database).await;
    other.batch_execute("BEGIN; LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.find_by_digest(a_key(1).digest()).await }
    });
    // What a role waits for is hidden from others.
    let waiting = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
        database.name()
    );
    while server.psql("postgres", &waiting) != "t" {}
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Overloaded), "{error:?}");
    other.batch_execute("ROLLBACK").await.unwrap();
    first.await.unwrap().unwrap();
    store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_is_read_again() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let role = format!("rotated_{}", database.name());
    let server = TestServer::shared();
    server.psql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'"));
    PostgresStore::grant(database.url(), patient(), &role).await.unwrap();
    let url = database.url().replace("//apikeys:", &format!("//{role}:"));
    let held = Arc::new(Mutex::new(url.clone()));
    let source = Arc::clone(&held);
    let read_again = UrlSource::new(move || Some(source.lock().unwrap().as_str().into()));
    let store = PostgresStore::connect(&url, Options { url_source: Some(read_again), ..patient() }).await.unwrap();
    store.ping().await.unwrap();
    server.psql("postgres", &format!("ALTER ROLE {role} PASSWORD 'another'"));
    terminate(&role);
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    // What cannot be used is not.
    *held.lock().unwrap() = "postgres://localhost/keys?sslmode=none".to_owned();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    *held.lock().unwrap() = url.replace(PASSWORD, "another");
    until_it_answers(&store).await;
    store.revocations().join(a_replica(1), Lease::DEFAULT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_s_type_that_was_changed_makes_a_call_fail_once_at_most() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let store = PostgresStore::connect(database.url(), Options { max_connections: 1, ..patient() }).await.unwrap();
    store.commit(issue(&a_key(1))).await.unwrap();
    assert!(store.find_by_digest(a_key(1).digest()).await.unwrap().value.is_some());
    beside(&database).await.batch_execute("ALTER TABLE api_keys ALTER COLUMN prefix TYPE varchar(200)").await.unwrap();
    let error = store.find_by_digest(a_key(1).digest()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "it may be tried again: {error:?}");
    assert!(store.find_by_digest(a_key(1).digest()).await.unwrap().value.is_some());
}

/// On a clock that stands still while there is something to do, and otherwise goes to what is waited for next.
#[tokio::test(start_paused = true)]
async fn the_first_connection_obeys_the_time_limits_for_connecting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://apikeys@{}/keys?sslmode=disable", listener.local_addr().unwrap());
    for (url, options, limit) in [
        (url.clone(), Options { connect_timeout: Duration::from_secs(7), ..patient() }, Duration::from_secs(7)),
        (format!("{url}&connect_timeout=11"), patient(), Duration::from_secs(11)),
    ] {
        // The system accepts connections for the listener, and nobody answers on them.
        for step in ["connect", "migrate"] {
            let started = Instant::now();
            let error = match step {
                "connect" => {
                    PostgresStore::connect(&url, options.clone()).await.map(drop).map_err(|error| match error {
                        ConnectError::Connection(error) => error,
                        other => panic!("{other:?}"),
                    })
                }
                _ => PostgresStore::migrate(&url, options.clone()).await.map(drop).map_err(|error| match error {
                    MigrateError::Connection(error) => error,
                    other => panic!("{other:?}"),
                }),
            };
            assert!(matches!(error, Err(ConnectionError::TimedOut)), "{step}: {error:?}");
            assert_eq!(started.elapsed().as_secs(), limit.as_secs(), "{step}");
        }
    }
}
