//! The JWKS document, from a file or over HTTP: within a size and a time, and from nowhere else than configured.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use reqwest::{Client, StatusCode, header, redirect};
use tokio::io::AsyncReadExt;

use crate::{
    key_set::KeySetError,
    proxy::HttpProxy,
    settings::{JwksSource, JwksUrl},
};

/// The largest document, in bytes. Sets have a handful of keys of at most a few kilobytes.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// How long one request may take, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The issuer's keys could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JwksError {
    /// The file could not be read.
    #[error("the file could not be read")]
    Read(#[source] Arc<std::io::Error>),
    /// There was no answer in time, or it broke off.
    #[error("there was no whole answer")]
    Request(#[source] Arc<dyn Error + Send + Sync>),
    /// The answer is not a document. Redirects are not followed.
    #[error("the answer has status {0}")]
    Status(u16),
    /// The document is larger than 1 MiB.
    #[error("the document is larger than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    /// The document holds no keys that can be used.
    #[error("the document cannot be used")]
    KeySet(#[from] KeySetError),
}

/// Gets the document, again and again.
pub(crate) enum JwksReader {
    File(Box<Path>),
    Http(Client, JwksUrl),
}

impl JwksReader {
    pub(crate) fn new(source: &JwksSource, proxy: Option<&HttpProxy>) -> Result<Self, JwksError> {
        match source {
            JwksSource::File(path) => Ok(Self::File(path.as_path().into())),
            JwksSource::Url(url) => {
                // A redirect would let the issuer's host name another source of trust.
                let client = Client::builder().timeout(REQUEST_TIMEOUT).redirect(redirect::Policy::none());
                // `no_proxy` keeps reqwest from reading the environment, whose proxies are also for clear text and loopback.
                let mut client = client.no_proxy();
                if let Some(proxy) = proxy.filter(|proxy| proxy.is_for(url)) {
                    client = proxy.carry(client).map_err(request_error)?;
                    tracing::info!(source = %url, %proxy, "the issuer's keys are fetched through a proxy");
                }
                // Without TLS no certificate is needed, and a machine without any will do.
                let client = if url.is_https() { client.https_only(true) } else { client.tls_certs_only([]) };
                Ok(Self::Http(client.build().map_err(request_error)?, url.clone()))
            }
        }
    }

    pub(crate) async fn read(&self) -> Result<Vec<u8>, JwksError> {
        match self {
            Self::File(path) => read_file(path).await,
            Self::Http(client, url) => download(client, url).await,
        }
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, JwksError> {
    let read_error = |error| JwksError::Read(Arc::new(error));
    let file = tokio::fs::File::open(path).await.map_err(read_error)?;
    let mut document = Vec::new();
    // One byte more than allowed tells a document of just the largest size from a larger one.
    file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut document).await.map_err(read_error)?;
    if document.len() > MAX_DOCUMENT_BYTES { Err(JwksError::TooLarge) } else { Ok(document) }
}

async fn download(client: &Client, url: &JwksUrl) -> Result<Vec<u8>, JwksError> {
    let request = client.get(url.get()).header(header::ACCEPT, "application/jwk-set+json, application/json");
    let mut response = request.send().await.map_err(request_error)?;
    if response.status() != StatusCode::OK {
        return Err(JwksError::Status(response.status().as_u16()));
    }
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(request_error)? {
        if document.len() + chunk.len() > MAX_DOCUMENT_BYTES {
            return Err(JwksError::TooLarge);
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}

/// The address may hold a secret in its query, and the log has it already.
fn request_error(error: reqwest::Error) -> JwksError {
    JwksError::Request(Arc::new(error.without_url()))
}
