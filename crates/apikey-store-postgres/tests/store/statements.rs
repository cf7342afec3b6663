//! What reaches the server, by its own log: how often a statement is prepared, how many there are, and what is warned of.

use std::{cell::RefCell, io, sync::Once};

use apikey_application::{
    fence::{Lease, Reaping},
    ports::{KeyStore as _, PageQuery, Position, Renewed, Revocations as _, Use},
};
use apikey_store_postgres::{Options, PostgresStore};
use apikey_testing::{
    fixtures::{a_claim, a_key, an_organization, confirm, issue, issue_once, on_behalf_of, revoke, seconds_later},
    postgres::{TestDatabase, TestServer},
};

use super::{
    contract::patient,
    revocations::{a_replica, renew, try_to_renew},
};

/// Text that only one of the store's statements holds, for each of them.
const MARKS: [&str; 14] = [
    "LEFT JOIN \"public\".api_keys k ON k.digest",
    "k.id = $1 AND k.organization_id = $2",
    "SELECT key_id, request_digest FROM \"public\".idempotency_records",
    "LIMIT $4) k ON true",
    "FROM authorized ), added AS",
    "FROM authorized ), claimed AS",
    "UPDATE \"public\".revocation_head",
    "bool_or(id = $11 AND organization_id = $12 AND revoked_at IS NOT NULL)",
    "SET last_used_at = locked.at",
    "INSERT INTO \"public\".replicas",
    "UPDATE \"public\".replicas",
    "LEFT JOIN \"public\".replicas",
    "USING silent",
    "DELETE FROM \"public\".replicas r USING settings",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_statement_is_prepared_once_per_connection_and_each_change_is_one_statement() {
    let server = TestServer::start(&["-c", "log_min_duration_statement=0"]);
    let database = server.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let store = PostgresStore::connect(database.url(), Options { max_connections: 1, ..patient() }).await.unwrap();
    let revocations = store.revocations();
    // Opens the connections, which has statements of its own.
    revocations.leave(a_replica(1_000)).await.unwrap();
    assert_eq!(try_to_renew(&revocations, a_replica(1_000), 0).await.unwrap(), Renewed::RowGone);
    let authorizer = a_key(1_000);
    store.commit(issue(&authorizer)).await.unwrap();
    let before = server.log();
    for seed in 1..=5 {
        let key = a_key(seed);
        let claim = a_claim(&key, apikey_domain::Actor::operator(), &format!("header-{seed}"), 1);
        store.commit(on_behalf_of(&authorizer, issue_once(&key, claim.clone()))).await.unwrap();
        store.find_by_digest(key.digest()).await.unwrap();
        store.find_by_id(&an_organization(), key.id()).await.unwrap();
        store.find_idempotency(&claim.organization_id, &claim.actor, &claim.key).await.unwrap();
        // The first page and the ones after it are the same statement.
        for after in [None, Some(Position { created_at: key.parts().created_at, id: key.id() })] {
            let query = PageQuery { organization_id: an_organization(), key_type: None, after, limit: 2 };
            store.page(&query).await.unwrap();
        }
        store.record_uses(&[Use { key_id: key.id(), at: seconds_later(1) }]).await.unwrap();
        store.commit(on_behalf_of(&authorizer, revoke(&key, seconds_later(2)))).await.unwrap();
        store.commit(confirm(&key, seconds_later(3))).await.unwrap();
        let replica = a_replica(seed);
        revocations.join(replica, Lease::DEFAULT).await.unwrap();
        renew(&revocations, replica, seed).await;
        revocations.replicas().await.unwrap();
        assert!(!revocations.reap(Reaping { id: replica, renewals: 0 }).await.unwrap());
        revocations.leave(replica).await.unwrap();
    }
    let log = server.log();
    let parses =
        |log: &str, mark: &str| log.lines().filter(|line| line.contains("ms  parse ") && line.contains(mark)).count();
    for mark in MARKS {
        assert_eq!(parses(&log, mark), 1, "{mark}");
    }
    let executed = log.strip_prefix(&before).expect("a log only grows");
    let executions = executed.lines().filter(|line| line.contains("ms  execute ")).count();
    assert_eq!(executions, 5 * 14, "one statement for each call:\n{executed}");
    assert!(!executed.contains("BEGIN"), "each statement is a transaction of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_left_as_they_were() {
    // Behind a proxy that lends connections, the next to use one is somebody else.
    let server = TestServer::start(&["-c", "log_min_duration_statement=0"]);
    let database = server.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let store = PostgresStore::connect(database.url(), patient()).await.unwrap();
    store.commit(issue(&a_key(1))).await.unwrap();
    store.commit(revoke(&a_key(1), seconds_later(1))).await.unwrap();
    let log = server.log();
    assert!(log.contains("set_config('lock_timeout', $8, true)"));
    for session in ["SET lock_timeout", "SET statement_timeout", "SET idle_in_transaction", "LISTEN"] {
        assert!(!log.contains(session), "{session}");
    }
}

thread_local! {
    /// What was logged on this thread.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes to [`LOGGED`].
#[derive(Clone, Copy)]
struct ThisThread;

impl io::Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A subscriber for all threads of the process: whether an event is of interest is remembered for the process, so that one of a
/// single thread would miss what another thread, without a subscriber, came by first.
fn log_by_thread() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt().with_ansi(false).with_writer(|| ThisThread).init();
        tracing::callsite::rebuild_interest_cache();
    });
}

async fn warnings_of(url: &str) -> Vec<String> {
    log_by_thread();
    LOGGED.take();
    PostgresStore::connect(url, patient()).await.unwrap();
    let text = String::from_utf8(LOGGED.take()).unwrap();
    text.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_server_that_can_lose_what_it_confirmed_is_warned_of() {
    // The server that all tests share syncs nothing.
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let warnings = warnings_of(database.url()).await;
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("setting=\"fsync\" value=\"off\""), "{warnings:#?}");
    assert!(warnings[1].contains("setting=\"full_page_writes\" value=\"off\""), "{warnings:#?}");
    let lax = format!("ALTER DATABASE {} SET synchronous_commit = off", database.name());
    TestServer::shared().psql("postgres", &lax);
    let warnings = warnings_of(database.url()).await;
    assert!(warnings[2].contains("setting=\"synchronous_commit\" value=\"off\""), "{warnings:#?}");
    let durable = TestServer::start(&[]);
    let database = durable.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    assert_eq!(warnings_of(database.url()).await, Vec::<String>::new());
}
