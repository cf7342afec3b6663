//! A connection beside the pool, for calls that must never wait for a place in it. Knows no statement.

use std::{future::Future, sync::Arc, time::Duration};

use apikey_application::ports::StoreError;
use diesel_async::{AsyncPgConnection, methods::LoadQuery};
use tokio::sync::Mutex;

use crate::{
    connection::Connection,
    failure::{Failure, Intent},
};

/// At most one connection, opened when it is first needed and kept open, for one call at a time: the others wait. Copies share
/// it.
///
/// A call that fails, or that is dropped, takes the connection with it unless its answer was read to the end; the next call
/// opens another one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved(Arc<Mutex<Option<Connection>>>);

impl Reserved {
    /// Runs a statement on the connection, if there is one that is usable and `fits`, or on one that `open` opens.
    pub(crate) async fn run<Q, R>(
        &self,
        fits: impl Fn(&Connection) -> bool + Send,
        open: impl Future<Output = Result<Connection, StoreError>> + Send,
        statement: Q,
        intent: Intent,
        time_limit: Duration,
    ) -> Result<Vec<R>, Failure>
    where
        Q: LoadQuery<'static, AsyncPgConnection, R> + Send + 'static,
        R: Send + 'static,
    {
        let mut place = self.0.lock().await;
        // Taken out of its place for the time of the call: where the call is dropped, it is dropped with it.
        let mut connection = match place.take() {
            Some(connection) if connection.is_usable() && fits(&connection) => connection,
            _ => open.await?,
        };
        let answer = connection.run(statement, intent, time_limit).await;
        if connection.is_usable() {
            *place = Some(connection);
        }
        answer
    }
}
