//! One connection: why one cannot be opened, and how a statement runs on one. Knows no statement.

use std::{
    error::Error,
    fmt, io,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use diesel_async::{AsyncPgConnection, methods::LoadQuery};
use tokio::task::AbortHandle;

use crate::{
    failure::{Answer, Failure, Intent, NoPreparedStatements, lacks_prepared_statements},
    observer::{Observer, PasswordWithheld},
    tls,
};

/// A connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The server could not be reached, or refused.
    #[error("PostgreSQL cannot be reached, or refused the connection")]
    Connect(#[source] tokio_postgres::Error),
    /// The server's certificate is not accepted.
    #[error("PostgreSQL's certificate is not accepted: {advice}")]
    Certificate {
        /// What to do about it.
        advice: &'static str,
        /// What is wrong with it.
        source: tokio_postgres::Error,
    },
    /// The server offers no TLS, and `sslmode` insists on it.
    #[error("PostgreSQL offers no TLS, and sslmode={mode} insists on it")]
    NoTls {
        /// The value of `sslmode`.
        mode: &'static str,
    },
    /// The socket could not be opened.
    #[error("PostgreSQL's socket cannot be opened")]
    Socket(#[source] io::Error),
    /// The new connection failed at once.
    #[error("a new connection to PostgreSQL could not be set up")]
    Setup(#[source] Box<dyn Error + Send + Sync>),
    /// It took too long.
    #[error("PostgreSQL did not accept a connection in time")]
    TimedOut,
    /// A proxy stands in between that does not keep prepared statements.
    #[error(transparent)]
    Proxy(#[from] NoPreparedStatements),
    /// Another one was refused a moment ago, while others were open.
    #[error("PostgreSQL refused another connection a moment ago")]
    Full,
}

impl ConnectionError {
    pub(crate) fn of(error: tokio_postgres::Error) -> Self {
        match tls::advice(&error) {
            Some(advice) => Self::Certificate { advice, source: error },
            None => Self::Connect(error),
        }
    }

    /// Whether the server has no connection left, for this role or for anybody.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Full => true,
            // insufficient_resources: too_many_connections, and what else may be free again once a connection is closed.
            Self::Connect(error) => error.as_db_error().is_some_and(|error| error.code().code().starts_with("53")),
            _ => false,
        }
    }

    /// Whether the same attempt may succeed later without anybody changing a setting: the server cannot be reached, is starting or
    /// stopping, or has no connection left.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect(error) => match error.as_db_error() {
                // insufficient_resources, operator_intervention.
                Some(error) => matches!(error.code().code().as_bytes(), [b'5', b'3' | b'7', ..]),
                None => error.is_closed() || is_of_the_network(error),
            },
            Self::Socket(_) | Self::TimedOut | Self::Full => true,
            Self::Certificate { .. } | Self::NoTls { .. } | Self::Setup(_) | Self::Proxy(_) => false,
        }
    }
}

/// Whether the operating system reported the error: it is neither of TLS nor of a password that is not given.
fn is_of_the_network(error: &tokio_postgres::Error) -> bool {
    let causes = std::iter::successors(Error::source(error), |error| (*error).source());
    causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|error| {
        error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>() && !inner.is::<PasswordWithheld>())
    })
}

/// A connection, with what was seen on it.
pub(crate) struct Connection {
    pg: AsyncPgConnection,
    observer: Arc<Observer>,
    /// A statement has been sent and its answer has not been read to the end.
    busy: bool,
    /// The connector's when the connection was asked for.
    generation: u64,
    driver: AbortHandle,
}

impl Connection {
    /// A connection that `driver` moves what is sent and received of, asked for in that generation of the connector's.
    pub(crate) const fn new(
        pg: AsyncPgConnection,
        observer: Arc<Observer>,
        generation: u64,
        driver: AbortHandle,
    ) -> Self {
        Self { pg, observer, busy: false, generation, driver }
    }

    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Runs a statement, and reads its answer to the end. Afterwards, or where this is dropped half-way,
    /// [`Connection::is_usable`] says whether another may follow; a connection that is not usable is to be dropped, never
    /// cancelled: a commit that is cancelled while it waits for its standby reports success.
    pub(crate) async fn run<Q, R>(
        &mut self,
        statement: Q,
        intent: Intent,
        time_limit: Duration,
    ) -> Result<Vec<R>, Failure>
    where
        Q: LoadQuery<'static, AsyncPgConnection, R> + Send + 'static,
        R: Send + 'static,
    {
        // Here alone: it lends a `load` to every type.
        use diesel_async::RunQueryDsl as _;

        self.busy = true;
        self.observer.take_error();
        let sent_before = self.observer.sent();
        // All rows are read, and with them the message that follows the commit: the server sends the rows of a statement
        // before it commits, so that `get_result`, which stops at the first row, would report what may still fail.
        let answer = tokio::time::timeout(time_limit, statement.load::<R>(&mut self.pg)).await;
        let error = match answer {
            Ok(Ok(rows)) => {
                self.busy = false;
                return Ok(rows);
            }
            Ok(Err(error)) => Some(error),
            Err(_elapsed) => None,
        };
        let state = self.observer.take_error();
        let was_sent = self.observer.sent() != sent_before;
        let (failure, reusable) = Answer { error, state, was_sent, intent }.into_failure();
        self.busy = !reusable;
        Err(failure)
    }

    /// Whether the last statement failed since a proxy does not keep prepared statements.
    pub(crate) fn lacks_prepared_statements(&self) -> bool {
        self.observer.take_error().is_some_and(lacks_prepared_statements)
    }

    /// What was seen on the connection.
    pub(crate) fn observer(&self) -> Arc<Observer> {
        Arc::clone(&self.observer)
    }

    /// Whether a statement may be sent: no answer is outstanding, and the connection was not seen to end.
    pub(crate) fn is_usable(&self) -> bool {
        !self.busy && !self.observer.is_closed()
    }
}

impl Deref for Connection {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.pg
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.pg
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("observer", &self.observer).field("busy", &self.busy).finish_non_exhaustive()
    }
}

/// Whatever is unanswered is abandoned: the socket is closed at once.
impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
