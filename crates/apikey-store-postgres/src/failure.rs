//! What a failure means, told by its SQLSTATE and by the name of a constraint. Reads no message text.

use std::error::Error;

use apikey_application::ports::StoreError;
use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::observer::SqlState;

/// What a statement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// It changes nothing, so that its loss is nothing but a loss of time.
    Read,
    /// It is a transaction of its own.
    Change,
}

/// A statement failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A unique constraint of that name refused it; nothing was changed.
    NotUnique(String),
    /// Everything else.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// For a statement that no unique constraint can refuse.
    pub(crate) fn into_store_error(self) -> StoreError {
        match self {
            Self::NotUnique(constraint) => {
                StoreError::Defect(format!("the constraint {constraint} refused what it cannot refuse").into())
            }
            Self::Store(error) => error,
        }
    }
}

/// A proxy lends another server connection than the one on which the statement was prepared.
#[derive(Debug, thiserror::Error)]
#[error(
    "a proxy in front of PostgreSQL does not keep prepared statements (PgBouncer does so from 1.21 on, with \
     max_prepared_statements above 0; otherwise use session pooling or PostgreSQL itself)"
)]
pub struct NoPreparedStatements(#[source] pub(crate) Box<dyn Error + Send + Sync>);

/// Whether the server's answer shows that a proxy does not keep prepared statements: the server does not know one that was
/// prepared (26000), or knows another program's of the same name (42P05).
pub(crate) fn lacks_prepared_statements(SqlState(code): SqlState) -> bool {
    [*b"26000", *b"42P05"].contains(&code)
}

/// All that is known about a statement that did not succeed.
pub(crate) struct Answer {
    /// The driver's error; `None` where there was no answer in time.
    pub(crate) error: Option<DieselError>,
    /// What the server said was wrong, if it said something.
    pub(crate) state: Option<SqlState>,
    /// Whether any byte of the statement left this process.
    pub(crate) was_sent: bool,
    pub(crate) intent: Intent,
}

impl Answer {
    /// What it means, and whether the connection can be used again.
    pub(crate) fn into_failure(self) -> (Failure, bool) {
        let may_have_happened = self.intent == Intent::Change && self.was_sent;
        let lost = |error: DieselError| {
            let error: Box<dyn Error + Send + Sync> = error.into();
            if may_have_happened { StoreError::OutcomeUnknown(error) } else { StoreError::Unavailable(error) }
        };
        let Some(error) = self.error else {
            let store_error = if may_have_happened {
                StoreError::OutcomeUnknown("the server did not answer in time".into())
            } else {
                StoreError::TimedOut
            };
            return (store_error.into(), false);
        };
        let Some(SqlState(code)) = self.state else {
            return match error {
                DieselError::DatabaseError(
                    DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection,
                    _,
                ) => (lost(error).into(), false),
                error => (StoreError::Defect(error.into()).into(), false),
            };
        };
        // PostgreSQL's manual, appendix A. Where the server answers with one of these and goes on, it has rolled back.
        match &code {
            b"23505" => match &error {
                DieselError::DatabaseError(_, information) => match information.constraint_name() {
                    Some(name) => (Failure::NotUnique(name.to_owned()), true),
                    None => (StoreError::Defect(error.into()).into(), false),
                },
                _ => (StoreError::Defect(error.into()).into(), false),
            },
            // query_canceled (by a time limit of the server's), lock_not_available.
            b"57014" | b"55P03" => (StoreError::TimedOut.into(), true),
            // operator_intervention other than a cancel, connection exceptions, idle_in_transaction_session_timeout: the
            // server closes the connection, and whether that was before or after a commit is not said.
            [b'5', b'7', b'P', ..] | [b'0', b'8', ..] | b"25P03" => (lost(error).into(), false),
            // invalid_sql_statement_name, duplicate_prepared_statement.
            _ if lacks_prepared_statements(SqlState(code)) => {
                (StoreError::Unavailable(NoPreparedStatements(error.into()).into()).into(), false)
            }
            // serialization_failure and deadlock_detected; insufficient resources; read_only_sql_transaction and
            // object_not_in_prerequisite_state (a standby was asked); feature_not_supported ("cached plan must not change result
            // type": somebody changed a column's type). The same call may succeed on another connection.
            b"40001" | b"40P01" | [b'5', b'3', ..] | b"25006" | b"55000" | b"0A000" => {
                (StoreError::Unavailable(error.into()).into(), false)
            }
            _ => (StoreError::Defect(error.into()).into(), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(state: Option<&[u8; 5]>, was_sent: bool, intent: Intent) -> (StoreError, bool) {
        let error = DieselError::DatabaseError(DatabaseErrorKind::UnableToSendCommand, Box::new("text".to_owned()));
        let (failure, reusable) =
            Answer { error: Some(error), state: state.map(|code| SqlState(*code)), was_sent, intent }.into_failure();
        (failure.into_store_error(), reusable)
    }

    #[test]
    fn a_change_that_was_sent_and_lost_is_of_unknown_outcome_and_nothing_else_is() {
        for state in [None, Some(b"57P01"), Some(b"57P02"), Some(b"08006"), Some(b"25P03")] {
            for (was_sent, intent) in [(true, Intent::Read), (false, Intent::Read), (false, Intent::Change)] {
                let (error, reusable) = meaning(state, was_sent, intent);
                assert!(matches!(error, StoreError::Unavailable(_)) && !reusable, "{error:?}");
            }
            let (error, reusable) = meaning(state, true, Intent::Change);
            assert!(matches!(error, StoreError::OutcomeUnknown(_)) && !reusable, "{error:?}");
        }
    }

    #[test]
    fn no_answer_in_time_is_of_unknown_outcome_only_for_a_change_that_was_sent() {
        for (was_sent, intent, unknown) in
            [(true, Intent::Change, true), (false, Intent::Change, false), (true, Intent::Read, false)]
        {
            let (failure, reusable) = Answer { error: None, state: None, was_sent, intent }.into_failure();
            let error = failure.into_store_error();
            assert_eq!(matches!(error, StoreError::OutcomeUnknown(_)), unknown, "{error:?}");
            assert_eq!(matches!(error, StoreError::TimedOut), !unknown, "{error:?}");
            assert!(!reusable, "its answer may still come");
        }
    }

    #[test]
    fn codes_are_told_apart() {
        for (code, expected, reusable) in [
            (b"57014", "TimedOut", true),
            (b"55P03", "TimedOut", true),
            (b"40001", "Unavailable", false),
            (b"40P01", "Unavailable", false),
            (b"53100", "Unavailable", false),
            (b"53300", "Unavailable", false),
            (b"25006", "Unavailable", false),
            (b"26000", "Unavailable", false),
            (b"42P05", "Unavailable", false),
            (b"0A000", "Unavailable", false),
            (b"22021", "Defect", false),
            (b"23505", "Defect", false),
            (b"23514", "Defect", false),
            (b"42P01", "Defect", false),
            (b"42601", "Defect", false),
        ] {
            for intent in [Intent::Read, Intent::Change] {
                let (error, again) = meaning(Some(code), true, intent);
                assert!(format!("{error:?}").starts_with(expected), "{code:?}: {error:?}");
                assert_eq!(again, reusable, "{code:?}");
            }
        }
    }
}
