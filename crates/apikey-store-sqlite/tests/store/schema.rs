//! The schema: migrated once, never backwards.

use apikey_application::ports::KeyStore;
use apikey_store_sqlite::{OpenError, SqliteStore};
use apikey_testing::fixtures::{a_key, issue};
use diesel::connection::SimpleConnection;

use super::scratch::{Scratch, beside};

#[tokio::test]
async fn a_migration_runs_once() {
    let scratch = Scratch::new();
    let applied = SqliteStore::migrate(&scratch.database()).await.unwrap();
    assert_eq!(applied, ["20261102000001"]);
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
