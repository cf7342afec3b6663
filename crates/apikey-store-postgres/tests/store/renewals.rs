//! The connections of the revocation log: given up, lost, refused, distrusted, and never the pool's.

use std::{pin::pin, sync::Arc, time::Duration};

use apikey_application::{
    fence::{Lease, Reaping},
    ports::{KeyStore as _, Renewed, Revocations as _, StoreError},
};
use apikey_store_postgres::{Options, PostgresRevocations, PostgresStore};
use apikey_testing::{
    fixtures::{a_key, issue, revoke, seconds_later},
    postgres::{TestDatabase, TestServer},
};
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_postgres::Client;

use super::{
    connections::{terminate_the_others, until_it_answers},
    contract::{beside, patient},
    locks::{scene, until_somebody_waits},
    revocations::{a_replica, renew, stored, try_to_renew},
};

/// The server's processes that serve the store: their ids, and what each does or did last.
pub(crate) async fn backends(watcher: &Client) -> Vec<(i32, String)> {
    let statement = "SELECT pid, query FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'apikeys' ORDER BY pid";
    let rows = watcher.query(statement, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The one process whose last statement holds this text in its first kilobyte, which is what the server shows.
async fn backend(watcher: &Client, text: &str) -> i32 {
    let all = backends(watcher).await;
    let found: Vec<_> = all.iter().filter(|(_, query)| query.contains(text)).collect();
    assert_eq!(found.len(), 1, "{text}: {all:?}");
    found[0].0
}

/// Returns when a statement that holds this text has begun.
async fn until_it_runs(watcher: &Client, text: &str) {
    for _ in 0..6_000 {
        if backends(watcher).await.iter().any(|(_, query)| query.contains(text)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{text} does not run");
}

async fn until_gone(watcher: &Client, process: i32) {
    for _ in 0..6_000 {
        if backends(watcher).await.iter().all(|(pid, _)| *pid != process) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the connection is still open");
}

/// Returns when the row of replica 1 has been renewed since it showed that number.
async fn until_renewed(watcher: &Client, before: i64) {
    for _ in 0..6_000 {
        if stored(watcher, a_replica(1)).await.unwrap().1 > before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the renewal was not committed");
}

/// Renews replica 1 until that succeeds; every failure before must be of a connection that ended.
async fn until_it_renews(revocations: &PostgresRevocations) {
    for _ in 0..600 {
        match try_to_renew(revocations, a_replica(1), 0).await {
            Ok(Renewed::Committed(_)) => return,
            Ok(other) => panic!("{other:?}"),
            Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("renewals do not recover");
}

/// Fails, and does not hang, where no hint comes.
async fn until_hinted(revocations: &PostgresRevocations) {
    tokio::time::timeout(Duration::from_mins(1), revocations.hinted()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_given_up_is_not_cancelled_and_the_next_ones_do_not_wait_for_it() {
    let (store, other, watcher) = scene(&[], patient()).await;
    let revocations = store.revocations();
    revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
    revocations.join(a_replica(2), Lease::DEFAULT).await.unwrap();
    let lock = "SELECT FROM replicas WHERE id = $1::text::uuid FOR UPDATE";
    other.execute(lock, &[&a_replica(1).as_uuid().to_string()]).await.unwrap();
    tokio::select! {
        renewal = try_to_renew(&revocations, a_replica(1), 0) => panic!("{renewal:?}"),
        () = until_somebody_waits(&watcher) => {}
    }
    let given_up = backend(&watcher, "UPDATE \"public\".replicas").await;
    // On another connection, while the first statement still waits.
    renew(&revocations, a_replica(2), 0).await;
    until_somebody_waits(&watcher).await;
    assert!(backends(&watcher).await.iter().any(|(pid, _)| *pid == given_up));
    other.batch_execute("ROLLBACK").await.unwrap();
    until_renewed(&watcher, 0).await;
    until_gone(&watcher, given_up).await;
    renew(&revocations, a_replica(1), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_waits_for_the_standby() {
    let server = TestServer::start(&[]);
    let database = server.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let revocations = PostgresStore::connect(database.url(), patient()).await.unwrap().revocations();
    revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
    let set = |statement| {
        server.psql("postgres", statement);
        server.psql("postgres", "SELECT pg_reload_conf()");
    };
    // A standby that never comes.
    set("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    let waiting = async {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        for _ in 0..600 {
            if server.psql("postgres", count) == "1" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nobody waits for the standby");
    };
    {
        // Whoever was told of the new setting late has renewed without it.
        let renewing = async {
            loop {
                renew(&revocations, a_replica(1), 0).await;
            }
        };
        let (mut waiting, mut renewing) = (pin!(waiting), pin!(renewing));
        tokio::select! {
            () = &mut waiting => {}
            () = &mut renewing => {}
        }
    }
    let watcher = beside(&database).await;
    let before = stored(&watcher, a_replica(1)).await.unwrap().1;
    set("ALTER SYSTEM RESET synchronous_standby_names");
    until_renewed(&watcher, before).await;
    renew(&revocations, a_replica(1), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_hinted_at_also_after_the_connection_was_lost() {
    let keys = [1, 2, 3].map(a_key);
    let (store, _, watcher) = scene(&keys.each_ref(), patient()).await;
    let revocations = store.revocations();
    revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
    for key in &keys {
        assert_eq!(revocations.hinted().now_or_never(), None, "nothing was revoked");
        store.commit(revoke(key, seconds_later(1))).await.unwrap();
        until_hinted(&revocations).await;
        assert!(terminate_the_others(&watcher).await >= 2);
        until_it_answers(&store).await;
        until_it_renews(&revocations).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_comes_while_nobody_waits_is_kept() {
    let key = a_key(1);
    let (store, _, _) = scene(&[&key], patient()).await;
    let revocations = store.revocations();
    revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
    assert_eq!(revocations.hinted().now_or_never(), None);
    store.commit(revoke(&key, seconds_later(1))).await.unwrap();
    // Its answer comes after the notification, on the same connection.
    renew(&revocations, a_replica(1), 0).await;
    until_hinted(&revocations).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_pool_delays_neither_renewals_nor_whoever_watches_them() {
    let key = a_key(1);
    let options = Options { max_connections: 1, acquire_timeout: Duration::from_millis(50), ..patient() };
    let (store, other, watcher) = scene(&[&key], options).await;
    other.batch_execute("SELECT FROM revocation_head FOR UPDATE").await.unwrap();
    let revoking = tokio::spawn({
        let store = store.clone();
        async move { store.commit(revoke(&a_key(1), seconds_later(1))).await }
    });
    until_somebody_waits(&watcher).await;
    let revocations = store.revocations();
    let (me, gone) = (a_replica(1), a_replica(2));
    revocations.join(me, Lease::DEFAULT).await.unwrap();
    revocations.join(gone, Lease::DEFAULT).await.unwrap();
    renew(&revocations, me, 0).await;
    assert_eq!(revocations.replicas().await.unwrap().value.len(), 2);
    assert!(revocations.reap(Reaping { id: gone, renewals: 0 }).await.unwrap());
    revocations.leave(me).await.unwrap();
    assert!(matches!(store.ping().await, Err(StoreError::Overloaded)), "the pool was exhausted all the time");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(revoking.await.unwrap().unwrap().number, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_does_not_wait_for_ever() {
    let (store, other, watcher) =
        scene(&[], Options { statement_timeout: Duration::from_millis(300), ..patient() }).await;
    let revocations = store.revocations();
    revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
    other.batch_execute("LOCK TABLE replicas IN ACCESS EXCLUSIVE MODE").await.unwrap();
    for _ in 0..2 {
        let error = revocations.replicas().await.unwrap_err();
        assert!(matches!(error, StoreError::TimedOut), "{error:?}");
        let error = revocations.leave(a_replica(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::OutcomeUnknown(_)), "{error:?}");
    }
    // A renewal has no such limit.
    let renewing = tokio::spawn({
        let revocations = revocations.clone();
        async move { try_to_renew(&revocations, a_replica(1), 0).await }
    });
    until_it_runs(&watcher, "UPDATE \"public\".replicas").await;
    assert!(revocations.replicas().await.is_err());
    assert!(!renewing.is_finished());
    other.batch_execute("ROLLBACK").await.unwrap();
    // The row may be gone by now: what was given up was not cancelled.
    renewing.await.unwrap().unwrap();
    revocations.leave(a_replica(1)).await.unwrap();
    assert_eq!(revocations.replicas().await.unwrap().value, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_waits_for_a_renewal_that_was_given_up_but_not_for_long() {
    let options = Options { lock_timeout: Duration::from_millis(20), ..patient() };
    let (store, other, watcher) = scene(&[], options).await;
    let revocations = store.revocations();
    revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
    other.batch_execute("SELECT FROM replicas FOR UPDATE").await.unwrap();
    let error = revocations.leave(a_replica(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut), "{error:?}");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert!(stored(&watcher, a_replica(1)).await.is_some());
    revocations.leave(a_replica(1)).await.unwrap();
    assert_eq!(stored(&watcher, a_replica(1)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn distrusted_connections_are_not_used_again() {
    let key = a_key(1);
    let (store, other, watcher) = scene(&[&key], Options { max_connections: 2, ..patient() }).await;
    let revocations = store.revocations();
    revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
    revocations.replicas().await.unwrap();
    other.batch_execute("SELECT FROM revocation_head FOR UPDATE").await.unwrap();
    let revoking = tokio::spawn({
        let store = store.clone();
        async move { store.commit(revoke(&a_key(1), seconds_later(1))).await }
    });
    until_somebody_waits(&watcher).await;
    store.ping().await.unwrap();
    let (busy, idle) =
        (backend(&watcher, "FOR UPDATE OF k").await, backend(&watcher, "SELECT seq, pg_catalog.left").await);
    let (watching, renewing) =
        (backend(&watcher, "LEFT JOIN \"public\".replicas").await, backend(&watcher, "INTO \"public\".replicas").await);
    store.distrust_connections();
    until_gone(&watcher, idle).await;
    revocations.replicas().await.unwrap();
    until_gone(&watcher, watching).await;
    store.ping().await.unwrap();
    assert!(backends(&watcher).await.iter().any(|(pid, _)| *pid == busy), "calls that run are not disturbed");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(revoking.await.unwrap().unwrap().number, 1);
    until_gone(&watcher, busy).await;
    // What was opened since is trusted, and a renewal proves by itself where it was made.
    let trusted = (
        backend(&watcher, "SELECT seq, pg_catalog.left").await,
        backend(&watcher, "LEFT JOIN \"public\".replicas").await,
    );
    store.ping().await.unwrap();
    revocations.replicas().await.unwrap();
    renew(&revocations, a_replica(1), 0).await;
    let now = (
        backend(&watcher, "SELECT seq, pg_catalog.left").await,
        backend(&watcher, "LEFT JOIN \"public\".replicas").await,
    );
    assert_eq!((now, backend(&watcher, "UPDATE \"public\".replicas").await), (trusted, renewing));
}

/// What a proxy does with the part of a client's stream that holds a `LISTEN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxy {
    /// Makes it a statement that the server refuses.
    Refuses,
    /// Closes the connection.
    Closes,
    /// Never answers again on this connection.
    FallsSilent,
}

impl Proxy {
    /// Starts it in front of the server that all tests share. Returns the URL of the database behind it, and who is told when
    /// it has met a `LISTEN`.
    async fn start(self, database: &TestDatabase) -> (String, Arc<Notify>) {
        let server = database.url().split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = database.url().replace(&server, &listener.local_addr().unwrap().to_string());
        let met = Arc::new(Notify::new());
        tokio::spawn({
            let met = Arc::clone(&met);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let server = TcpStream::connect(&server).await.unwrap();
                    tokio::spawn(self.carry(client, server, Arc::clone(&met)));
                }
            }
        });
        (format!("{url}?sslmode=disable"), met)
    }

    async fn carry(self, client: TcpStream, server: TcpStream, met: Arc<Notify>) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let bytes = &mut buffer[..length];
            if let Some(place) = bytes.windows(6).position(|word| word == b"LISTEN") {
                met.notify_one();
                match self {
                    Self::Refuses => bytes[place..place + 6].copy_from_slice(b"REFUSE"),
                    Self::Closes => break,
                    Self::FallsSilent => continue,
                }
            }
            to_server.write_all(bytes).await.unwrap();
        }
        answers.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_let_listen_does_not_keep_a_replica_from_renewing() {
    for proxy in [Proxy::Refuses, Proxy::Closes, Proxy::FallsSilent] {
        let database = TestDatabase::create();
        PostgresStore::migrate(database.url(), patient()).await.unwrap();
        let (url, met) = proxy.start(&database).await;
        let store = PostgresStore::connect(&url, patient()).await.unwrap();
        let revocations = store.revocations();
        store.commit(issue(&a_key(1))).await.unwrap();
        if proxy == Proxy::FallsSilent {
            // Whoever waits gives up once, and no more.
            tokio::select! {
                joined = revocations.join(a_replica(1), Lease::DEFAULT) => panic!("{joined:?}"),
                () = met.notified() => {}
            }
        }
        revocations.join(a_replica(1), Lease::DEFAULT).await.unwrap();
        store.commit(revoke(&a_key(1), seconds_later(1))).await.unwrap();
        let renewal = renew(&revocations, a_replica(1), 0).await;
        assert_eq!(renewal.revoked, [*a_key(1).digest()], "{proxy:?}");
        assert_eq!(revocations.hinted().now_or_never(), None, "{proxy:?}");
        if proxy != Proxy::FallsSilent {
            tokio::time::timeout(Duration::from_mins(1), met.notified()).await.unwrap();
        }
    }
}
