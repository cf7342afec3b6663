//! What SQLite's failures mean to the application.

use std::error::Error;

use apikey_application::ports::{CommitError, StoreError};
use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// How a statement of a unit of work ended, if not well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The unit of work is refused: a rule of the port, not a failure of the database.
    Refused(CommitError),
    /// The database failed.
    Database(DieselError),
    /// A stored value is not one that this version stores.
    Illegal(Box<dyn Error + Send + Sync>),
}

impl From<DieselError> for Failure {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        Self::Refused(error)
    }
}

impl From<Failure> for CommitError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => error,
            failure => Self::Store(failure.into()),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(CommitError::Store(error)) => error,
            Failure::Refused(error) => Self::Defect(Box::new(error)),
            Failure::Database(error) => store_error(error),
            Failure::Illegal(error) => Self::Defect(error),
        }
    }
}

/// Translates a failure of the database.
pub(crate) fn store_error(error: DieselError) -> StoreError {
    match condition(&error) {
        Some(Condition::Busy) => StoreError::TimedOut,
        Some(Condition::Unavailable) => StoreError::Unavailable(Box::new(error)),
        None => StoreError::Defect(Box::new(error)),
    }
}

/// Translates a failure of `COMMIT` itself. Unless SQLite only waited in vain for a lock, the commit may be in the log or not.
pub(crate) fn lost_commit(error: DieselError) -> StoreError {
    match condition(&error) {
        Some(Condition::Busy) => StoreError::TimedOut,
        Some(Condition::Unavailable) | None => StoreError::OutcomeUnknown(Box::new(error)),
    }
}

enum Condition {
    Busy,
    Unavailable,
}

/// diesel keeps SQLite's result code to itself, but for violated constraints. For the codes below `sqlite3_errmsg` is the fixed
/// English text of `sqlite3_errstr`, which is compiled in with SQLite, so that it can be compared like a code.
fn condition(error: &DieselError) -> Option<Condition> {
    match error {
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, information) => match information.message() {
            // SQLITE_BUSY, SQLITE_LOCKED
            "database is locked" | "database table is locked" => Some(Condition::Busy),
            // SQLITE_FULL, SQLITE_READONLY, SQLITE_IOERR, SQLITE_CANTOPEN, SQLITE_NOMEM, SQLITE_PROTOCOL
            "database or disk is full"
            | "attempt to write a readonly database"
            | "disk I/O error"
            | "unable to open database file"
            | "out of memory"
            | "locking protocol" => Some(Condition::Unavailable),
            // SQLITE_CORRUPT, SQLITE_NOTADB and everything that can only be wrong on our side.
            _ => None,
        },
        // The task that ran the statements was lost: the runtime is shutting down.
        DieselError::DatabaseError(DatabaseErrorKind::UnableToSendCommand, _) => Some(Condition::Unavailable),
        DieselError::RollbackErrorOnCommit { commit_error, .. } => condition(commit_error),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
