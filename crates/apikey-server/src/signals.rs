//! The signals that a process is sent, handled from its first instruction on.
//!
//! The first process of a container has no default actions: the kernel drops each signal that it does not handle
//! (`pid_namespaces(7)`). So a thread of its own handles them, whatever the others wait for.

use std::{
    io::{self, IsTerminal as _},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// What a shell reports for a process that a signal ended, without the signal's number.
const ENDED_BY_SIGNAL: i32 = 128;

/// The signals of this process. Each of them ends it at once, until a command says otherwise.
pub(crate) struct Signals(Arc<Shared>);

struct Shared {
    drains: AtomicBool,
    reloads: AtomicBool,
    stop: watch::Sender<Option<&'static str>>,
    reload: watch::Sender<()>,
}

/// Tells that the process shall stop.
pub(crate) struct StopSignals(watch::Receiver<Option<&'static str>>);

/// Tells that files shall be read again.
pub(crate) struct ReloadSignals(watch::Receiver<()>);

impl Signals {
    /// Handles SIGHUP, SIGINT, SIGQUIT and SIGTERM from now on.
    ///
    /// # Errors
    /// The system refuses a handler or a thread.
    pub(crate) fn catch() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            drains: AtomicBool::new(false),
            reloads: AtomicBool::new(false),
            stop: watch::Sender::new(None),
            reload: watch::Sender::new(()),
        });
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (say_handled, handled) = mpsc::channel();
        let told = Arc::clone(&shared);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async move {
                match Handlers::install() {
                    Ok(handlers) => {
                        // Whoever waits for it is there.
                        let _ = say_handled.send(Ok(()));
                        handlers.run(&told).await;
                    }
                    Err(error) => drop(say_handled.send(Err(error))),
                }
            });
        })?;
        handled.recv().map_err(io::Error::other)??;
        Ok(Self(shared))
    }

    /// From now on the process is told of SIGINT, SIGQUIT and SIGTERM, and ends by itself.
    pub(crate) fn stop(&self) -> StopSignals {
        let receiver = self.0.stop.subscribe();
        self.0.drains.store(true, Ordering::SeqCst);
        StopSignals(receiver)
    }

    /// From now on SIGHUP ends nothing: files are to be read again.
    pub(crate) fn reload(&self) -> ReloadSignals {
        let receiver = self.0.reload.subscribe();
        self.0.reloads.store(true, Ordering::SeqCst);
        ReloadSignals(receiver)
    }
}

impl StopSignals {
    /// Is ready once one of them has come, and says which.
    ///
    /// # Cancel safety
    /// A signal is never lost.
    pub(crate) async fn received(&mut self) -> &'static str {
        match self.0.wait_for(Option::is_some).await.map(|signal| *signal) {
            Ok(Some(signal)) => signal,
            // The thread lives as long as the process.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl ReloadSignals {
    /// Is ready once SIGHUP has come since the last time.
    ///
    /// # Cancel safety
    /// A signal is never lost.
    pub(crate) async fn received(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Shared {
    fn stop(&self, name: &'static str, kind: SignalKind) {
        if !self.drains.load(Ordering::SeqCst) {
            process::exit(ENDED_BY_SIGNAL.saturating_add(kind.as_raw_value()));
        }
        self.stop.send_replace(Some(name));
    }
}

struct Handlers {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    /// A terminal that is closed sends SIGHUP too, and nobody is there to read on.
    on_terminal: bool,
}

impl Handlers {
    fn install() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            on_terminal: io::stderr().is_terminal(),
        })
    }

    async fn run(mut self, shared: &Shared) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => shared.stop("SIGTERM", SignalKind::terminate()),
                _ = self.interrupt.recv() => shared.stop("SIGINT", SignalKind::interrupt()),
                _ = self.quit.recv() => shared.stop("SIGQUIT", SignalKind::quit()),
                _ = self.hangup.recv() => {
                    let terminal_is_gone = self.on_terminal && !io::stderr().is_terminal();
                    if shared.reloads.load(Ordering::SeqCst) && !terminal_is_gone {
                        shared.reload.send_replace(());
                    } else {
                        shared.stop("SIGHUP", SignalKind::hangup());
                    }
                }
            }
        }
    }
}
