//! Four ways in through one port: gRPC, gRPC-Web, Connect by JSON and Connect by protobuf, for browsers too.
//!
//! Stands in front of the inner gRPC service and turns each request into one of its calls. Here is only what concerns HTTP: which
//! protocol it is, where it comes from (CORS), what may stand in a URL, and how many bytes are taken. It must never know who calls
//! or what for: authentication, limits, deadlines, metrics and the table of errors stand around the inner service and see every
//! protocol as gRPC.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apikey_application::FieldViolation;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body as HttpBody;
use http_body_util::Full;
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, Service, ServiceExt};

use connect::{CONNECT_TIMEOUT, Connect};

use served::Served;
use single::Single;

pub use cors::{AllowedOrigin, AllowedOrigins, OriginError};

use crate::{
    call::refuse_in_http,
    credential,
    drain::Drained,
    frames,
    listener::PeerAddress,
    places::{self, Incomplete, Seat},
    request_id::{RequestId, RequestIds, X_REQUEST_ID},
    status::Failure,
    unread::Unread,
};

mod connect;
mod cors;

#[cfg(test)]
mod fuzz;
mod json;
mod served;
mod single;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connect's own parameters, in a GET.
const GET_PARAMETERS: [&str; 5] = ["base64", "compression", "connect", "encoding", "message"];
/// The most digits in a Connect time limit, from its specification.
const MAX_TIMEOUT_DIGITS: usize = 10;
/// What may be posted.
const ACCEPTED: &str = "application/json, application/proto, application/connect+json, application/connect+proto, \
                        application/grpc, application/grpc-web, application/grpc-web-text";

/// What the protocols in front of a service need to know of it.
#[derive(Clone, Copy, Debug)]
pub struct WebOptions<'a> {
    /// The descriptor sets of its services, with everything that they import.
    pub descriptor_sets: &'a [&'a [u8]],
    /// The full names of its services.
    pub services: &'a [&'a str],
    /// The full name of the one that only callers with a credential reach; empty if there is none.
    pub guarded: &'static str,
    /// The largest message, in bytes, before and after decompression.
    pub max_message_size: usize,
    /// How long a request may take until it has arrived and been answered. It has to be longer than the service's own limits, so
    /// that it counts only for what arrives too slowly.
    pub patience: Duration,
}

/// A gRPC service behind all protocols.
#[expect(clippy::struct_field_names, reason = "gRPC-Web is that protocol's name")]
pub struct Web<S> {
    grpc: Single<S>,
    grpc_web: GrpcWebService<Single<S>>,
    connect: Connect<S>,
    origins: Arc<AllowedOrigins>,
    shared: Arc<Shared>,
}

struct Shared {
    request_ids: RequestIds,
    served: Arc<Served>,
    /// By Connect, whose runtime would read a message before it is known whether there is anybody who may send it.
    incomplete: Incomplete,
    unread: Unread,
    guarded: &'static str,
    max_message_size: usize,
    patience: Duration,
}

impl<S: Clone> Clone for Web<S> {
    fn clone(&self) -> Self {
        Self {
            grpc: self.grpc.clone(),
            grpc_web: self.grpc_web.clone(),
            connect: self.connect.clone(),
            origins: Arc::clone(&self.origins),
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Which way a request came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Grpc,
    GrpcWeb,
    Connect,
    /// None that we speak.
    Unknown,
}

impl Protocol {
    /// By the content type, without its parameters.
    fn of(content_type: &str, method: &Method) -> Self {
        match content_type {
            "application/grpc" | "application/grpc+proto" => Self::Grpc,
            "application/grpc-web"
            | "application/grpc-web+proto"
            | "application/grpc-web-text"
            | "application/grpc-web-text+proto" => Self::GrpcWeb,
            "application/json" | "application/proto" | "application/connect+json" | "application/connect+proto" => {
                Self::Connect
            }
            "" if method == Method::GET => Self::Connect,
            _ => Self::Unknown,
        }
    }
}

/// The content type in lower case and without parameters; empty where there is none.
fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl<S> Web<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    /// The protocols in front of that gRPC service, for the pages of no other origin.
    ///
    /// # Errors
    /// Where the descriptor sets cannot be read: a defect of the build.
    pub fn new(
        grpc: S,
        request_ids: RequestIds,
        options: WebOptions<'_>,
    ) -> Result<Self, prost_reflect::DescriptorError> {
        let WebOptions { descriptor_sets, services, guarded, max_message_size, patience } = options;
        let served = Arc::new(Served::new(descriptor_sets, services)?);
        let connect = Connect::new(grpc.clone(), Arc::clone(&served), max_message_size, patience);
        let grpc = Single::new(grpc, Arc::clone(&served));
        let grpc_web = GrpcWebLayer::new().layer(grpc.clone());
        let shared = Shared {
            request_ids,
            served,
            incomplete: Incomplete::default(),
            unread: Unread::default(),
            guarded,
            max_message_size,
            patience,
        };
        Ok(Self { grpc, grpc_web, connect, origins: Arc::default(), shared: Arc::new(shared) })
    }

    /// The same for the pages of those origins.
    #[must_use]
    pub fn for_origins(self, origins: AllowedOrigins) -> Self {
        Self { origins: Arc::new(origins), ..self }
    }

    async fn answer(self, mut request: Request<Body>) -> Response<Body> {
        let request_id = self.shared.request_ids.identify(request.headers());
        let mut response = if let Some(answer) = self.origins.preflight(&request) {
            answer
        } else {
            // The inner service takes it over, and so names the same id in its log.
            request.headers_mut().insert(X_REQUEST_ID, request_id.header());
            let annotation = self.origins.annotation(request.headers());
            let connection = request.extensions().get::<PeerAddress>().map(|peer| peer.0);
            let method = self.shared.served.find(request.uri().path());
            let streams = method.is_some_and(|method| method.client_streaming || method.server_streaming);
            let (unread, seat) = (self.shared.unread.clone(), Seat::default());
            request.extensions_mut().insert(seat.clone());
            let mut response = self.pass_on(request, &request_id).await;
            if !streams {
                response = unread.keep(connection, seat, response).await;
            }
            annotation.add_to(response.headers_mut());
            response
        };
        response.headers_mut().entry(X_REQUEST_ID).or_insert_with(|| request_id.header());
        response
    }

    async fn pass_on(self, mut request: Request<Body>, request_id: &RequestId) -> Response<Body> {
        let content_type = content_type(request.headers());
        let protocol = Protocol::of(&content_type, request.method());
        // What reads it next knows neither capitals nor parameters.
        if !content_type.is_empty()
            && protocol != Protocol::Unknown
            && let Ok(plain) = HeaderValue::try_from(content_type)
        {
            request.headers_mut().insert(header::CONTENT_TYPE, plain);
        }
        if let Err(failure) = check_url(request.uri(), request.method()) {
            return refuse(failure, protocol, request.headers(), request_id);
        }
        let method = self.shared.served.find(request.uri().path());
        match protocol {
            Protocol::Grpc => self.grpc.oneshot(request).await.unwrap_or_else(|never| match never {}),
            Protocol::GrpcWeb => self.grpc_web.oneshot(request).await.unwrap_or_else(|never| match never {}),
            Protocol::Connect | Protocol::Unknown => {
                let Some(method) = method else { return self.connect.answer_unknown(request).await };
                let by_get = method.without_side_effects && request.method() == Method::GET;
                if request.method() != Method::POST && !by_get {
                    let allowed = if method.without_side_effects { "GET, POST" } else { "POST" };
                    return refuse_in_http(StatusCode::METHOD_NOT_ALLOWED, header::ALLOW, allowed);
                }
                if protocol == Protocol::Unknown {
                    let accepted = HeaderName::from_static("accept-post");
                    return refuse_in_http(StatusCode::UNSUPPORTED_MEDIA_TYPE, accepted, ACCEPTED);
                }
                if let Err(failure) = check_timeout(request.headers()) {
                    return refuse(failure, protocol, request.headers(), request_id);
                }
                let stream = method.client_streaming;
                let request = if stream { Ok(request) } else { self.shared.read(request).await };
                match request {
                    Ok(request) => self.connect.answer(request, request_id).await,
                    Err((failure, headers)) => refuse(failure, protocol, &headers, request_id),
                }
            }
        }
    }
}

impl Shared {
    /// Reads a request's message, within bounds of size, time and number; not even begins where there is no credential.
    async fn read(&self, request: Request<Body>) -> Result<Request<Body>, (Failure, HeaderMap)> {
        let (head, body) = request.into_parts();
        let service = head.uri.path().strip_prefix('/').and_then(|path| path.strip_prefix(self.guarded));
        if !self.guarded.is_empty() && service.is_some() && credential::find(&head.headers).is_err() {
            drop(body);
            return Ok(Request::from_parts(head, Body::empty()));
        }
        // One byte more shows that it is too large.
        let most = self.max_message_size + frames::HEADER;
        let limit = connect::timeout(&head.headers).map_or(self.patience, |limit| limit.min(self.patience));
        let reading = self.incomplete.read(body, |received| received.len() > most);
        match tokio::time::timeout(limit, reading).await {
            Ok(Ok(message)) => Ok(Request::from_parts(head, Body::new(Full::new(message)))),
            Ok(Err(places::Unread::MadeRoom)) => Err((Failure::overloaded(), head.headers)),
            Ok(Err(places::Unread::Failed(error))) => {
                Err((Failure::malformed_message(&error.to_string()), head.headers))
            }
            Err(_) => Err((Failure::deadline_exceeded(), head.headers)),
        }
    }
}

/// URLs end up in logs and histories, so nothing stands there but a message of Connect's that may be seen, and no credential ever.
fn check_url(uri: &Uri, method: &Method) -> Result<(), Failure> {
    let Some(query) = uri.query().filter(|query| !query.is_empty()) else { return Ok(()) };
    let known = |parameter: &str| GET_PARAMETERS.contains(&parameter.split('=').next().unwrap_or_default());
    if method == Method::GET && query.split('&').all(known) {
        return Ok(());
    }
    let description = "must be empty; a credential is sent in a header and never in a URL";
    Err(Failure::invalid_fields(vec![FieldViolation::new("query", description)]))
}

/// A time limit that cannot be read is refused as gRPC's is, and not taken for none.
fn check_timeout(headers: &HeaderMap) -> Result<(), Failure> {
    let mut values = headers.get_all(CONNECT_TIMEOUT).iter();
    let Some(value) = values.next() else { return Ok(()) };
    let digits = value.as_bytes();
    let legal = (1..=MAX_TIMEOUT_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if legal && values.next().is_none() {
        return Ok(());
    }
    Err(Failure::invalid_fields(vec![FieldViolation::new(
        CONNECT_TIMEOUT.as_str(),
        "must be sent once: 1 to 10 digits",
    )]))
}

/// A refusal in the protocol that the request came by.
fn refuse(failure: Failure, protocol: Protocol, headers: &HeaderMap, request_id: &RequestId) -> Response<Body> {
    let status = failure.into_status(request_id);
    match protocol {
        Protocol::Connect | Protocol::Unknown => connect::refusal(&status, headers),
        Protocol::Grpc => status.into_http(),
        Protocol::GrpcWeb => {
            let mut response = status.into_http();
            if let Some(content_type) = headers.get(header::CONTENT_TYPE) {
                response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
            }
            response
        }
    }
}

impl<S, B> Service<Request<B>> for Web<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(|body| Body::new(Drained::new(Body::new(body))));
        let answer = self.clone().answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}
