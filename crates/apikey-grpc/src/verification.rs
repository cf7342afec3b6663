//! `ApiKeyVerificationService`: message in, verdict out. An outage is an error and never a verdict.

use std::sync::Arc;

use apikey_application::{
    VerifyApiKey,
    ports::{Clock, KeyStore},
};
use apikey_proto::pidgr::v1::{
    self as pb,
    api_key_verification_service_server::{ApiKeyVerificationService, ApiKeyVerificationServiceServer},
};
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use crate::{
    AccessToken,
    call::{MAX_MESSAGE_SIZE, request_id},
    convert,
    guard::{Guarded, TokenGuard},
    status::Failure,
};

pub(crate) struct Verifier<S, C>(Arc<VerifyApiKey<S, C>>);

pub(crate) type GuardedVerification<S, C> = Guarded<ApiKeyVerificationServiceServer<Verifier<S, C>>, TokenGuard>;

pub(crate) fn service<S: KeyStore, C: Clock>(
    verify: Arc<VerifyApiKey<S, C>>,
    token: Option<AccessToken>,
) -> GuardedVerification<S, C> {
    let server = ApiKeyVerificationServiceServer::new(Verifier(verify))
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Guarded::new(server, TokenGuard(token))
}

#[tonic::async_trait]
impl<S: KeyStore, C: Clock> ApiKeyVerificationService for Verifier<S, C> {
    async fn verify_api_key(
        &self,
        request: Request<pb::VerifyApiKeyRequest>,
    ) -> Result<Response<pb::VerifyApiKeyResponse>, Status> {
        let message = request.into_inner();
        let verified = async {
            let mut request = convert::verify_request(message).map_err(Failure::invalid_fields)?;
            Ok::<_, Failure>(self.0.verify(request.take()).await?)
        };
        match verified.await {
            Ok(verification) => Ok(Response::new(convert::verify_response(&verification))),
            Err(failure) => Err(failure.into_status(&request_id())),
        }
    }
}
