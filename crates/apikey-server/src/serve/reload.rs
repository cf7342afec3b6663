//! SIGHUP: certificates and the files of secrets are read again. What cannot be used changes nothing.

use std::{convert::Infallible, error::Error};

use apikey_grpc::{AccessToken, TlsIdentity};
use apikey_store_postgres::PostgresStore;

use super::tls_identity;
use crate::{
    config::{ServerSettings, read_verify_token},
    signals::ReloadSignals,
};

/// What is in force and can be read again.
pub(super) struct Reload {
    pub(super) tls: Option<TlsIdentity>,
    pub(super) token: Option<AccessToken>,
    pub(super) database: Option<PostgresStore>,
}

impl Reload {
    /// Reads everything again, each time that the signal comes.
    pub(super) async fn run(&self, settings: &ServerSettings, mut signals: ReloadSignals) -> Infallible {
        loop {
            signals.received().await;
            tracing::info!("SIGHUP: files are read again");
            self.read_again(settings).await;
        }
    }

    async fn read_again(&self, settings: &ServerSettings) {
        if let (Some(tls), Some(files)) = (&self.tls, settings.tls.clone()) {
            let read = blocking(move || tls_identity(&files)).await;
            said("tls_certificate, tls_key", read.map(|identity| tls.replace(&identity)));
        }
        if let (Some(token), Some(path)) = (&self.token, settings.verify_token_file.clone()) {
            let read = blocking(move || Ok(AccessToken::new(&read_verify_token(&path)?)?)).await;
            said("verify_token_file", read.map(|read| token.replace(&read)));
        }
        if let Some(database) = &self.database {
            // What becomes of it, the store says itself.
            tracing::info!(settings = "database_url_file", "is read again");
            database.read_url_again().await;
        }
    }
}

/// A file may be on a disk that is not there.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(read).await?
}

fn said(settings: &str, read: anyhow::Result<()>) {
    match read {
        Ok(()) => tracing::info!(settings, "read again"),
        Err(error) => {
            let error: &(dyn Error + 'static) = error.as_ref();
            tracing::warn!(settings, error, "cannot be read again: what was read before stays in force");
        }
    }
}
