//! Creates, lists and revokes an API key by gRPC.
//!
//! Reads `APIKEYS_ENDPOINT` (`http://host:port`) and `APIKEYS_KEY` (a key that may manage API keys).

#![expect(clippy::disallowed_methods, reason = "an example is configured by its environment")]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;

use anyhow::{Context, Result, ensure};
use apikey_proto::pidgr::v1::{
    CreateApiKeyRequest, ListApiKeysRequest, Pagination, RevokeApiKeyRequest,
    api_key_service_client::ApiKeyServiceClient,
};
use tonic::{Code, Request, metadata::AsciiMetadataValue, transport::Channel};
use tonic_types::StatusExt as _;

#[tokio::main]
async fn main() -> Result<()> {
    let channel = Channel::from_shared(env::var("APIKEYS_ENDPOINT")?)?.connect().await?;
    let mut credential: AsciiMetadataValue = format!("Bearer {}", env::var("APIKEYS_KEY")?).parse()?;
    credential.set_sensitive(true);
    let mut client = ApiKeyServiceClient::with_interceptor(channel, move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", credential.clone());
        Ok(request)
    });

    let request = CreateApiKeyRequest { name: "CI Integration".to_owned(), ..CreateApiKeyRequest::default() };
    let response = client.create_api_key(request).await?.into_inner();
    // Store response.raw_key securely: it won't be shown again.
    let key = response.api_key.context("no metadata")?;
    ensure!(response.raw_key.starts_with(&key.prefix), "the key does not start with its prefix");
    println!("created {} {}", key.id, key.prefix);

    client.revoke_api_key(RevokeApiKeyRequest { id: key.id.clone() }).await?;
    println!("revoked {}", key.id);

    let mut pagination = Pagination { page_size: 1, page_token: String::new() };
    let revoked = loop {
        let request = ListApiKeysRequest { pagination: Some(pagination.clone()), ..ListApiKeysRequest::default() };
        let page = client.list_api_keys(request).await?.into_inner();
        if let Some(found) = page.api_keys.into_iter().find(|listed| listed.id == key.id) {
            break found;
        }
        pagination.page_token = page.pagination.unwrap_or_default().next_page_token;
        ensure!(!pagination.page_token.is_empty(), "the key is not listed");
    };
    println!("listed as revoked at {}", revoked.revoked_at.context("revoked_at is absent")?);

    let refusal = client.create_api_key(CreateApiKeyRequest::default()).await.err().context("a key without a name")?;
    ensure!(refusal.code() == Code::InvalidArgument, "refused as {}", refusal.code());
    for violation in refusal.get_details_bad_request().context("no field is named")?.field_violations {
        println!("refused: {} {}", violation.field, violation.description);
    }
    Ok(())
}
