//! Behind Debian's `PgBouncer`, which lends a connection of the server per transaction.

use std::{
    error::Error,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use apikey_application::{
    fence::Lease,
    ports::{KeyStore as _, Revocations as _, StoreError},
};
use apikey_store_postgres::{ConnectError, ConnectionError, MigrateError, Options, PostgresStore};
use apikey_testing::{
    fixtures::{a_key, issue, revoke, seconds_later},
    postgres::{PASSWORD, TestDatabase, TestServer},
};
use tokio_postgres::{Client, NoTls};

use super::{
    contract::{beside, patient},
    revocations::{a_replica, renew},
};

/// A proxy in front of one database.
struct Bouncer {
    process: Child,
    folder: PathBuf,
    url: String,
}

impl Bouncer {
    /// Starts one that lends at most so many connections of the server.
    fn before(database: &TestDatabase, connections: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pgbouncer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let address = database.url().split_once('@').unwrap().1.split_once('/').unwrap().0;
        let port = address.split_once(':').unwrap().1;
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={port} user=apikeys password={PASSWORD}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {connections}\nignore_startup_parameters = extra_float_digits\n"
        );
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        // Debian keeps it with the programs for root.
        let mut command = Command::new("sh");
        command.args(["-c", "PATH=$PATH:/usr/sbin; test $(id -u) = 0 && as='-u nobody'; exec pgbouncer -q $as \"$0\""]);
        let process =
            command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut bouncer =
            Self { process, folder, url: format!("postgres://apikeys@127.0.0.1:{listen}/{}", database.name()) };
        while std::net::TcpStream::connect(("127.0.0.1", listen)).is_err() {
            assert_eq!(bouncer.process.try_wait().unwrap(), None, "it ended: `cargo xtask setup` installs pgbouncer");
            std::thread::sleep(Duration::from_millis(10));
        }
        bouncer
    }

    /// Another program behind the same proxy.
    async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// With one connection of the server, every client meets what the others left on it, and prepared statements are kept by chance.
const ONE: u32 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_leaves_nothing_behind_on_a_connection_that_was_lent() {
    let database = TestDatabase::create();
    let bouncer = Bouncer::before(&database, ONE);
    assert!(!PostgresStore::migrate(&bouncer.url, patient()).await.unwrap().is_empty());
    let held = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_eq!(TestServer::shared().psql(database.name(), held), "0");
    let path: String = bouncer.client().await.query_one("SHOW search_path", &[]).await.unwrap().get(0);
    assert_eq!(path, "\"$user\", public");
    // The next one finds nobody in its way, neither here nor at the server itself.
    let unmigrate =
        "DELETE FROM __diesel_schema_migrations WHERE version = '0007'; DROP FUNCTION refuse_change() CASCADE";
    beside(&database).await.batch_execute(unmigrate).await.unwrap();
    let at_once = Options { migration_timeout: Duration::ZERO, ..patient() };
    assert_eq!(PostgresStore::migrate(database.url(), at_once).await.unwrap(), ["0007"]);
    assert!(PostgresStore::migrate(&bouncer.url, patient()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_left_on_a_connection_that_was_lent_changes_nothing() {
    let database = TestDatabase::create();
    let bouncer = Bouncer::before(&database, ONE);
    let other = bouncer.client().await;
    other
        .batch_execute(
            "CREATE TEMPORARY TABLE api_keys (); CREATE TEMPORARY TABLE audit_events (); \
             CREATE TEMPORARY TABLE revocation_head (); CREATE TEMPORARY TABLE replicas (); \
             CREATE TEMPORARY TABLE key_counts (); CREATE TEMPORARY TABLE __diesel_schema_migrations (version text)",
        )
        .await
        .unwrap();
    PostgresStore::migrate(&bouncer.url, patient()).await.unwrap();
    let store = PostgresStore::connect(&bouncer.url, patient()).await.unwrap();
    let (key, replica) = (a_key(1), a_replica(1));
    store.commit(issue(&key)).await.unwrap();
    store.revocations().join(replica, Lease::DEFAULT).await.unwrap();
    let seq = store.commit(revoke(&key, seconds_later(1))).await.unwrap();
    assert!(store.find_by_digest(key.digest()).await.unwrap().value.unwrap().parts().revoked_at.is_some());
    let renewal = renew(&store.revocations(), replica, 0).await;
    assert_eq!((renewal.head, renewal.revoked), (seq, vec![*key.digest()]));
}

fn names_the_proxy(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|error| error.to_string().contains("max_prepared_statements"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_keep_prepared_statements_is_named_at_the_start() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let bouncer = Bouncer::before(&database, 4);
    let error = PostgresStore::connect(&bouncer.url, patient()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Connection(ConnectionError::Proxy(_))), "{error:?}");
    assert!(names_the_proxy(&error) && !error.may_pass(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_forgets_a_prepared_statement_later_is_named_too() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let bouncer = Bouncer::before(&database, ONE);
    let store = PostgresStore::connect(&bouncer.url, Options { max_connections: 1, ..patient() }).await.unwrap();
    store.ping().await.unwrap();
    bouncer.client().await.batch_execute("DEALLOCATE ALL").await.unwrap();
    let StoreError::Unavailable(error) = store.ping().await.unwrap_err() else { panic!("it is not unavailable") };
    assert!(names_the_proxy(&*error), "{error:?}");
    store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_others_under_the_same_names_are_named_as_well() {
    let database = TestDatabase::create();
    let bouncer = Bouncer::before(&database, ONE);
    let other = bouncer.client().await;
    // The driver counts its statements; those that it prepares next are prepared by somebody else already.
    let statement = other.prepare("SELECT name FROM pg_prepared_statements ORDER BY name DESC LIMIT 1").await.unwrap();
    let name: String = other.query_one(&statement, &[]).await.unwrap().get(0);
    let number: u32 = name.strip_prefix('s').unwrap().parse().unwrap();
    let taken = (number + 1..number + 2_000)
        .map(|number| format!("PREPARE s{number} AS SELECT 1;"))
        .collect::<Vec<_>>()
        .concat();
    other.batch_execute(&taken).await.unwrap();
    let error = PostgresStore::migrate(&bouncer.url, patient()).await.unwrap_err();
    assert!(matches!(error, MigrateError::Connection(ConnectionError::Proxy(_))), "{error:?}");
    assert!(names_the_proxy(&error) && !error.may_pass(), "{error:?}");
}
