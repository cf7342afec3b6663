//! Two runtimes: one serves, the other carries the calls to the store. Small ones: an idle service should cost little.

use std::{future::Future, io, thread::available_parallelism, time::Duration};

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle, Runtime};

/// More threads than this for the store's side only wait for each other: its work is done elsewhere.
const STORE_THREADS: usize = 4;
/// Threads for calls that block: `SQLite`'s connections, files, names of hosts.
const BLOCKING_THREADS: usize = 8;
/// How long an idle thread for blocking calls is kept.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long threads may take to end when the program does.
const STOP: Duration = Duration::from_millis(200);

/// The two runtimes of a server.
pub(crate) struct Runtimes {
    serving: Runtime,
    store: Runtime,
}

impl Runtimes {
    /// Starts both.
    ///
    /// # Errors
    /// The system has no threads left.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let cores = available_parallelism().map_or(1, usize::from);
        let serving = runtime("serve", cores).context("no threads to serve with")?;
        let store = runtime("store", cores.min(STORE_THREADS)).context("no threads for the store")?;
        Ok(Self { serving, store })
    }

    /// The store's runtime.
    pub(crate) fn store(&self) -> &Handle {
        self.store.handle()
    }

    /// Serves until the future is ready.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.serving.block_on(future)
    }

    /// Ends both, whatever still runs.
    pub(crate) fn stop(self) {
        self.serving.shutdown_timeout(STOP);
        self.store.shutdown_timeout(STOP);
    }
}

/// Runs a future on a runtime to its end, whoever stops waiting for it.
///
/// # Errors
/// Those of the future, and a panic in it.
pub(crate) async fn run_on<T: Send + 'static>(
    runtime: &Handle,
    future: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<T> {
    // A panic's own text could hold anything.
    runtime.spawn(future).await.unwrap_or_else(|_| Err(anyhow::anyhow!("a task of the store ended early")))
}

fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .thread_name(name)
        .enable_all()
        .build()
}
