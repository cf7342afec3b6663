//! The whole contract in the name of a role that has no more than it needs, in a database where another role does what it can.

use apikey_application::{
    fence::{Lease, Reaping},
    ports::{KeyStore as _, PageQuery, Revocations as _, Use},
};
use apikey_domain::{Actor, KeyType};
use apikey_store_postgres::{MigrateError, Options, PostgresStore, Schema};
use apikey_testing::{
    fixtures::{a_claim, a_key, an_organization, confirm, issue, issue_once, on_behalf_of, revoke, seconds_later},
    postgres::{PASSWORD, TestDatabase, TestServer},
};
use tokio_postgres::{Client, NoTls, error::SqlState};

use super::{
    contract::{PostgresUnderTest, beside, patient},
    revocations::{a_replica, renew},
};

/// Tables and functions under the names of the service's and of PostgreSQL's own. Whoever finds one of them by its name alone gets
/// no answer: the tables have no columns, and the functions and operators, which fit better than PostgreSQL's, fail.
const HOSTILE: &str = "CREATE TABLE api_keys (); CREATE TABLE audit_events (); CREATE TABLE idempotency_records (); \
     CREATE TABLE key_counts (); CREATE TABLE replicas (); CREATE TABLE revocation_head (); \
     CREATE TABLE __diesel_schema_migrations (); \
     CREATE FUNCTION set_config(text, varchar, boolean) RETURNS text LANGUAGE sql AS 'SELECT fail()'; \
     CREATE FUNCTION unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT fail()'; \
     CREATE FUNCTION unnest(uuid[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT fail()'; \
     CREATE FUNCTION pg_notify(text, varchar) RETURNS void LANGUAGE sql AS 'SELECT fail()'; \
     CREATE FUNCTION \"left\"(text, bigint) RETURNS text LANGUAGE sql AS 'SELECT fail()'; \
     GRANT ALL ON ALL TABLES IN SCHEMA service TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA service TO PUBLIC";

/// What the hostile functions do.
const FAIL: &str = "CREATE FUNCTION fail() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hostile'; END $$";

/// Operators for every pair of types for which PostgreSQL itself has none: whoever relies on a conversion finds one of them.
const HOSTILE_OPERATORS: &str = "DO $$ DECLARE operator text; a text; b text; \
     types regtype[] := ARRAY['smallint', 'integer', 'bigint', 'numeric', 'text', 'varchar', 'name', 'oid', 'regclass', \
         '\"char\"', 'boolean', 'timestamptz', 'timestamp', 'uuid', 'bytea']; \
     BEGIN \
     FOR a, b IN SELECT x, y FROM unnest(types) x, unnest(types) y LOOP \
         EXECUTE format('CREATE FUNCTION hostile(%s, %s) RETURNS boolean LANGUAGE sql AS %L', a, b, 'SELECT fail()::boolean'); \
     END LOOP; \
     FOR operator, a, b IN SELECT o, x, y \
         FROM unnest(ARRAY['=', '<>', '<', '<=', '>', '>=', '+', '-', '%', '||']) o, unnest(types) x, unnest(types) y \
         WHERE NOT EXISTS (SELECT FROM pg_operator WHERE oprname = o AND oprleft = x AND oprright = y) LOOP \
         EXECUTE format('CREATE OPERATOR %s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = hostile)', operator, a, b); \
     END LOOP; END $$";

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
async fn attack(database: &TestDatabase, hostile: &str) {
    let (mallory, connection) = tokio_postgres::connect(&url_of(database, "mallory"), NoTls).await.unwrap();
    tokio::spawn(connection);
    mallory.batch_execute("CREATE SCHEMA service; GRANT USAGE ON SCHEMA service TO service").await.unwrap();
    mallory.batch_execute(&format!("SET search_path = service; {FAIL}; {hostile}")).await.unwrap();
}

/// The owner, who finds the service's tables by their names alone.
async fn owner(database: &TestDatabase) -> Client {
    let client = beside(database).await;
    client.batch_execute("SET search_path = keys").await.unwrap();
    client
}

async fn under_attack() -> PostgresUnderTest {
    let database = granted().await;
    attack(&database, HOSTILE).await;
    let store = PostgresStore::connect(&url_of(&database, "service"), in_a_schema_of_its_own()).await.unwrap();
    PostgresUnderTest::of(store, owner(&database).await)
}

apikey_testing::store_contract! {
    #[tokio::test(flavor = "multi_thread")]
    under_attack
}

/// Makes every call that there is, for a key of that seed.
async fn everything(store: &PostgresStore, seed: u64) {
    let (key, replica) = (a_key(seed), a_replica(seed));
    let claim = a_claim(&key, Actor::operator(), &format!("header-{seed}"), 1);
    store.ping().await.unwrap();
    store.commit(issue_once(&key, claim.clone())).await.unwrap();
    store.commit(on_behalf_of(&key, issue(&a_key(seed + 100)))).await.unwrap();
    assert!(store.any_keys().await.unwrap());
    assert!(store.find_by_digest(key.digest()).await.unwrap().value.is_some());
    assert!(store.find_by_id(&an_organization(), key.id()).await.unwrap().value.is_some());
    let stored = store.find_idempotency(&claim.organization_id, &claim.actor, &claim.key).await.unwrap();
    assert_eq!(stored.unwrap().key_id, key.id());
    for key_type in [None, Some(KeyType::ApiKey)] {
        let query = PageQuery { organization_id: an_organization(), key_type, after: None, limit: 10 };
        assert!(!store.page(&query).await.unwrap().keys.is_empty());
    }
    store.record_uses(&[Use { key_id: key.id(), at: seconds_later(1) }]).await.unwrap();
    let revocations = store.revocations();
    let applied = revocations.join(replica, Lease::DEFAULT).await.unwrap();
    let seq = store.commit(revoke(&key, seconds_later(2))).await.unwrap();
    assert_eq!(store.commit(confirm(&key, seconds_later(3))).await.unwrap(), seq);
    let renewal = renew(&revocations, replica, applied.number).await;
    assert_eq!((renewal.head, renewal.revoked), (seq, vec![*key.digest()]));
    assert_eq!(revocations.replicas().await.unwrap().value.len(), 1);
    assert!(!revocations.reap(Reaping { id: replica, renewals: 0 }).await.unwrap());
    revocations.leave(replica).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_named_like_the_role_changes_nothing_for_a_running_replica_nor_for_one_that_starts() {
    let database = granted().await;
    let url = url_of(&database, "service");
    let running = PostgresStore::connect(&url, in_a_schema_of_its_own()).await.unwrap();
    everything(&running, 1).await;
    attack(&database, &format!("{HOSTILE_OPERATORS}; {HOSTILE}")).await;
    everything(&running, 2).await;
    assert!(PostgresStore::migrate(&url, in_a_schema_of_its_own()).await.unwrap().is_empty());
    let started = PostgresStore::connect(&url, in_a_schema_of_its_own()).await.unwrap();
    everything(&started, 3).await;
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
