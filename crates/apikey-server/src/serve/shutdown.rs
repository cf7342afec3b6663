//! The wish to stop, told to everybody who serves.

use std::future::Future;

use tokio::sync::watch;

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
