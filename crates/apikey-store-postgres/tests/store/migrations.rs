//! Whom a migration waits for, and which databases and servers are refused.

use std::time::Duration;

use apikey_application::ports::KeyStore as _;
use apikey_store_postgres::{ConnectError, MigrateError, Options, PostgresStore, Schema, SchemaError, ServerError};
use apikey_testing::{
    fixtures::{a_key, issue, revoke, seconds_later},
    postgres::{PASSWORD, TestDatabase, TestServer},
};
use futures_util::future::join_all;

use super::contract::{beside, patient};

/// The lock that versions before this one took, a number that everybody knows.
const FORMER_LOCK: i64 = 0x0061_7069_6b65_7973;

#[tokio::test]
async fn where_nothing_is_to_be_migrated_no_lock_keeps_a_replica_from_starting() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let other = beside(&database).await;
    let hold = format!(
        "SELECT pg_advisory_lock({FORMER_LOCK}); BEGIN; LOCK TABLE __diesel_schema_migrations IN EXCLUSIVE MODE"
    );
    other.batch_execute(&hold).await.unwrap();
    let at_once = Options { migration_timeout: Duration::ZERO, ..patient() };
    assert!(PostgresStore::migrate(database.url(), at_once).await.unwrap().is_empty());
    PostgresStore::connect(database.url(), patient()).await.unwrap();
}

#[tokio::test]
async fn a_role_without_rights_cannot_make_a_migration_wait() {
    let database = TestDatabase::create();
    let server = TestServer::shared();
    server.psql(database.name(), "DO $$ BEGIN CREATE ROLE stranger LOGIN; EXCEPTION WHEN duplicate_object THEN END $$");
    let client = beside(&database).await;
    client.batch_execute(&format!("SELECT pg_advisory_lock({FORMER_LOCK})")).await.unwrap();
    let at_once = Options { migration_timeout: Duration::ZERO, ..patient() };
    assert!(!PostgresStore::migrate(database.url(), at_once).await.unwrap().is_empty());
    let refused = server.psql(
        database.name(),
        "SELECT has_table_privilege('stranger', '__diesel_schema_migrations', 'UPDATE, DELETE, TRUNCATE')",
    );
    assert_eq!(refused, "f", "what is locked is beyond the reach of strangers");
}

#[tokio::test]
async fn a_migration_names_whom_it_waits_for_and_goes_on_when_they_are_done() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let other = beside(&database).await;
    let unmigrate = "DELETE FROM __diesel_schema_migrations WHERE version = '0007'; \
         DROP FUNCTION refuse_change() CASCADE; SET application_name = 'somebody'";
    other.batch_execute(unmigrate).await.unwrap();
    let hold = "BEGIN; LOCK TABLE __diesel_schema_migrations IN ROW EXCLUSIVE MODE";
    other.batch_execute(hold).await.unwrap();
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let hasty = Options { migration_timeout: Duration::ZERO, ..patient() };
    let error = PostgresStore::migrate(database.url(), hasty).await.unwrap_err();
    let MigrateError::Locked { holders, .. } = &error else { panic!("{error:?}") };
    assert!(
        holders.contains(&format!(
            "backend {pid} (role \"apikeys\", application_name \"somebody\", in a transaction since 2"
        )),
        "{holders}"
    );
    let waiting = tokio::spawn({
        let url = database.url().to_owned();
        async move { PostgresStore::migrate(&url, patient()).await }
    });
    super::locks::until_somebody_waits(&beside(&database).await).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), ["0007"]);
}

#[tokio::test]
async fn what_another_program_made_is_left_alone_and_named() {
    for (table, made) in [
        ("audit_events", "CREATE TABLE audit_events (id integer)"),
        ("replicas", "CREATE VIEW replicas AS SELECT 1 AS id"),
        (
            "__diesel_schema_migrations",
            "CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY); \
             INSERT INTO __diesel_schema_migrations VALUES ('20240101000000')",
        ),
    ] {
        let database = TestDatabase::create();
        let client = beside(&database).await;
        client.batch_execute(made).await.unwrap();
        let error = PostgresStore::migrate(database.url(), patient()).await.unwrap_err();
        assert!(
            matches!(&error, MigrateError::Schema(SchemaError::Foreign { table: found, .. }) if found == table),
            "{error:?}"
        );
        assert!(error.to_string().contains("database_schema"), "{error}");
        let error = PostgresStore::connect(database.url(), patient()).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Schema(SchemaError::Foreign { .. })), "{error:?}");
        let count =
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')";
        assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1, "{table}");
        // Beside it there is room.
        let beside_it = Options { schema: Schema::parse("keys").unwrap(), ..patient() };
        PostgresStore::migrate(database.url(), beside_it.clone()).await.unwrap();
        let store = PostgresStore::connect(database.url(), beside_it).await.unwrap();
        store.commit(issue(&a_key(1))).await.unwrap();
    }
}

#[tokio::test]
async fn a_migration_that_fails_half_way_leaves_nothing_behind() {
    let database = TestDatabase::create();
    let client = beside(&database).await;
    // Met by the last migration alone.
    client.batch_execute("CREATE FUNCTION refuse_change() RETURNS integer LANGUAGE sql AS 'SELECT 1'").await.unwrap();
    let error = PostgresStore::migrate(database.url(), patient()).await.unwrap_err();
    assert!(matches!(error, MigrateError::Migration(_)), "{error:?}");
    let count = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn tables_in_another_schema_are_found_and_not_made_anew() {
    let database = TestDatabase::create();
    let in_keys = Options { schema: Schema::parse("keys").unwrap(), ..patient() };
    PostgresStore::migrate(database.url(), in_keys).await.unwrap();
    let url = format!("{}?options=-csearch_path%3Dkeys", database.url());
    let error = PostgresStore::migrate(&url, patient()).await.unwrap_err();
    assert!(
        matches!(&error, MigrateError::Schema(SchemaError::Elsewhere { found, .. }) if found == "keys"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_name_is_refused_by_its_encoding() {
    let server = TestServer::shared();
    server.psql(
        "postgres",
        "CREATE DATABASE latin OWNER apikeys ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    let other = TestDatabase::create();
    let url = other.url().replace(other.name(), "latin");
    let error = PostgresStore::migrate(&url, patient()).await.unwrap_err();
    assert!(
        matches!(&error, MigrateError::Server(ServerError::Encoding { encoding }) if encoding == "LATIN1"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_role_that_may_change_nothing_is_refused() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let server = TestServer::shared();
    server.psql("postgres", &format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name()));
    let error = PostgresStore::connect(database.url(), patient()).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Server(ServerError::ReadOnly)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_isolation_levels_of_the_database_make_no_change_fail() {
    for level in ["repeatable read", "serializable"] {
        let database = TestDatabase::create();
        PostgresStore::migrate(database.url(), patient()).await.unwrap();
        let sql = format!(
            "ALTER DATABASE {0} SET default_transaction_isolation = '{level}'; \
             ALTER DATABASE {0} SET standard_conforming_strings = off",
            database.name()
        );
        for statement in sql.split("; ") {
            TestServer::shared().psql("postgres", statement);
        }
        let store = PostgresStore::connect(database.url(), patient()).await.unwrap();
        let changes = (1..=40).map(|seed| {
            let store = store.clone();
            async move {
                let key = a_key(seed);
                store.commit(issue(&key)).await?;
                store.commit(revoke(&key, seconds_later(1))).await
            }
        });
        for outcome in join_all(changes).await {
            outcome.unwrap_or_else(|error| panic!("{level}: {error:?}"));
        }
    }
}

#[tokio::test]
async fn a_role_whose_connections_do_not_suffice_for_one_replica_is_refused() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let server = TestServer::shared();
    server.psql(
        "postgres",
        &format!("CREATE ROLE few_{0} LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 2", database.name()),
    );
    let url = database.url().replace("//apikeys:", &format!("//few_{}:", database.name()));
    PostgresStore::grant(database.url(), patient(), &format!("few_{}", database.name())).await.unwrap();
    let error = PostgresStore::connect(&url, patient()).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Server(ServerError::Connections { granted: 2, needed: 3, .. })),
        "{error:?}"
    );
}
