//! `ApiKeyVerificationService`: message in, verdict out. An outage is an error and never a verdict.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use apikey_application::{
    VerifyApiKey,
    ports::{Clock, KeyStore},
};
use apikey_proto::pidgr::v1::{
    self as pb,
    api_key_verification_service_server::{ApiKeyVerificationService, ApiKeyVerificationServiceServer},
};
use bytes::Bytes;
use http_body::Body as HttpBody;
use tonic::{Status, body::Body, codec::CompressionEncoding, server::NamedService};
use tower::Service;

use crate::{
    AccessToken,
    call::{MAX_MESSAGE_SIZE, request_id},
    convert,
    guard::{Answer, Guarded, TokenGuard},
    status::Failure,
    unary,
};

const VERIFY: &str = "/pidgr.v1.ApiKeyVerificationService/VerifyApiKey";

pub(crate) type GuardedVerification<S, C> = Guarded<Verification<S, C>, TokenGuard>;

pub(crate) fn service<S: KeyStore, C: Clock>(
    verify: Arc<VerifyApiKey<S, C>>,
    token: Option<AccessToken>,
) -> GuardedVerification<S, C> {
    let verifier = Arc::new(Verifier(verify));
    let server = ApiKeyVerificationServiceServer::from_arc(Arc::clone(&verifier))
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Guarded::new(Verification { verifier, server }, TokenGuard(token))
}

/// The service. Plain calls are answered at once, everything else is tonic's.
pub(crate) struct Verification<S, C> {
    verifier: Arc<Verifier<S, C>>,
    server: ApiKeyVerificationServiceServer<Verifier<S, C>>,
}

impl<S, C> Clone for Verification<S, C> {
    fn clone(&self) -> Self {
        Self { verifier: Arc::clone(&self.verifier), server: self.server.clone() }
    }
}

impl<S, C> NamedService for Verification<S, C> {
    const NAME: &'static str = <ApiKeyVerificationServiceServer<Verifier<S, C>> as NamedService>::NAME;
}

impl<S: KeyStore, C: Clock, B> Service<http::Request<B>> for Verification<S, C>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answer {
        if request.uri().path() != VERIFY || !unary::is_plain(&request) {
            return self.server.call(request.map(Body::new));
        }
        let (verifier, body) = (Arc::clone(&self.verifier), request.into_body());
        Box::pin(async move {
            let verified = async { verifier.verify(unary::read(body, MAX_MESSAGE_SIZE).await?).await };
            Ok(match verified.await {
                Ok(response) => unary::answer(&response),
                Err(status) => status.into_http(),
            })
        })
    }
}

pub(crate) struct Verifier<S, C>(Arc<VerifyApiKey<S, C>>);

impl<S: KeyStore, C: Clock> Verifier<S, C> {
    async fn verify(&self, message: pb::VerifyApiKeyRequest) -> Result<pb::VerifyApiKeyResponse, Status> {
        let verified = async {
            let mut request = convert::verify_request(message).map_err(Failure::invalid_fields)?;
            Ok::<_, Failure>(self.0.verify(request.take()).await?)
        };
        match verified.await {
            Ok(verification) => Ok(convert::verify_response(&verification)),
            Err(failure) => Err(failure.into_status(&request_id())),
        }
    }
}

#[tonic::async_trait]
impl<S: KeyStore, C: Clock> ApiKeyVerificationService for Verifier<S, C> {
    async fn verify_api_key(
        &self,
        request: tonic::Request<pb::VerifyApiKeyRequest>,
    ) -> Result<tonic::Response<pb::VerifyApiKeyResponse>, Status> {
        self.verify(request.into_inner()).await.map(tonic::Response::new)
    }
}
