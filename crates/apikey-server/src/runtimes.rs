//! The runtimes: one thread for each core that serves, one for what is done once, and a few for the calls to the store. Small ones: an
//! idle service should cost little.
//!
//! A connection stays on the thread that it was given to, so that nothing of a call moves between cores or is woken through
//! another one.

use std::{
    future::Future,
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, available_parallelism},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

/// The store's side has a thread for every two cores, and no more than this: its work is done elsewhere, and more threads would only
/// wake each other.
const STORE_THREADS: usize = 4;
/// Threads for calls that block: `SQLite`'s connections, files, names of hosts.
const BLOCKING_THREADS: usize = 8;
/// How long an idle thread for blocking calls is kept.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long threads may take to end when the program does.
const STOP: Duration = Duration::from_millis(200);

/// The runtimes of a server.
pub struct Runtimes {
    main: Runtime,
    serving: Vec<ServingThread>,
    /// Tells, by being closed, that all threads that serve have ended.
    served: Receiver<()>,
    store: Runtime,
}

/// A thread that runs what it is given until its sender is dropped.
struct ServingThread {
    runtime: Handle,
    _stop: oneshot::Sender<()>,
}

impl Runtimes {
    /// Starts all.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn start() -> anyhow::Result<Self> {
        let cores = available_parallelism().map_or(1, usize::from);
        let main = build(&mut Builder::new_current_thread()).context("no thread to start with")?;
        let (ended, served) = channel();
        let serving = (0..cores)
            .map(|core| ServingThread::start(core, ended.clone()))
            .collect::<io::Result<_>>()
            .context("no threads to serve with")?;
        let store =
            build(Builder::new_multi_thread().worker_threads((cores / 2).clamp(1, STORE_THREADS)).thread_name("store"))
                .context("no threads for the store")?;
        Ok(Self { main, serving, served, store })
    }

    /// The store's runtime.
    #[must_use]
    pub fn store(&self) -> &Handle {
        self.store.handle()
    }

    /// The runtimes that connections are handed to, in turn.
    #[must_use]
    pub fn serving(&self) -> Vec<Handle> {
        self.serving.iter().map(|thread| thread.runtime.clone()).collect()
    }

    /// Runs a future to its end, on this thread.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.main.block_on(future)
    }

    /// Ends all, whatever still runs.
    pub fn stop(self) {
        let Self { main, serving, served, store } = self;
        drop(serving);
        // Nothing is ever sent: this waits until all have ended, or for the time that they have.
        let _ = served.recv_timeout(STOP);
        main.shutdown_timeout(STOP);
        store.shutdown_timeout(STOP);
    }
}

impl ServingThread {
    fn start(core: usize, ended: Sender<()>) -> io::Result<Self> {
        let runtime = build(&mut Builder::new_current_thread())?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new().name(format!("serve-{core}")).spawn(move || {
            // The sender never sends: it is dropped.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(STOP);
            drop(ended);
        })?;
        Ok(Self { runtime: handle, _stop: stop })
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

fn build(builder: &mut Builder) -> io::Result<Runtime> {
    builder.max_blocking_threads(BLOCKING_THREADS).thread_keep_alive(BLOCKING_KEEP_ALIVE).enable_all().build()
}
