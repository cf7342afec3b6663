//! The schema: migrated once, never backwards.

use apikey_application::ports::KeyStore;
use apikey_store_sqlite::{OpenError, SqliteStore};
use apikey_testing::fixtures::{a_key, issue, revoke, seconds_later};
use diesel::connection::SimpleConnection;

use super::scratch::{Scratch, beside};

#[tokio::test]
async fn a_migration_runs_once() {
    let scratch = Scratch::new();
    let applied = SqliteStore::migrate(&scratch.database()).await.unwrap();
    assert_eq!(applied, ["20261102000001", "20261127000007"]);
    assert_eq!(SqliteStore::migrate(&scratch.database()).await.unwrap(), Vec::<String>::new());
    SqliteStore::open(&scratch.database()).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_by_name() {
    let scratch = Scratch::new();
    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    store.commit(issue(&a_key(1))).await.unwrap();
    store.close().await;
    let newer = "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')";
    beside(&scratch.database()).batch_execute(newer).unwrap();
    for error in [
        SqliteStore::open(&scratch.database()).await.unwrap_err(),
        SqliteStore::migrate(&scratch.database()).await.unwrap_err(),
    ] {
        assert!(matches!(&error, OpenError::NewerSchema { version, .. } if version == "99990101000000"), "{error:?}");
    }
    let older = "DELETE FROM __diesel_schema_migrations WHERE version = '99990101000000'";
    beside(&scratch.database()).batch_execute(older).unwrap();
    assert!(SqliteStore::open(&scratch.database()).await.unwrap().any_keys().await.unwrap(), "nothing was touched");
}

#[tokio::test]
async fn the_schema_itself_refuses_what_would_break_the_protocol() {
    let scratch = Scratch::new();
    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    store.commit(issue(&a_key(1))).await.unwrap();
    let mut beside = beside(&scratch.database());
    beside.batch_execute("PRAGMA foreign_keys = ON").unwrap();
    for statement in [
        "INSERT INTO revocation_head (seq) VALUES (7)",
        "DELETE FROM revocation_head",
        "UPDATE revocation_head SET seq = -1",
        "UPDATE api_keys SET revoked_at = created_at",
        "UPDATE api_keys SET digest = 'text'",
        "UPDATE api_keys SET digest = zeroblob(31)",
        "UPDATE api_keys SET created_at = '2026-11-02'",
        "UPDATE api_keys SET expires_at = created_at",
        "DELETE FROM api_keys",
    ] {
        beside.batch_execute(statement).expect_err(statement);
    }
}

#[tokio::test]
async fn what_has_happened_stays() {
    let scratch = Scratch::new();
    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    for seed in 1..=2 {
        store.commit(issue(&a_key(seed))).await.unwrap();
        store.commit(revoke(&a_key(seed), seconds_later(1))).await.unwrap();
    }
    let mut beside = beside(&scratch.database());
    for (statement, message) in [
        ("UPDATE api_keys SET revoked_at = NULL", "a key stays revoked"),
        ("UPDATE api_keys SET revoked_at = revoked_at + 1", "a key stays revoked"),
        ("UPDATE api_keys SET narrowed_seq = narrowed_seq - 1 WHERE narrowed_seq = 2", "narrowed_seq never falls"),
        ("UPDATE revocation_head SET seq = seq - 1", "the number of revocation_head never falls"),
        ("UPDATE audit_events SET actor = 'nobody'", "audit events are only added"),
        ("DELETE FROM audit_events", "audit events are only added"),
    ] {
        let error = beside.batch_execute(statement).expect_err(statement);
        assert!(error.to_string().contains(message), "{statement}: {error}");
    }
    // What the service does still works.
    let forwards = "UPDATE api_keys SET last_used_at = created_at, narrowed_seq = narrowed_seq + 1; \
         UPDATE revocation_head SET seq = seq + 1";
    beside.batch_execute(forwards).unwrap();
}
