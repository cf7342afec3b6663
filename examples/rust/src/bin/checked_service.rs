//! A service whose callers present API keys: each request is verified by `VerifyApiKey`.
//!
//! Reads `APIKEYS_VERIFY_ENDPOINT` (`http://host:port` of the verification listener) and `LISTEN` (`127.0.0.1:3000`). Try it:
//! `curl --header "x-api-key: $KEY" http://127.0.0.1:3000/campaigns`

#![expect(clippy::disallowed_methods, reason = "an example is configured by its environment")]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;

use anyhow::Result;
use apikey_proto::pidgr::v1::{
    Permission, RejectionReason, VerifyApiKeyRequest,
    api_key_verification_service_client::ApiKeyVerificationServiceClient, verify_api_key_response::Verdict,
};
use axum::{
    Router,
    extract::{Extension, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tonic::transport::Channel;

type Verifier = ApiKeyVerificationServiceClient<Channel>;

/// Who is calling; every handler can ask for it.
#[derive(Clone)]
struct Organization(String);

#[tokio::main]
async fn main() -> Result<()> {
    let channel = Channel::from_shared(env::var("APIKEYS_VERIFY_ENDPOINT")?)?.connect_lazy();
    let service = Router::new()
        .route("/campaigns", get(campaigns))
        .layer(middleware::from_fn_with_state(Verifier::new(channel), require_api_key));
    let listener = tokio::net::TcpListener::bind(env::var("LISTEN").unwrap_or("127.0.0.1:3000".to_owned())).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, service).await?;
    Ok(())
}

async fn campaigns(Extension(Organization(organization)): Extension<Organization>) -> String {
    format!("the campaigns of {organization}\n")
}

/// Lets a request pass if its key is valid and may read campaigns. A refusal and an outage are different answers.
async fn require_api_key(State(mut verifier): State<Verifier>, mut request: Request, next: Next) -> Response {
    let Some(raw_key) = request.headers().get("x-api-key").and_then(|value| value.to_str().ok()) else {
        return (StatusCode::UNAUTHORIZED, "x-api-key is missing\n").into_response();
    };
    let verification = VerifyApiKeyRequest {
        raw_key: raw_key.to_owned(),
        required_permissions: vec![Permission::CampaignsRead.into()],
        ..VerifyApiKeyRequest::default()
    };
    match verifier.verify_api_key(verification).await.map(|response| response.into_inner().verdict) {
        Ok(Some(Verdict::Valid(key))) => {
            request.extensions_mut().insert(Organization(key.organization_id));
            next.run(request).await
        }
        Ok(Some(Verdict::Rejected(rejection))) if rejection.reason() == RejectionReason::PermissionMissing => {
            (StatusCode::FORBIDDEN, "the key may not read campaigns\n").into_response()
        }
        Ok(Some(Verdict::Rejected(_))) => (StatusCode::UNAUTHORIZED, "the key is not valid\n").into_response(),
        Ok(None) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "try again\n").into_response(),
    }
}
