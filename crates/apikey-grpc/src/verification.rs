//! `ApiKeyVerificationService`: message in, verdict out. An outage is an error and never a verdict.

use std::sync::Arc;

use apikey_application::{
    VerifyApiKey,
    ports::{Clock, KeyStore},
};
use apikey_proto::pidgr::v1::{
    self as pb,
    api_key_verification_service_server::{ApiKeyVerificationService, ApiKeyVerificationServiceServer, SERVICE_NAME},
};
use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;
use http_body_util::Full;
use tonic::{Request, Status, body::Body, codec::CompressionEncoding};
use tower::Service as _;

use crate::{
    AccessToken,
    call::{Answer, MAX_MESSAGE_SIZE, request_id},
    convert,
    guard::forget_credentials,
    gzip,
    places::Entrance,
    status::Failure,
    unary,
};

const VERIFY: &str = "/pidgr.v1.ApiKeyVerificationService/VerifyApiKey";

/// The service, behind its token. Plain calls are answered at once, everything else is tonic's.
pub(crate) struct Verification<S, C> {
    verifier: Arc<Verifier<S, C>>,
    server: ApiKeyVerificationServiceServer<Verifier<S, C>>,
    token: Option<AccessToken>,
}

impl<S: KeyStore, C: Clock> Verification<S, C> {
    pub(crate) fn new(verify: Arc<VerifyApiKey<S, C>>, token: Option<AccessToken>) -> Self {
        let verifier = Arc::new(Verifier(verify));
        let server = ApiKeyVerificationServiceServer::from_arc(Arc::clone(&verifier))
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        Self { verifier, server, token }
    }

    /// Whether a path is this service's: each that begins with its name.
    pub(crate) fn serves(path: &str) -> bool {
        let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME));
        method.is_some_and(|method| method.starts_with('/'))
    }

    /// Answers a call of one of its methods.
    pub(crate) fn handle<B>(&self, mut request: http::Request<B>, entrance: Entrance) -> Answer
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(token) = &self.token
            && let Err(failure) = token.admit(request.headers())
        {
            return Box::pin(async move { Ok(failure.into_status(&request_id()).into_http()) });
        }
        if request.uri().path() == VERIFY && unary::is_plain(&request) {
            let (verifier, body) = (Arc::clone(&self.verifier), request.into_body());
            return Box::pin(async move { Ok(verifier.answer(body, entrance).await) });
        }
        forget_credentials(request.headers_mut());
        let mut server = self.server.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let message = entrance.read(body).await;
            let entered = message.and_then(|message| {
                let place = entrance.enter(None).map_err(refused)?;
                Ok((gzip::message(&head.headers, message, MAX_MESSAGE_SIZE)?, place))
            });
            match entered {
                Ok((message, _place)) => {
                    server.call(http::Request::from_parts(head, Body::new(Full::new(message)))).await
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

fn refused(failure: Failure) -> Status {
    failure.into_status(&request_id())
}

pub(crate) struct Verifier<S, C>(Arc<VerifyApiKey<S, C>>);

impl<S: KeyStore, C: Clock> Verifier<S, C> {
    async fn answer<B>(&self, body: B, entrance: Entrance) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let verified = async {
            let message = unary::decode(entrance.read(body).await?, MAX_MESSAGE_SIZE)?;
            let _place = entrance.enter(None).map_err(refused)?;
            self.verify(message).await
        };
        verified.await.map_or_else(Status::into_http, |response| unary::answer(&response))
    }

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
        request: Request<pb::VerifyApiKeyRequest>,
    ) -> Result<tonic::Response<pb::VerifyApiKeyResponse>, Status> {
        self.verify(request.into_inner()).await.map(tonic::Response::new)
    }
}
