//! What a failure of the database is called, and that the store is none the worse for it afterwards.

use apikey_application::ports::{CommitError, KeyStore, PageQuery, StoreError};
use apikey_store_sqlite::SqliteStore;
use apikey_testing::fixtures::{a_key, an_organization, issue};
use diesel::connection::SimpleConnection;

use super::scratch::{Scratch, beside};

#[tokio::test]
async fn a_database_that_a_tool_keeps_locked_is_too_late_and_reads_go_on() {
    let scratch = Scratch::new();
    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    let mut tool = beside(&scratch.database());
    tool.batch_execute("BEGIN IMMEDIATE").unwrap();
    let error = store.commit(issue(&a_key(1))).await.unwrap_err();
    assert!(matches!(error, CommitError::Store(StoreError::TimedOut)), "{error:?}");
    store.ping().await.unwrap();
    tool.batch_execute("ROLLBACK").unwrap();
    store.commit(issue(&a_key(1))).await.unwrap();
}

#[tokio::test]
async fn a_row_that_no_version_wrote_is_a_defect_and_never_a_guess() {
    let key = a_key(1);
    for damage in [
        "name = ''",
        "name = 'a' || char(8238)",
        "organization_id = 'not visible'",
        "prefix = 'pidgr'",
        "key_type = 'KEY_TYPE_UNSPECIFIED'",
        "permissions = 'lower case'",
        "permissions = 'A  B'",
        "permissions = ' '",
        "created_at = -9000000000000000000",
        "last_used_at = 9000000000000000000",
    ] {
        let scratch = Scratch::new();
        let store = SqliteStore::open(&scratch.database()).await.unwrap();
        store.commit(issue(&key)).await.unwrap();
        beside(&scratch.database()).batch_execute(&format!("UPDATE api_keys SET {damage}")).unwrap();
        let error = store.find_by_digest(key.digest()).await.unwrap_err();
        assert!(matches!(error, StoreError::Defect(_)), "{damage}: {error:?}");
    }
}

#[tokio::test]
async fn a_missing_table_is_a_defect() {
    let scratch = Scratch::new();
    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    beside(&scratch.database()).batch_execute("DROP TABLE key_counts").unwrap();
    let query = PageQuery { organization_id: an_organization(), key_type: None, after: None, limit: 1 };
    let error = store.page(&query).await.unwrap_err();
    assert!(matches!(error, StoreError::Defect(_)), "{error:?}");
    let error = store.commit(issue(&a_key(1))).await.unwrap_err();
    assert!(matches!(error, CommitError::Store(StoreError::Defect(_))), "{error:?}");
    assert!(!store.any_keys().await.unwrap(), "the half of the commit that succeeded was rolled back");
}
