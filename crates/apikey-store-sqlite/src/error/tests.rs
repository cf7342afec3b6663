//! Failures as SQLite itself reports them, and what they are called.

use diesel::{Connection, RunQueryDsl, SqliteConnection, connection::SimpleConnection, sql_query};

use super::*;

fn failure(preparation: &str, statement: &str) -> StoreError {
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    connection.batch_execute("CREATE TABLE t (n INTEGER UNIQUE, b BLOB); INSERT INTO t VALUES (1, NULL);").unwrap();
    connection.batch_execute(preparation).unwrap();
    store_error(sql_query(statement).execute(&mut connection).unwrap_err())
}

#[test]
fn a_full_disk_and_a_database_that_cannot_be_written_are_outages() {
    let full = failure("PRAGMA max_page_count = 1", "INSERT INTO t VALUES (2, zeroblob(100000))");
    assert!(matches!(full, StoreError::Unavailable(_)), "{full:?}");
    let read_only = failure("PRAGMA query_only = ON", "DELETE FROM t");
    assert!(matches!(read_only, StoreError::Unavailable(_)), "{read_only:?}");
}

#[test]
fn what_can_only_be_wrong_on_our_side_is_a_defect() {
    for statement in ["SELECT * FROM nowhere", "INSERT INTO t VALUES (1, NULL)", "SELEKT"] {
        let error = failure("", statement);
        assert!(matches!(error, StoreError::Defect(_)), "{statement}: {error:?}");
        assert!(!error.is_retryable());
    }
}

#[test]
fn a_failed_commit_is_unknown_unless_it_only_waited() {
    let database_error = |text: &str| DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned()));
    for unknown in ["disk I/O error", "database or disk is full", "something else"] {
        let error = lost_commit(database_error(unknown));
        assert!(matches!(error, StoreError::OutcomeUnknown(_)), "{unknown}: {error:?}");
    }
    let error = lost_commit(database_error("database is locked"));
    assert!(matches!(error, StoreError::TimedOut), "{error:?}");
}
