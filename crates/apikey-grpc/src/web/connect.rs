//! The bridge from Connect to the inner gRPC service: the only module that knows the Connect runtime.
//!
//! The runtime reads Connect's requests and writes its answers; each call goes on as gRPC within the process, so that whatever
//! surrounds a gRPC call surrounds this one. Decides nothing about a call.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use connectrpc::{
    CodecFormat, CompressionRegistry, ConnectError, ConnectRpcService, DeadlinePolicy, Dispatcher, EncodedResponse,
    EncodedStream, Limits, MethodDescriptor, MethodKind, Payload, RequestContext, Response as Answer,
    compression::{CompressionProvider, GzipProvider},
};
use futures_util::{Stream, StreamExt, future, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost_reflect::MessageDescriptor;
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};

use super::{
    json::{self, UnknownFields},
    served::{Method, Served},
};
use crate::{
    call::GRPC_TIMEOUT,
    frames,
    gzip::{self, InflateError},
    request_id::{RequestId, X_REQUEST_ID},
    status::Failure,
};
use answers::{Ending, application_headers, is_stream, many, one};
use errors::{connect_error, detailed, inner_status, is_error};

pub(super) use errors::refusal;

mod answers;
mod errors;

type BoxedFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, ConnectError>> + Send>>;

/// How long the caller waits, in milliseconds: 1 to 10 digits.
pub(super) const CONNECT_TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// The caller's own limit, where it can be read.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    headers.get(CONNECT_TIMEOUT)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

/// By how much the inner deadline comes before the runtime's, so that the inner one answers.
const DEADLINE_LEAD: Duration = Duration::from_millis(5);
/// The most that fits into eight digits, gRPC's limit.
const MAX_TIMEOUT_MILLIS: u128 = 99_999_999;

/// Connect in front of a gRPC service.
pub(super) struct Connect<S>(ConnectRpcService<Bridge<S>>);

impl<S> Clone for Connect<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Connect<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    /// Messages may have that size, in bytes, compressed or not; a request may take that long to arrive and be answered, unless
    /// its caller gives it less.
    pub(super) fn new(inner: S, served: Arc<Served>, max_message_size: usize, patience: Duration) -> Self {
        let limits = Limits::default()
            .with_max_message_size(max_message_size)
            .with_max_request_body_size(max_message_size + frames::HEADER);
        let service = ConnectRpcService::new(Bridge { inner, served })
            .with_limits(limits)
            .with_compression(CompressionRegistry::new().register(OneMember(GzipProvider::new())))
            .with_deadline_policy(DeadlinePolicy::new().with_max(patience).with_default_timeout(patience));
        Self(service)
    }

    /// Answers a request. The runtime's own refusals leave with the same details as everybody else's.
    pub(super) async fn answer(self, mut request: Request<Body>, request_id: &RequestId) -> Response<Body> {
        let ending = Ending::default();
        request.extensions_mut().insert(ending.clone());
        request.extensions_mut().insert(request_id.clone());
        let Ok(response) = self.0.oneshot(request).await;
        if is_stream(&response) {
            return response.map(|body| Body::new(body.map_frame(move |frame| ending.write(frame))));
        }
        let response = response.map(Body::new);
        let from_the_runtime = !response.headers().contains_key(X_REQUEST_ID);
        if from_the_runtime && is_error(&response) { detailed(response, request_id).await } else { response }
    }

    /// Answers a request whose path is unknown as the inner service does, without reading its body.
    pub(super) async fn answer_unknown(self, request: Request<Body>) -> Response<Body> {
        let (head, _) = request.into_parts();
        let inner = grpc_request(head.uri.path(), &head.headers, None, Body::empty());
        let Ok(response) = self.0.dispatcher().inner.clone().oneshot(inner).await;
        let status = Status::from_header_map(response.headers()).unwrap_or_else(|| Status::unimplemented(""));
        let mut error = connect_error(&status, application_headers(response.headers()));
        if status.code() == Code::Unimplemented {
            error = error.with_http_status(StatusCode::NOT_FOUND);
        }
        error.into_http_response(&head.headers).map(Body::new)
    }
}

/// gzip that has one member, and nothing behind it.
struct OneMember(GzipProvider);

impl CompressionProvider for OneMember {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn compress(&self, data: &[u8]) -> Result<Bytes, ConnectError> {
        self.0.compress(data)
    }

    fn decompressor<'a>(&self, data: &'a [u8]) -> Result<Box<dyn std::io::Read + 'a>, ConnectError> {
        self.0.decompressor(data)
    }

    /// The runtime calls this, and never [`decompressor`](Self::decompressor).
    fn decompress_with_limit(&self, data: &[u8], most: usize) -> Result<Bytes, ConnectError> {
        gzip::inflate(data, most).map(Bytes::from).map_err(|error| match error {
            InflateError::TooLarge(_) => ConnectError::resource_exhausted(error.to_string()),
            InflateError::Malformed(_) | InflateError::NotAlone => ConnectError::invalid_argument(error.to_string()),
        })
    }
}

/// The runtime's way to the inner service.
struct Bridge<S> {
    inner: S,
    served: Arc<Served>,
}

impl<S> Bridge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    /// Calls the inner service with these messages, each translated when it is wanted and not before: a request that is refused
    /// by its head is never read.
    fn call<M>(&self, path: &str, context: &RequestContext, messages: M, codec: Codec) -> S::Future
    where
        M: Stream<Item = Result<Bytes, ConnectError>> + Send + 'static,
    {
        let frames = messages.map(move |message| {
            let message = message.map_err(|error| inner_status(&error))?;
            match codec.decode(message) {
                Ok(message) => Ok(Frame::data(frames::frame(&message))),
                Err(json::JsonError::Field { field, description }) => {
                    Err(Failure::malformed_field(field, description).into_status(&codec.request_id))
                }
                Err(error) => Err(Failure::malformed_message(&error.to_string()).into_status(&codec.request_id)),
            }
        });
        // Only the caller's own limit goes on; the runtime's is for requests that do not arrive.
        let timeout = context.time_remaining().filter(|_| context.headers().contains_key(CONNECT_TIMEOUT));
        let mut request = grpc_request(path, context.headers(), timeout, Body::new(StreamBody::new(frames)));
        context.extensions().clone_into(request.extensions_mut());
        let mut inner = self.inner.clone();
        inner.call(request)
    }

    fn find(&self, path: &str) -> Result<&Method, ConnectError> {
        self.served.find(path).ok_or_else(|| ConnectError::unimplemented("there is no such method"))
    }
}

impl<S> Dispatcher for Bridge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    fn lookup(&self, path: &str) -> Option<MethodDescriptor> {
        let method = self.served.find(path)?;
        let kind = match (method.client_streaming, method.server_streaming) {
            (false, false) => MethodKind::Unary,
            (false, true) => MethodKind::ServerStreaming,
            (true, false) => MethodKind::ClientStreaming,
            (true, true) => MethodKind::BidiStreaming,
        };
        Some(MethodDescriptor::from_kind(kind).with_idempotent(method.without_side_effects))
    }

    fn call_unary(
        &self,
        path: &str,
        context: RequestContext,
        request: Payload,
        format: CodecFormat,
    ) -> BoxedFuture<Result<EncodedResponse, ConnectError>> {
        match request.encoded() {
            Ok(message) => self.call_for_one(path, &context, stream::iter([Ok(message)]), format),
            Err(error) => Box::pin(future::ready(Err(error))),
        }
    }

    fn call_server_streaming(
        &self,
        path: &str,
        context: RequestContext,
        request: Bytes,
        format: CodecFormat,
    ) -> BoxedFuture<Result<Answer<EncodedStream>, ConnectError>> {
        self.call_for_many(path, &context, stream::iter([Ok(request)]), format)
    }

    fn call_client_streaming(
        &self,
        path: &str,
        context: RequestContext,
        requests: Messages,
        format: CodecFormat,
    ) -> BoxedFuture<Result<EncodedResponse, ConnectError>> {
        self.call_for_one(path, &context, requests, format)
    }

    fn call_bidi_streaming(
        &self,
        path: &str,
        context: RequestContext,
        requests: Messages,
        format: CodecFormat,
    ) -> BoxedFuture<Result<Answer<EncodedStream>, ConnectError>> {
        self.call_for_many(path, &context, requests, format)
    }
}

impl<S> Bridge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    fn call_for_one<M>(
        &self,
        path: &str,
        context: &RequestContext,
        messages: M,
        format: CodecFormat,
    ) -> BoxedFuture<Result<EncodedResponse, ConnectError>>
    where
        M: Stream<Item = Result<Bytes, ConnectError>> + Send + 'static,
    {
        let method = match self.find(path) {
            Ok(method) => method,
            Err(error) => return Box::pin(future::ready(Err(error))),
        };
        let input = Codec::new(method, &method.input, format, context);
        let output = Codec::new(method, &method.output, format, context);
        let call = self.call(path, context, messages, input);
        Box::pin(async move {
            let Ok(response) = call.await;
            one(response, &output).await
        })
    }

    fn call_for_many<M>(
        &self,
        path: &str,
        context: &RequestContext,
        messages: M,
        format: CodecFormat,
    ) -> BoxedFuture<Result<Answer<EncodedStream>, ConnectError>>
    where
        M: Stream<Item = Result<Bytes, ConnectError>> + Send + 'static,
    {
        let method = match self.find(path) {
            Ok(method) => method,
            Err(error) => return Box::pin(future::ready(Err(error))),
        };
        let input = Codec::new(method, &method.input, format, context);
        let output = Codec::new(method, &method.output, format, context);
        let call = self.call(path, context, messages, input);
        let ending = context.extensions().get::<Ending>().cloned().unwrap_or_default();
        Box::pin(async move {
            let Ok(response) = call.await;
            many(response, output, ending)
        })
    }
}

/// How the messages of one type are written in a request or its answer.
struct Codec {
    descriptor: MessageDescriptor,
    unknown_fields: UnknownFields,
    format: CodecFormat,
    request_id: RequestId,
}

impl Codec {
    fn new(method: &Method, descriptor: &MessageDescriptor, format: CodecFormat, context: &RequestContext) -> Self {
        let request_id = context.extensions().get::<RequestId>().cloned().unwrap_or_else(RequestId::missing);
        Self { descriptor: descriptor.clone(), unknown_fields: method.unknown_fields, format, request_id }
    }

    fn decode(&self, message: Bytes) -> Result<Bytes, json::JsonError> {
        if self.format == CodecFormat::Json {
            json::to_proto(&self.descriptor, &message, self.unknown_fields)
        } else {
            Ok(message)
        }
    }

    fn encode(&self, message: Bytes) -> Result<Bytes, ConnectError> {
        if self.format == CodecFormat::Json {
            json::from_proto(&self.descriptor, message).map_err(|error| {
                connect_error(&Failure::internal(error).into_status(&self.request_id), HeaderMap::new())
            })
        } else {
            Ok(message)
        }
    }
}

/// A request to the inner service.
fn grpc_request(path: &str, headers: &HeaderMap, timeout: Option<Duration>, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = HttpMethod::POST;
    *request.version_mut() = Version::HTTP_2;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    // The path was a URI's path before.
    *request.uri_mut() = path.parse().unwrap_or_default();
    let forwarded = headers.iter().filter(|(name, _)| !is_of_the_protocol(name));
    request.headers_mut().extend(forwarded.map(|(name, value)| (name.clone(), value.clone())));
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(timeout) = timeout {
        let millis = timeout.saturating_sub(DEADLINE_LEAD).as_millis().min(MAX_TIMEOUT_MILLIS);
        if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
            request.headers_mut().insert(GRPC_TIMEOUT, value);
        }
    }
    request
}

/// Headers of Connect, gRPC or the connection, which mean nothing to the inner call.
fn is_of_the_protocol(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("connect-")
        || name.starts_with("grpc-")
        || matches!(
            name,
            "accept"
                | "accept-encoding"
                | "connection"
                | "content-encoding"
                | "content-length"
                | "content-type"
                | "host"
                | "keep-alive"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        )
}
