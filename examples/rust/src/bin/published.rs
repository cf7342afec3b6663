//! Drives the service with Pidgr's published crate `pidgr-proto`, unmodified: by gRPC, and by the Connect protocol with binary
//! protobuf. That crate names some fields differently; on the wire only the numbers count.
//!
//! Reads `APIKEYS_ENDPOINT` (`http://host:port`) and `APIKEYS_KEY` (a key that may manage API keys).

#![expect(clippy::disallowed_methods, reason = "an example is configured by its environment")]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;

use anyhow::{Context, Result, ensure};
use pidgr_proto::pidgr::v1::{
    CreateApiKeyRequest, CreateApiKeyResponse, ListApiKeysRequest, ListApiKeysResponse, Permission,
    RevokeApiKeyRequest, RevokeApiKeyResponse, api_key_service_client::ApiKeyServiceClient,
};
use prost::Message;
use tonic::{Code, Request, metadata::AsciiMetadataValue, transport::Channel};

#[tokio::main]
async fn main() -> Result<()> {
    let (endpoint, key) = (env::var("APIKEYS_ENDPOINT")?, env::var("APIKEYS_KEY")?);
    by_grpc(&endpoint, &key).await.context("gRPC")?;
    println!("the published crate works by gRPC");
    by_connect(&endpoint, &key).await.context("Connect")?;
    println!("the published crate works by Connect");
    Ok(())
}

fn create() -> CreateApiKeyRequest {
    CreateApiKeyRequest {
        name: "CI Integration".to_owned(),
        permissions: vec![Permission::CampaignsRead.into()],
        ..CreateApiKeyRequest::default()
    }
}

fn check(created: CreateApiKeyResponse, listed: &ListApiKeysResponse) -> Result<String> {
    let key = created.api_key.context("no metadata")?;
    ensure!(created.key.starts_with(&key.key_prefix) && created.key.len() == 54, "the key has another form");
    ensure!(key.permissions == [i32::from(Permission::CampaignsRead)], "permissions {:?}", key.permissions);
    ensure!(
        key.created_at.is_some() && key.last_used_at.is_none() && key.expires_at.is_none(),
        "instants of {}",
        key.id
    );
    ensure!(listed.api_keys.first().is_some_and(|newest| newest.id == key.id), "the newest key is another one");
    Ok(key.id)
}

async fn by_grpc(endpoint: &str, key: &str) -> Result<()> {
    let channel = Channel::from_shared(endpoint.to_owned())?.connect().await?;
    let with_key = |key: &str| -> Result<_> {
        let mut credential: AsciiMetadataValue = key.parse()?;
        credential.set_sensitive(true);
        Ok(ApiKeyServiceClient::with_interceptor(channel.clone(), move |mut request: Request<()>| {
            request.metadata_mut().insert("x-api-key", credential.clone());
            Ok(request)
        }))
    };
    let mut client = with_key(key)?;
    let created = client.create_api_key(create()).await?.into_inner();
    let raw_key = created.key.clone();
    let listed = client.list_api_keys(ListApiKeysRequest::default()).await?.into_inner();
    let api_key_id = check(created, &listed)?;
    client.revoke_api_key(RevokeApiKeyRequest { api_key_id }).await?;
    let refusal = with_key(&raw_key)?.list_api_keys(ListApiKeysRequest::default()).await;
    ensure!(refusal.is_err_and(|status| status.code() == Code::Unauthenticated), "a revoked key was accepted");
    Ok(())
}

async fn by_connect(endpoint: &str, key: &str) -> Result<()> {
    let client = reqwest::Client::new();
    let created: CreateApiKeyResponse = post(&client, endpoint, key, "CreateApiKey", &create()).await?;
    let raw_key = created.key.clone();
    let listed = post(&client, endpoint, key, "ListApiKeys", &ListApiKeysRequest::default()).await?;
    let api_key_id = check(created, &listed)?;
    let _: RevokeApiKeyResponse =
        post(&client, endpoint, key, "RevokeApiKey", &RevokeApiKeyRequest { api_key_id }).await?;
    let list = ListApiKeysRequest::default();
    let refusal = post::<ListApiKeysResponse>(&client, endpoint, &raw_key, "ListApiKeys", &list)
        .await
        .err()
        .context("a revoked key was accepted")?;
    ensure!(refusal.to_string().contains("401"), "a revoked key was answered by {refusal}");
    Ok(())
}

/// A unary call by the Connect protocol: one POST, one message each way.
async fn post<R: Message + Default>(
    client: &reqwest::Client,
    endpoint: &str,
    key: &str,
    method: &str,
    request: &impl Message,
) -> Result<R> {
    let response = client
        .post(format!("{endpoint}/pidgr.v1.ApiKeyService/{method}"))
        .header("content-type", "application/proto")
        .header("x-api-key", key)
        .body(request.encode_to_vec())
        .send()
        .await?
        .error_for_status()?;
    Ok(R::decode(response.bytes().await?)?)
}
