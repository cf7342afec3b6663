//! The wish to stop, told to everybody who serves.

use std::{future::Future, io};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// The signals that ask a process to stop. They are caught from its making on.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Catches SIGTERM and SIGINT.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Is ready once one of them has come, and says which.
    pub(crate) async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells tasks to stop. Dropping it tells them too.
pub(super) struct Shutdown(watch::Sender<bool>);

impl Shutdown {
    /// Nobody is told yet.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Is ready once tasks are told to stop.
    pub(super) fn requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut told = self.0.subscribe();
        async move {
            // A sender that is gone says the same.
            let _ = told.wait_for(|told| *told).await;
        }
    }

    /// Tells them.
    pub(super) fn request(&self) {
        self.0.send_replace(true);
    }
}
