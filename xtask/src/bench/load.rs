//! Calls from several connections at once, each waiting for its answer before it asks again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use apikey_proto::pidgr::v1::{
    CreateApiKeyRequest, ListApiKeysRequest, ListApiKeysResponse, Pagination, RevokeApiKeyRequest,
    api_key_service_client::ApiKeyServiceClient,
};
use tonic::{Request, metadata::AsciiMetadataValue, transport::Channel};

/// A caller on a connection of its own.
pub(crate) struct Client(ApiKeyServiceClient<Channel>);

impl Client {
    /// Connects.
    pub(crate) async fn connect(endpoint: &str) -> Result<Self> {
        Ok(Self(ApiKeyServiceClient::new(Channel::from_shared(endpoint.to_owned())?.connect().await?)))
    }

    /// Creates a key in the name of another one; returns its id.
    pub(crate) async fn create(&mut self, key: &AsciiMetadataValue) -> Result<String> {
        let message = CreateApiKeyRequest { name: "CI Integration".to_owned(), ..CreateApiKeyRequest::default() };
        let created = self.0.create_api_key(with_key(message, key)).await?.into_inner();
        Ok(created.api_key.context("no key in the answer")?.id)
    }

    /// Revokes a key in the name of another one; returns how that was confirmed.
    pub(crate) async fn revoke(&mut self, key: &AsciiMetadataValue, id: String) -> Result<String> {
        let revoked = self.0.revoke_api_key(with_key(RevokeApiKeyRequest { id }, key)).await?;
        let confirmed =
            revoked.metadata().get("apikeys-revocation-confirmed").context("not said how it was confirmed")?;
        Ok(confirmed.to_str()?.to_owned())
    }

    /// Reads a page; returns it with the milliseconds that it took.
    pub(crate) async fn page(
        &mut self,
        key: &AsciiMetadataValue,
        size: i32,
        token: &str,
    ) -> Result<(ListApiKeysResponse, f64)> {
        let pagination = Some(Pagination { page_size: size, page_token: token.to_owned() });
        let message = ListApiKeysRequest { pagination, ..ListApiKeysRequest::default() };
        let started = super::now();
        let page = self.0.list_api_keys(with_key(message, key)).await?.into_inner();
        Ok((page, started.elapsed().as_secs_f64() * 1_000.0))
    }
}

fn with_key<T>(message: T, key: &AsciiMetadataValue) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-api-key", key.clone());
    request
}

/// Creates per second: that many connections for that long, each call in the name of the next of the keys.
pub(crate) async fn creates(
    endpoint: &str,
    keys: &[AsciiMetadataValue],
    connections: usize,
    duration: Duration,
) -> Result<f64> {
    let (done, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut callers = Vec::new();
    for caller in 0..connections {
        let mut client = Client::connect(endpoint).await?;
        let (done, count, keys) = (Arc::clone(&done), Arc::clone(&count), keys.to_vec());
        callers.push(tokio::spawn(async move {
            for key in keys.iter().cycle().skip(caller * keys.len() / connections) {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                client.create(key).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    let started = super::now();
    tokio::time::sleep(duration).await;
    let (created, took) = (count.load(Ordering::Relaxed), started.elapsed());
    done.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.context("a caller panicked")??;
    }
    Ok(f64::from(u32::try_from(created)?) / took.as_secs_f64())
}
