//! `ApiKeyService`: message in, use case, message out.

use apikey_application::{
    Authenticator, Caller, IssueApiKey, ListApiKeys, RevokeApiKey,
    ports::{Clock, Confirmations, Confirmed, Entropy, KeyStore, TokenAuthenticator},
};
use apikey_proto::pidgr::v1::{
    self as pb,
    api_key_service_server::{ApiKeyService, ApiKeyServiceServer},
};
use http::Extensions;
use tonic::{Request, Response, Status, codec::CompressionEncoding, metadata::AsciiMetadataValue};

use crate::{
    call::{MAX_MESSAGE_SIZE, request_id},
    convert,
    guard::Guarded,
    status::Failure,
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The header that says how it was made certain that a revoked key is dead everywhere.
const REVOCATION_CONFIRMED: &str = "apikeys-revocation-confirmed";

/// What the public listener needs: who calls, and the use cases.
pub struct Management<S, C, E, T, R> {
    /// Tells who calls.
    pub authenticator: Authenticator<S, C, T>,
    /// Issues keys.
    pub issue: IssueApiKey<S, C, E>,
    /// Lists keys.
    pub list: ListApiKeys<S>,
    /// Revokes keys.
    pub revoke: RevokeApiKey<S, C, R>,
}

pub(crate) struct UseCases<S, C, E, R> {
    issue: IssueApiKey<S, C, E>,
    list: ListApiKeys<S>,
    revoke: RevokeApiKey<S, C, R>,
}

pub(crate) type GuardedManagement<S, C, E, T, R> =
    Guarded<ApiKeyServiceServer<UseCases<S, C, E, R>>, Authenticator<S, C, T>>;

impl<S: KeyStore, C: Clock, E: Entropy, T: TokenAuthenticator, R: Confirmations> Management<S, C, E, T, R> {
    pub(crate) fn into_service(self) -> GuardedManagement<S, C, E, T, R> {
        let Self { authenticator, issue, list, revoke } = self;
        let server = ApiKeyServiceServer::new(UseCases { issue, list, revoke })
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        Guarded::new(server, authenticator)
    }
}

#[tonic::async_trait]
impl<S: KeyStore, C: Clock, E: Entropy, R: Confirmations> ApiKeyService for UseCases<S, C, E, R> {
    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Result<Response<pb::CreateApiKeyResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let idempotency_keys = metadata.get_all(IDEMPOTENCY_KEY).iter().map(|value| value.to_str().ok());
        let issued = async {
            let caller = caller(&extensions)?;
            let request = convert::issue_request(message, idempotency_keys);
            Ok(self.issue.issue(caller, request).await?)
        };
        answer(issued.await, |issued| convert::create_response(&issued))
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Result<Response<pb::ListApiKeysResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let listing = async { Ok(self.list.list(caller(&extensions)?, convert::list_request(message)).await?) };
        answer(listing.await, |listing| convert::list_response(&listing))
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Result<Response<pb::RevokeApiKeyResponse>, Status> {
        let (_, extensions, message) = request.into_parts();
        let revoked = async { Ok(self.revoke.revoke(caller(&extensions)?, convert::revoke_request(&message)).await?) };
        let revoked = revoked.await;
        let confirmed = revoked.as_ref().ok().copied();
        let mut answer = answer(revoked, |_| pb::RevokeApiKeyResponse {})?;
        if let Some(value) = confirmed.and_then(confirmed_header) {
            answer.metadata_mut().insert(REVOCATION_CONFIRMED, value);
        }
        Ok(answer)
    }
}

/// By how many replicas themselves, and for how many by the end of their leases.
fn confirmed_header(confirmed: Confirmed) -> Option<AsciiMetadataValue> {
    let Confirmed { acknowledged, waited_out } = confirmed;
    // Always ASCII.
    format!("acknowledged={acknowledged}, waited-out={waited_out}").parse().ok()
}

/// The caller that the guard admitted. That there is none is a defect, and no reason to go on.
fn caller(extensions: &Extensions) -> Result<&Caller, Failure> {
    extensions.get::<Caller>().ok_or_else(|| Failure::internal("a method ran without a caller"))
}

fn answer<T, M>(outcome: Result<T, Failure>, into_message: impl FnOnce(T) -> M) -> Result<Response<M>, Status> {
    match outcome {
        Ok(value) => Ok(Response::new(into_message(value))),
        Err(failure) => Err(failure.into_status(&request_id())),
    }
}
