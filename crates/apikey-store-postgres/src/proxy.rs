//! Whether a proxy in between lends other server connections than those that statements were prepared on. Knows no table.

use std::time::Duration;

use diesel::{QueryableByName, sql_types::Integer};
use diesel_async::SimpleAsyncConnection as _;

use crate::{
    Schema,
    connection::{Connection, ConnectionError},
    connector::Connector,
    failure::{Failure, Intent, NoPreparedStatements},
    prepared::prepared,
};

/// How long a statement may wait for a proxy that has one server connection alone, which the check itself keeps busy.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(QueryableByName)]
struct ProcessRow {
    #[diesel(sql_type = Integer)]
    process: i32,
}

const PROCESS: &str = "SELECT pg_catalog.pg_backend_pid() AS process";

/// Refuses a proxy that does not keep prepared statements, as far as that shows: where the process that answers is another one than
/// the connection's, one connection keeps busy what the other one has prepared its statement on. A proxy that has a single server
/// connection shows nothing; then calls fail with the same cause once they meet it.
///
/// # Errors
/// [`ConnectionError::Proxy`], or those of opening another connection.
pub(crate) async fn check(connector: &Connector, mut connection: Connection) -> Result<(), ConnectionError> {
    let statement = || prepared!(&Schema::default(), PROCESS);
    let first: Result<Vec<ProcessRow>, Failure> =
        connection.run(statement(), Intent::Read, connector.options().statement_timeout).await;
    let process = match first {
        Ok(rows) => rows.first().map(|row| row.process),
        Err(error) => return refused(error),
    };
    if process == Some(connection.observer().process()) {
        return Ok(());
    }
    let mut other = connector.connect().await?;
    // In a transaction, a proxy leaves its server connection to it: most likely the one that was used last.
    let begun = other.batch_execute("BEGIN; SELECT 1").await;
    begun.map_err(|error| ConnectionError::Setup(error.into()))?;
    let second: Result<Vec<ProcessRow>, Failure> = connection.run(statement(), Intent::Read, PATIENCE).await;
    let ended = other.batch_execute("ROLLBACK").await;
    ended.map_err(|error| ConnectionError::Setup(error.into()))?;
    second.map(drop).or_else(refused)
}

/// What did not fail for want of a prepared statement is not judged here.
fn refused(error: Failure) -> Result<(), ConnectionError> {
    match error.into_store_error() {
        apikey_application::ports::StoreError::Unavailable(error) => match error.downcast::<NoPreparedStatements>() {
            Ok(error) => Err(ConnectionError::Proxy(*error)),
            Err(_) => Ok(()),
        },
        _ => Ok(()),
    }
}
