//! The schema: made once, kept by its constraints, and refused where it is not the one that this version knows.

use apikey_application::ports::KeyStore as _;
use apikey_store_postgres::{ConnectError, MigrateError, PostgresStore, SchemaError};
use apikey_testing::{
    fixtures::{a_key, issue, revoke, seconds_later},
    postgres::TestDatabase,
};
use futures_util::future::join_all;
use tokio_postgres::error::SqlState;

use super::contract::{beside, patient};

const VERSIONS: [&str; 6] = ["0001", "0002", "0003", "0004", "0005", "0007"];

#[tokio::test]
async fn processes_that_start_together_migrate_once() {
    let database = TestDatabase::create();
    let ran = join_all((0..6).map(|_| PostgresStore::migrate(database.url(), patient()))).await;
    let ran: Vec<_> = ran.into_iter().map(Result::unwrap).filter(|ran| !ran.is_empty()).collect();
    assert_eq!(ran, [VERSIONS]);
    assert!(PostgresStore::migrate(database.url(), patient()).await.unwrap().is_empty());
    PostgresStore::connect(database.url(), patient()).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let client = beside(&database).await;
    // Even where an older migration is missing too: whoever wrote the newer one knows what it replaced.
    client.batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('9999')").await.unwrap();
    client.batch_execute("DELETE FROM __diesel_schema_migrations WHERE version = '0004'").await.unwrap();
    let error = PostgresStore::migrate(database.url(), patient()).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Schema(SchemaError::TooNew { version }) if version == "9999"), "{error:?}");
    let error = PostgresStore::connect(database.url(), patient()).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Schema(SchemaError::TooNew { version }) if version == "9999"), "{error:?}");
    let rows = client.query("SELECT version FROM __diesel_schema_migrations ORDER BY version", &[]).await.unwrap();
    let versions: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(versions, ["0001", "0002", "0003", "0005", "0007", "9999"]);
}

#[tokio::test]
async fn a_schema_that_lacks_a_migration_is_refused() {
    let database = TestDatabase::create();
    let missing = async || match PostgresStore::connect(database.url(), patient()).await {
        Err(ConnectError::Schema(SchemaError::TooOld { version })) => version,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing().await, "0001");
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let client = beside(&database).await;
    client.batch_execute("DELETE FROM __diesel_schema_migrations WHERE version = '0003'").await.unwrap();
    assert_eq!(missing().await, "0003");
}

#[tokio::test]
async fn the_database_itself_refuses_what_must_not_be() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let client = beside(&database).await;
    let a_key = "INSERT INTO api_keys (id, organization_id, name, prefix, digest, key_type, permissions, created_at, revision) \
         VALUES (gen_random_uuid(), 'acme', 'name', 'p_12345678', sha256('one'), 'KEY_TYPE_API_KEY', '{}', '2026-01-01Z', 1)";
    client.batch_execute(a_key).await.unwrap();
    for (statement, constraint) in [
        ("INSERT INTO revocation_head (seq) VALUES (7)", "revocation_head_pkey"),
        ("INSERT INTO revocation_head VALUES (false, 7)", "revocation_head_singleton_check"),
        ("UPDATE revocation_head SET seq = -1", "revocation_head_seq_check"),
        (a_key, "api_keys_digest_key"),
        ("UPDATE api_keys SET digest = 'short'", "api_keys_digest_check"),
        ("UPDATE api_keys SET name = ''", "api_keys_name_check"),
        ("UPDATE api_keys SET organization_id = ''", "api_keys_organization_id_check"),
        ("UPDATE api_keys SET expires_at = created_at", "api_keys_expires_at_check"),
        ("UPDATE api_keys SET revision = 0", "api_keys_revision_check"),
        ("UPDATE api_keys SET narrowed_seq = 0", "api_keys_narrowed_seq_check"),
        ("UPDATE api_keys SET revoked_at = created_at", "api_keys_revoked_is_narrowed_check"),
        ("UPDATE api_keys SET revoked_at = '2025-01-01Z', narrowed_seq = 1", "api_keys_revoked_at_check"),
        ("INSERT INTO key_counts VALUES ('acme', 'KEY_TYPE_API_KEY', 16, 1)", "key_counts_shard_check"),
        ("INSERT INTO key_counts VALUES ('acme', 'KEY_TYPE_API_KEY', 1, -1)", "key_counts_keys_check"),
        ("INSERT INTO replicas VALUES (gen_random_uuid(), -1, 0, 3000)", "replicas_acked_seq_check"),
        ("INSERT INTO replicas VALUES (gen_random_uuid(), 0, -1, 3000)", "replicas_renewals_check"),
        ("INSERT INTO replicas VALUES (gen_random_uuid(), 0, 0, 999)", "replicas_lease_millis_check"),
        ("INSERT INTO replicas VALUES (gen_random_uuid(), 0, 0, 60001)", "replicas_lease_millis_check"),
    ] {
        let error = client.batch_execute(statement).await.unwrap_err();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{statement}: {error:?}"));
        assert!(
            [SqlState::CHECK_VIOLATION, SqlState::UNIQUE_VIOLATION].contains(error.code()),
            "{statement}: {error:?}"
        );
        assert_eq!(error.constraint(), Some(constraint), "{statement}");
    }
}

#[tokio::test]
async fn what_has_happened_stays() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let store = PostgresStore::connect(database.url(), patient()).await.unwrap();
    for seed in 1..=2 {
        store.commit(issue(&a_key(seed))).await.unwrap();
        store.commit(revoke(&a_key(seed), seconds_later(1))).await.unwrap();
    }
    let client = beside(&database).await;
    for (statement, trigger) in [
        ("UPDATE api_keys SET revoked_at = NULL", "api_keys_stay_revoked"),
        ("UPDATE api_keys SET revoked_at = revoked_at + interval '1 s'", "api_keys_stay_revoked"),
        (
            "UPDATE api_keys SET narrowed_seq = narrowed_seq - 1 WHERE narrowed_seq = 2",
            "api_keys_narrowed_seq_never_falls",
        ),
        ("UPDATE revocation_head SET seq = seq - 1", "revocation_head_never_falls"),
        ("DELETE FROM revocation_head", "revocation_head_stays"),
        ("TRUNCATE revocation_head", "revocation_head_stays"),
        ("UPDATE audit_events SET actor = 'nobody'", "audit_events_are_only_added"),
        ("DELETE FROM audit_events", "audit_events_are_only_added"),
        ("TRUNCATE audit_events", "audit_events_are_only_added"),
    ] {
        let error = client.batch_execute(statement).await.unwrap_err();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{statement}: {error:?}"));
        assert_eq!((error.code(), error.constraint()), (&SqlState::CHECK_VIOLATION, Some(trigger)), "{statement}");
    }
    // What the service does still works.
    let forwards = "UPDATE api_keys SET last_used_at = created_at, narrowed_seq = narrowed_seq + 1, revision = revision + 1; \
         UPDATE revocation_head SET seq = seq + 1";
    client.batch_execute(forwards).await.unwrap();
}
