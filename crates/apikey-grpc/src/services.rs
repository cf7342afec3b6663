//! What each listener serves: its service, health and reflection, with everything that surrounds a call.

use std::{convert::Infallible, sync::Arc, time::Duration};

use apikey_application::{
    VerifyApiKey,
    ports::{Clock, Confirmations, Entropy, KeyStore, TokenAuthenticator},
};
use apikey_proto::{
    FILE_DESCRIPTOR_SET,
    pidgr::v1::{api_key_service_server, api_key_verification_service_server},
};
use bytes::Bytes;
use futures_util::future;
use http::{Request, Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::Full;
use hyper::service::Service as HyperService;
use tokio::sync::watch;
use tonic::{body::Body, service::Routes};
use tonic_health::{ServingStatus, pb as health, server::HealthReporter};
use tonic_reflection::pb as reflection;
use tower::Service;

use crate::{
    AccessToken, CallLimits, Management, RequestIds,
    call::{Answer, Calls, Handler, MAX_MESSAGE_SIZE},
    guard::Whole,
    http1,
    listener::{self, PeerAddress},
    methods::Methods,
    places::Entrance,
    verification::Verification,
    web::{AllowedOrigins, Web, WebOptions},
};

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
/// The same under its first name, by which Postman before 11 and older tools ask for it.
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";
/// The descriptor sets of every service that a listener may serve.
const DESCRIPTOR_SETS: [&[u8]; 4] = [
    FILE_DESCRIPTOR_SET,
    health::FILE_DESCRIPTOR_SET,
    reflection::v1::FILE_DESCRIPTOR_SET,
    reflection::v1alpha::FILE_DESCRIPTOR_SET,
];
const REVOKE: &str = "pidgr.v1.ApiKeyService/RevokeApiKey";

/// A descriptor set that this crate holds cannot be read: a defect of the build.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDescriptors {
    /// It is not a descriptor set.
    #[error("a descriptor set cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    /// It does not describe what JSON needs to know.
    #[error("a descriptor set cannot be used for JSON")]
    Json(#[from] prost_reflect::DescriptorError),
    /// Reflection does not accept it.
    #[error("a descriptor set cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What health checks are told about a listener; at first, that it does not serve.
#[derive(Clone, Debug)]
pub struct Serving {
    reporter: HealthReporter,
    service: &'static str,
    stopping: watch::Sender<bool>,
}

impl Serving {
    /// Says whether the listener serves: its service by name, and the whole by the empty name. Where it did and does no more, whoever
    /// watches is told so, and the streams end.
    pub async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(self.service, status).await;
        self.reporter.set_service_status("", status).await;
        self.stopping.send_replace(!serving);
    }
}

/// How much longer than its call a request by Connect may take: the time in which its message has to arrive.
const ARRIVAL: Duration = Duration::from_secs(5);

/// What the public listener serves: `ApiKeyService`, health and reflection, by gRPC, gRPC-Web and Connect.
#[derive(Clone)]
pub struct PublicService(Web<Calls<Routes>>);

impl PublicService {
    /// The service, and the switch of its health.
    ///
    /// # Errors
    /// [`InvalidDescriptors`]: a defect of the build.
    pub async fn new<S: KeyStore, C: Clock, E: Entropy, T: TokenAuthenticator, R: Confirmations>(
        management: Management<S, C, E, T, R>,
        request_ids: RequestIds,
        limits: CallLimits,
    ) -> Result<(Self, Serving), InvalidDescriptors> {
        let management = management.into_service();
        let service = api_key_service_server::SERVICE_NAME;
        let wrap = |routes: Routes| routes.add_service(management).prepare();
        let (calls, serving) = surround(wrap, service, request_ids.clone(), limits).await?;
        let options = WebOptions {
            descriptor_sets: &DESCRIPTOR_SETS,
            services: &[service, HEALTH, REFLECTION, REFLECTION_ALPHA],
            guarded: service,
            max_message_size: MAX_MESSAGE_SIZE,
            patience: limits.deadline.max(limits.revoke_deadline).saturating_add(ARRIVAL),
        };
        Ok((Self(Web::new(calls, request_ids, options)?), serving))
    }

    /// The same service for the pages of those origins too; without this, for none.
    #[must_use]
    pub fn for_origins(self, origins: AllowedOrigins) -> Self {
        Self(self.0.for_origins(origins))
    }

    /// The same service for the connection of that peer, whose address the audit trail tells; without this it tells none.
    #[must_use]
    pub fn for_peer<B>(
        &self,
        peer: PeerAddress,
    ) -> impl HyperService<Request<B>, Response = Response<Body>, Error = Infallible, Future = Answer> + Clone + Send + use<B>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        ForPeer { web: self.0.clone(), peer }
    }
}

/// What the verification listener serves: `ApiKeyVerificationService`, health and reflection.
pub struct VerificationService<S, C> {
    calls: Calls<Direct<S, C>>,
    only_local_names: bool,
}

impl<S, C> Clone for VerificationService<S, C> {
    fn clone(&self) -> Self {
        Self { calls: self.calls.clone(), only_local_names: self.only_local_names }
    }
}

impl<S: KeyStore, C: Clock> VerificationService<S, C> {
    /// The service, and the switch of its health. Where there is a token, calls of `ApiKeyVerificationService` have to present
    /// it as `authorization: Bearer …`.
    ///
    /// # Errors
    /// [`InvalidDescriptors`]: a defect of the build.
    pub async fn new(
        verify: Arc<VerifyApiKey<S, C>>,
        token: Option<AccessToken>,
        request_ids: RequestIds,
        limits: CallLimits,
    ) -> Result<(Self, Serving), InvalidDescriptors> {
        let verification = Verification::new(verify, token);
        let wrap = |routes: Routes| Direct { verification, routes: routes.prepare() };
        let name = api_key_verification_service_server::SERVICE_NAME;
        let (calls, serving) = surround(wrap, name, request_ids, limits).await?;
        Ok((Self { calls, only_local_names: false }, serving))
    }

    /// The same service for a listener on loopback in clear text: HTTP/1.1 is answered only under names that pass [`listener::is_local`].
    #[must_use]
    pub fn only_by_local_names(self) -> Self {
        Self { only_local_names: true, ..self }
    }
}

/// The one service that is called very often, and the routes to the others. Its calls go to it at once: routes put each request and
/// answer into boxes more than once.
struct Direct<S, C> {
    verification: Verification<S, C>,
    routes: Routes,
}

impl<S: KeyStore, C: Clock, B> Handler<B> for Direct<S, C>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn handle(&self, request: Request<B>, entrance: Entrance) -> Answer {
        if Verification::<S, C>::serves(request.uri().path()) {
            return self.verification.handle(request, entrance);
        }
        self.routes.handle(request, entrance)
    }
}

/// Health, reflection and what `wrap` adds to their routes, with everything that surrounds a call.
async fn surround<S>(
    wrap: impl FnOnce(Routes) -> S,
    service: &'static str,
    request_ids: RequestIds,
    limits: CallLimits,
) -> Result<(Calls<S>, Serving), InvalidDescriptors> {
    let CallLimits { deadline, revoke_deadline, concurrent_calls, reflection } = limits;
    let limit = |method: &str| -> Duration { if method == REVOKE { revoke_deadline } else { deadline } };
    let methods = Methods::new(&DESCRIPTOR_SETS, &[service, HEALTH, REFLECTION, REFLECTION_ALPHA], REVOKE, limit)?;

    let (reporter, health_server) = tonic_health::server::health_reporter();
    let (stopping, stops) = watch::channel(false);
    let serving = Serving { reporter, service, stopping };
    serving.set(false).await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(health::FILE_DESCRIPTOR_SET)
            // What the details of errors hold, so that tools show them in words.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(service)
            .with_service_name(HEALTH)
            .with_service_name(REFLECTION)
            .with_service_name(REFLECTION_ALPHA)
    };
    let mut routes = Routes::default().add_service(Whole(health_server.max_decoding_message_size(MAX_MESSAGE_SIZE)));
    if reflection {
        routes = routes
            .add_service(described().build_v1()?.max_decoding_message_size(MAX_MESSAGE_SIZE))
            .add_service(described().build_v1alpha()?.max_decoding_message_size(MAX_MESSAGE_SIZE));
    }
    let routes = routes.prepare();
    Ok((Calls::new(wrap(routes), request_ids, methods, concurrent_calls, stops), serving))
}

/// Any gRPC services behind everything that surrounds a call of the product's own.
///
/// # Errors
/// [`InvalidDescriptors`] where the sets cannot be read.
#[cfg(feature = "conformance")]
pub fn surrounded<S>(
    routes: S,
    descriptor_sets: &[&[u8]],
    services: &[&str],
    request_ids: RequestIds,
    limits: CallLimits,
) -> Result<
    impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
    InvalidDescriptors,
>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let methods = Methods::new(descriptor_sets, services, REVOKE, |_| limits.deadline)?;
    let (_, never) = watch::channel(false);
    Ok(Calls::new(routes, request_ids, methods, limits.concurrent_calls, never))
}

impl<S: KeyStore, C: Clock, B> HyperService<Request<B>> for VerificationService<S, C>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<B>) -> Answer {
        if self.only_local_names && !listener::is_local(&request) {
            let mut response = Response::new(Body::new(Full::from(listener::MISDIRECTED)));
            *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
            return Box::pin(future::ready(Ok(response)));
        }
        http1::announced(request.version(), self.calls.call(request))
    }
}

/// The public service for one peer.
#[derive(Clone)]
struct ForPeer {
    web: Web<Calls<Routes>>,
    peer: PeerAddress,
}

impl<B> HyperService<Request<B>> for ForPeer
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<B>) -> Answer {
        request.extensions_mut().insert(self.peer);
        http1::announced(request.version(), self.web.clone().call(request))
    }
}
