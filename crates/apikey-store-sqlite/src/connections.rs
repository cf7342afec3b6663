//! Connections: how they are made, and how units of work get to run on them. Knows no table.

use std::{
    error::Error,
    fs::File,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use apikey_application::ports::StoreError;
use diesel::{
    Connection, QueryResult, SqliteConnection,
    connection::{AnsiTransactionManager, SimpleConnection, TransactionManager, TransactionManagerStatus},
    result::ConnectionError,
};
use diesel_async::sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper};
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};

use crate::error::{Failure, store_error};

/// How many reads run at once. A read of one key takes microseconds, so that a few serve as many cores as a process on SQLite
/// will have; each connection holds a page cache of up to 2 MiB.
const READERS: usize = 3;

/// How many calls may wait for a connection. A thousand writes at some 5 ms for each fsync are the 5 s after which nobody waits
/// for an answer any more.
const MAX_WAITING: usize = 1_000;

/// How long SQLite waits for a lock that a tool beside this process (a backup, a shell) holds.
const BUSY_TIMEOUT_MILLIS: u32 = 2_000;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Read,
    Write,
}

/// The connections of a store, and the lock that makes it the only one.
pub(crate) struct Connections {
    // In the order in which they must be dropped: the lock last.
    readers: Lane,
    writer: Lane,
    lock: AsyncMutex<Option<File>>,
}

/// Connections of one role, and the queue before them.
struct Lane {
    database: Arc<str>,
    waiting: Semaphore,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<AsyncConnection>>,
}

type AsyncConnection = SyncConnectionWrapper<SqliteConnection, BlockingThreads>;

impl Connections {
    /// Takes over the connection that prepared the database, and opens the readers beside it. Blocks.
    pub(crate) fn open(database: &Arc<str>, writer: SqliteConnection, lock: File) -> Result<Self, ConnectionError> {
        let readers = (0..READERS).map(|_| connect(database, Role::Read)).collect::<Result<_, _>>()?;
        Ok(Self {
            readers: Lane::new(database, readers),
            writer: Lane::new(database, vec![writer]),
            lock: AsyncMutex::new(Some(lock)),
        })
    }

    /// Runs `work` on a connection of that role, on a thread of its own. Once it has begun, it ends, whoever still waits for it.
    pub(crate) async fn run<T, E>(
        self: &Arc<Self>,
        role: Role,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Failure> + From<StoreError> + Send + 'static,
    {
        let lane = match role {
            Role::Read => &self.readers,
            Role::Write => &self.writer,
        };
        let Ok(_waiting) = lane.waiting.try_acquire() else {
            return Err(if lane.waiting.is_closed() { closed() } else { StoreError::Overloaded }.into());
        };
        let Ok(permit) = Arc::clone(&lane.free).acquire_owned().await else { return Err(closed().into()) };
        let mut lent = Lent { lane, connection: lane.idle().pop(), permit: Arc::new(permit) };
        let Some(connection) = &mut lent.connection else { return Err(closed().into()) };
        let (this, permit, database) = (Arc::clone(self), Arc::clone(&lent.permit), Arc::clone(&lane.database));
        let ran = connection.spawn_blocking(move |connection| {
            // Both are held to the end, even where nobody waits for it any more: the next call gets the connection only
            // afterwards, and the store stays locked.
            let (_this, _permit) = (this, permit);
            Ok(match renew_if_broken(connection, &database, role) {
                Ok(()) => work(connection),
                Err(error) => Err(StoreError::Unavailable(Box::new(error)).into()),
            })
        });
        ran.await.unwrap_or_else(|lost| {
            Err(match role {
                Role::Read => store_error(lost),
                Role::Write => StoreError::OutcomeUnknown(Box::new(lost)),
            }
            .into())
        })
    }

    /// Waits for what is running, then closes every connection and lets the lock go. Later calls find the store closed.
    pub(crate) async fn close(&self) {
        // Whoever closes the store at the same time waits here, and then finds nothing left to do.
        let mut lock = self.lock.lock().await;
        for (lane, size) in [(&self.readers, READERS), (&self.writer, 1)] {
            lane.waiting.close();
            let Ok(all) = lane.free.acquire_many(u32::try_from(size).unwrap_or(u32::MAX)).await else { continue };
            lane.free.close();
            drop(all);
            let connections = std::mem::take(&mut *lane.idle());
            // The last connection that closes writes the log back into the database and deletes it: that is I/O.
            if tokio::task::spawn_blocking(move || drop(connections)).await.is_err() {
                tracing::warn!("a connection to SQLite was not closed cleanly");
            }
        }
        lock.take();
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

impl Lane {
    fn new(database: &Arc<str>, connections: Vec<SqliteConnection>) -> Self {
        Self {
            database: Arc::clone(database),
            waiting: Semaphore::new(MAX_WAITING),
            free: Arc::new(Semaphore::new(connections.len())),
            idle: Mutex::new(connections.into_iter().map(AsyncConnection::new).collect()),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<AsyncConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that goes back to its lane, however its call ends; and only then the permit of its caller.
struct Lent<'a> {
    lane: &'a Lane,
    connection: Option<AsyncConnection>,
    permit: Arc<OwnedSemaphorePermit>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.lane.idle().extend(self.connection.take());
    }
}

/// Opens a connection and sets it up. Blocks.
pub(crate) fn connect(database: &str, role: Role) -> Result<SqliteConnection, ConnectionError> {
    let mut connection = SqliteConnection::establish(database)?;
    // WAL: readers and the writer do not wait for each other. FULL: a commit is on the disk before it is answered. The log is
    // cut back to 64 MiB after a burst.
    let settings = format!(
        "PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLIS};
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;
         PRAGMA temp_store = MEMORY;
         PRAGMA journal_size_limit = 67108864;"
    );
    connection.batch_execute(&settings).map_err(ConnectionError::CouldntSetupConfiguration)?;
    if role == Role::Read {
        connection.batch_execute("PRAGMA query_only = ON;").map_err(ConnectionError::CouldntSetupConfiguration)?;
    }
    Ok(connection)
}

/// A connection whose last unit of work panicked inside a transaction, or could not even roll it back, is replaced.
fn renew_if_broken(connection: &mut SqliteConnection, database: &str, role: Role) -> Result<(), ConnectionError> {
    let outside_of_transactions = match AnsiTransactionManager::transaction_manager_status_mut(connection) {
        TransactionManagerStatus::Valid(status) => status.transaction_depth().is_none(),
        TransactionManagerStatus::InError => false,
    };
    if !outside_of_transactions {
        tracing::warn!("a connection to SQLite was broken and is replaced");
        *connection = connect(database, role)?;
    }
    Ok(())
}

/// The path as SQLite takes it: absolute, so that nothing in it is read as a URI.
pub(crate) fn database_url(path: &Path) -> Option<Arc<str>> {
    path.to_str().filter(|_| path.is_absolute()).map(Arc::from)
}

/// tokio's threads for blocking work. Unlike the runtime that diesel-async brings, dropping the future of a task does not wait
/// for the task (which, on a current-thread runtime, panics): a unit of work here is one task, and nothing is left half-way.
pub(crate) struct BlockingThreads;

impl SpawnBlocking for BlockingThreads {
    fn spawn_blocking<'a, R>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Result<R, Box<dyn Error + Send + Sync>>> + Send + 'a>>
    where
        R: Send + 'static,
    {
        let running = tokio::task::spawn_blocking(task);
        Box::pin(async move { running.await.map_err(Into::into) })
    }

    fn get_runtime() -> Self {
        Self
    }
}

/// Runs `work` in one transaction that begins as a writer, so that nobody changes what it has read.
pub(crate) fn write<T>(
    connection: &mut SqliteConnection,
    work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (mut failed, mut at_commit) = (None, false);
    let outcome: QueryResult<T> = connection.immediate_transaction(|connection| match work(connection) {
        Ok(done) => {
            at_commit = true;
            Ok(done)
        }
        Err(failure) => {
            failed = Some(failure);
            Err(diesel::result::Error::RollbackTransaction)
        }
    });
    outcome.map_err(|error| match failed {
        // What went wrong in the work, and not what went wrong in the rollback after it: some failures make SQLite roll back by
        // itself, and then there is nothing left to roll back.
        Some(failure) => failure,
        None if at_commit => Failure::Refused(crate::error::lost_commit(error).into()),
        None => error.into(),
    })
}

#[cfg(test)]
mod tests;
