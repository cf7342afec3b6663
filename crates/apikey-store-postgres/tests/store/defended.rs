//! The whole contract in the name of a role that has no more than it needs, in a database where another role does what it can.

use apikey_application::ports::{KeyStore as _, Revocations as _};
use apikey_store_postgres::{MigrateError, Options, PostgresStore, Schema};
use apikey_testing::{
    fixtures::{a_key, issue, revoke, seconds_later},
    postgres::{PASSWORD, TestDatabase, TestServer},
};
use tokio_postgres::{Client, NoTls, error::SqlState};

use super::{
    contract::{PostgresUnderTest, beside, patient},
    revocations::a_replica,
};

/// Tables and functions under the names of the service's and of PostgreSQL's own. Whoever finds one of them by its name alone gets
/// no answer: the tables have no columns, and the functions, which fit better than PostgreSQL's, fail.
const HOSTILE: &str = "CREATE TABLE api_keys (); CREATE TABLE audit_events (); CREATE TABLE idempotency_records (); \
     CREATE TABLE key_counts (); CREATE TABLE replicas (); CREATE TABLE revocation_head (); \
     CREATE TABLE __diesel_schema_migrations (); \
     CREATE FUNCTION fail() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hostile'; END $$; \
     CREATE FUNCTION set_config(text, varchar, boolean) RETURNS text LANGUAGE sql AS 'SELECT fail()'; \
     CREATE FUNCTION unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT fail()'; \
     CREATE FUNCTION unnest(uuid[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT fail()'; \
     CREATE FUNCTION pg_notify(text, varchar) RETURNS void LANGUAGE sql AS 'SELECT fail()'; \
     CREATE FUNCTION \"left\"(text, bigint) RETURNS text LANGUAGE sql AS 'SELECT fail()'; \
     GRANT ALL ON ALL TABLES IN SCHEMA service TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA service TO PUBLIC";

/// A server of its own for each process: roles are the server's.
fn server() -> &'static TestServer {
    static SERVER: std::sync::OnceLock<TestServer> = std::sync::OnceLock::new();
    SERVER.get_or_init(|| {
        let server = TestServer::start(&["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=300"]);
        server.psql("postgres", &format!("CREATE ROLE service LOGIN PASSWORD '{PASSWORD}'"));
        server.psql("postgres", &format!("CREATE ROLE mallory LOGIN PASSWORD '{PASSWORD}'"));
        server
    })
}

fn in_a_schema_of_its_own() -> Options {
    Options { schema: Schema::parse("keys").unwrap(), ..patient() }
}

fn url_of(database: &TestDatabase, role: &str) -> String {
    database.url().replace("//apikeys:", &format!("//{role}:"))
}

/// A database in which the role `service` has what the service needs.
async fn granted() -> TestDatabase {
    let server = server();
    let database = server.database();
    PostgresStore::migrate(database.url(), in_a_schema_of_its_own()).await.unwrap();
    PostgresStore::grant(database.url(), in_a_schema_of_its_own(), "service").await.unwrap();
    server.psql("postgres", &format!("GRANT CREATE ON DATABASE {} TO mallory", database.name()));
    database
}

/// What a role can do that may create schemas in the database, and nothing else: `"$user"` comes first in `search_path`.
async fn attack(database: &TestDatabase) {
    let (mallory, connection) = tokio_postgres::connect(&url_of(database, "mallory"), NoTls).await.unwrap();
    tokio::spawn(connection);
    mallory.batch_execute("CREATE SCHEMA service; GRANT USAGE ON SCHEMA service TO service").await.unwrap();
    mallory.batch_execute(&format!("SET search_path = service; {HOSTILE}")).await.unwrap();
}

/// The owner, who finds the service's tables by their names alone.
async fn owner(database: &TestDatabase) -> Client {
    let client = beside(database).await;
    client.batch_execute("SET search_path = keys").await.unwrap();
    client
}

async fn under_attack() -> PostgresUnderTest {
    let database = granted().await;
    attack(&database).await;
    let store = PostgresStore::connect(&url_of(&database, "service"), in_a_schema_of_its_own()).await.unwrap();
    PostgresUnderTest::of(store, owner(&database).await)
}

apikey_testing::store_contract! {
    #[tokio::test(flavor = "multi_thread")]
    under_attack
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_named_like_the_role_changes_nothing_for_a_running_replica_nor_for_one_that_starts() {
    let database = granted().await;
    let url = url_of(&database, "service");
    let running = PostgresStore::connect(&url, in_a_schema_of_its_own()).await.unwrap();
    let (key, replica) = (a_key(1), a_replica(1));
    running.commit(issue(&key)).await.unwrap();
    running.revocations().join(replica, apikey_application::fence::Lease::DEFAULT).await.unwrap();
    attack(&database).await;
    assert!(PostgresStore::migrate(&url, in_a_schema_of_its_own()).await.unwrap().is_empty());
    let started = PostgresStore::connect(&url, in_a_schema_of_its_own()).await.unwrap();
    for store in [&running, &started] {
        store.ping().await.unwrap();
        assert!(store.any_keys().await.unwrap());
        assert!(store.find_by_digest(key.digest()).await.unwrap().value.is_some());
        assert_eq!(store.revocations().replicas().await.unwrap().value.len(), 1);
    }
    let seq = started.commit(revoke(&key, seconds_later(1))).await.unwrap();
    let renewal = running.revocations().renew(replica, 0).await.unwrap().unwrap();
    assert_eq!((renewal.head, renewal.revoked), (seq, vec![*key.digest()]));
    running.revocations().leave(replica).await.unwrap();
}

#[tokio::test]
async fn the_service_s_role_can_do_no_more_than_the_service_does() {
    let database = granted().await;
    let (service, connection) = tokio_postgres::connect(&url_of(&database, "service"), NoTls).await.unwrap();
    tokio::spawn(connection);
    for statement in [
        "DELETE FROM keys.audit_events",
        "UPDATE keys.audit_events SET actor = 'nobody'",
        "TRUNCATE keys.audit_events",
        "SELECT FROM keys.audit_events",
        "DELETE FROM keys.api_keys",
        "TRUNCATE keys.api_keys",
        "UPDATE keys.api_keys SET permissions = '{}'",
        "UPDATE keys.api_keys SET digest = sha256('')",
        "UPDATE keys.api_keys SET expires_at = NULL",
        "DELETE FROM keys.revocation_head",
        "INSERT INTO keys.revocation_head (seq) VALUES (1)",
        "UPDATE keys.idempotency_records SET key_id = gen_random_uuid()",
        "DELETE FROM keys.idempotency_records",
        "DELETE FROM keys.key_counts",
        "INSERT INTO keys.__diesel_schema_migrations VALUES ('9999')",
        "DROP TABLE keys.api_keys",
        "ALTER TABLE keys.api_keys DISABLE TRIGGER ALL",
        "CREATE TABLE keys.another ()",
        "DROP SCHEMA keys CASCADE",
    ] {
        let error = service.batch_execute(statement).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error:?}");
    }
}

#[tokio::test]
async fn rights_that_were_given_before_are_taken_away() {
    let database = granted().await;
    let owner = owner(&database).await;
    owner.batch_execute("GRANT ALL ON ALL TABLES IN SCHEMA keys TO service").await.unwrap();
    PostgresStore::grant(database.url(), in_a_schema_of_its_own(), "service").await.unwrap();
    let row = owner.query_one("SELECT has_table_privilege('service', 'audit_events', 'DELETE')", &[]).await.unwrap();
    assert!(!row.get::<_, bool>(0));
}

#[tokio::test]
async fn who_cannot_be_limited_is_refused_by_name() {
    let database = granted().await;
    for (role, expected) in [
        ("apikeys", "the role \"apikeys\" owns the tables"),
        ("postgres", "the role \"postgres\" owns the tables, or is a superuser"),
        ("nobody; DROP TABLE api_keys", "there is no role \"nobody; DROP TABLE api_keys\""),
    ] {
        let error = PostgresStore::grant(database.url(), in_a_schema_of_its_own(), role).await.unwrap_err();
        assert!(matches!(&error, MigrateError::Grant(text) if text.contains(expected)), "{error:?}");
    }
}
