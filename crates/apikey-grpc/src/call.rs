//! What surrounds every call, whatever it is: request id, span, metrics, admission, deadline, and a net under panics.
//!
//! Stands on the inner routes, so that each protocol in front of them is treated alike. Knows no method's meaning.

use std::{
    any::Any,
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::{Code, body::Body};
use tower::Service;

use crate::{
    methods::{Method, Methods, Place},
    request_id::{RequestId, RequestIds, X_REQUEST_ID},
    status::{Failure, code_name, complete},
};

mod deadline;
mod span;

pub use span::call_span;
pub(crate) use span::request_id;
use span::{Call, within};

/// The largest message that is read, in bytes. The largest legal request is far below: a name of 800 bytes and the catalogue.
pub(crate) const MAX_MESSAGE_SIZE: usize = 64 * 1024;

/// How much a listener takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// How long a call may take until the head of its answer; a caller's shorter deadline is honoured.
    pub deadline: Duration,
    /// The same for `RevokeApiKey`, which may have to wait until every replica has confirmed.
    pub revoke_deadline: Duration,
    /// How many calls are carried out at once; what is above is refused at once. Health checks do not count.
    pub concurrent_calls: usize,
}

impl Default for CallLimits {
    /// 5 s; 10 s to revoke; 1024 calls.
    fn default() -> Self {
        Self { deadline: Duration::from_secs(5), revoke_deadline: Duration::from_secs(10), concurrent_calls: 1024 }
    }
}

/// Carries out calls, whatever they are.
pub(crate) trait Handler<B>: Send + Sync + 'static {
    /// Begins with the request at once: what waits for the answer, and is moved and stored for that, does not hold it.
    fn handle(&self, request: Request<B>) -> impl Future<Output = Response<Body>> + Send + 'static;
}

impl<S, B> Handler<B> for S
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    fn handle(&self, request: Request<B>) -> impl Future<Output = Response<Body>> + Send + 'static {
        // tonic's services are always ready: they keep nobody waiting before they take a request.
        let answer = self.clone().call(request);
        async move { answer.await.unwrap_or_else(|never| match never {}) }
    }
}

/// A handler with everything that surrounds a call.
pub(crate) struct Calls<H>(Arc<Shared<H>>);

struct Shared<H> {
    handler: H,
    request_ids: RequestIds,
    methods: Methods,
    admission: Admission,
}

impl<H> Calls<H> {
    pub(crate) fn new(handler: H, request_ids: RequestIds, methods: Methods, concurrent_calls: usize) -> Self {
        let admission = Admission { most: concurrent_calls, at_work: AtomicUsize::new(0) };
        Self(Arc::new(Shared { handler, request_ids, methods, admission }))
    }

    /// Carries out one call.
    pub(crate) fn call<B>(&self, request: Request<B>) -> Answer
    where
        H: Handler<B>,
        B: 'static,
    {
        let shared = Arc::clone(&self.0);
        let request_id = shared.request_ids.identify(request.headers());
        let method = shared.methods.place(request.uri().path());
        let begun = shared.deadline_of(&request, method).and_then(|deadline| {
            match catch_unwind(AssertUnwindSafe(|| self.0.handler.handle(request))) {
                Ok(answer) => Ok(Begun { answer, deadline }),
                Err(panic) => Err(Refused::Failed(panicked(panic))),
            }
        });
        Box::pin(async move {
            let method = shared.methods.at(method);
            let call = Call { request_id: request_id.clone(), method: Arc::clone(&method.name) };
            Ok(within(call, shared.answer(begun, &request_id, method)).await)
        })
    }
}

impl<H> Clone for Calls<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The answer of a call that is being carried out.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<H: Handler<B>, B: 'static> Service<Request<B>> for Calls<H> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        Self::call(self, request)
    }
}

/// A call that its handler has begun with.
struct Begun<F> {
    answer: F,
    deadline: Duration,
}

/// A request that is answered by what surrounds the handler.
enum Refused {
    /// It is no call of gRPC's: the status of HTTP, and a header that says what would be right.
    NoCall(StatusCode, HeaderName, &'static str),
    /// It is a call that fails.
    Failed(Failure),
}

impl Refused {
    fn into_http(self, request_id: &RequestId) -> Response<Body> {
        match self {
            Self::NoCall(status, name, value) => refuse_in_http(status, name, value),
            Self::Failed(failure) => failure.into_status(request_id).into_http(),
        }
    }
}

impl<H> Shared<H> {
    /// How long a call of that method may take, if it is one.
    fn deadline_of<B>(&self, request: &Request<B>, method: Place) -> Result<Duration, Refused> {
        refuse_other_protocols(request)?;
        deadline::of(request.headers(), self.methods.at(method).deadline).map_err(Refused::Failed)
    }

    async fn answer<F>(
        &self,
        begun: Result<Begun<F>, Refused>,
        request_id: &RequestId,
        method: &Method,
    ) -> Response<Body>
    where
        F: Future<Output = Response<Body>>,
    {
        let measured = Measured::start(&self.methods, method);
        let carried_out = match begun {
            Ok(Begun { answer, deadline }) => {
                self.carry_out(answer, measured.started + deadline, method).await.map_err(Refused::Failed)
            }
            Err(refused) => Err(refused),
        };
        let mut response = carried_out.unwrap_or_else(|refused| refused.into_http(request_id));
        let code = match response.status() {
            StatusCode::OK => complete(response.headers_mut(), request_id),
            _ => Some(Code::Unknown),
        };
        response.headers_mut().insert(X_REQUEST_ID, request_id.header());
        measured.finish(code.unwrap_or(Code::Ok));
        if code.is_some() || !method.streams {
            return response;
        }
        // The error of a stream stands in its trailers.
        let request_id = request_id.clone();
        response.map(|body| {
            Body::new(body.map_frame(move |mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    complete(trailers, &request_id);
                }
                frame
            }))
        })
    }

    async fn carry_out<F>(&self, answer: F, deadline: Instant, method: &Method) -> Result<Response<Body>, Failure>
    where
        F: Future<Output = Response<Body>>,
    {
        let _admitted =
            if method.admission { Some(self.admission.admit().ok_or_else(Failure::overloaded)?) } else { None };
        match tokio::time::timeout_at(deadline, AssertUnwindSafe(answer).catch_unwind()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(panic)) => Err(panicked(panic)),
            Err(_) => Err(Failure::deadline_exceeded()),
        }
    }
}

/// Counts the calls at work. Nobody waits for a place, so that nothing more than a number is needed.
struct Admission {
    most: usize,
    at_work: AtomicUsize,
}

/// A place among the calls at work, until it is dropped.
struct Admitted<'a>(&'a Admission);

impl Admission {
    fn admit(&self) -> Option<Admitted<'_>> {
        // Given back at once where it is one too many.
        let admitted = Admitted(self);
        (self.at_work.fetch_add(1, Ordering::Relaxed) < self.most).then_some(admitted)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is no call at all is refused in HTTP's own terms.
pub(crate) fn refuse_in_http(status: StatusCode, name: HeaderName, value: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// What is not gRPC is refused, as gRPC over HTTP/2 says of the content type.
fn refuse_other_protocols<B>(request: &Request<B>) -> Result<(), Refused> {
    if request.method() != HttpMethod::POST {
        return Err(Refused::NoCall(StatusCode::METHOD_NOT_ALLOWED, header::ALLOW, "POST"));
    }
    if !is_grpc(request.headers()) {
        return Err(Refused::NoCall(StatusCode::UNSUPPORTED_MEDIA_TYPE, header::ACCEPT, "application/grpc"));
    }
    Ok(())
}

/// `application/grpc`, with or without `+proto` and parameters.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// What a panic says is not logged: a text that was being cut may be a credential.
fn panicked(panic: Box<dyn Any + Send>) -> Failure {
    drop(panic);
    Failure::internal("a handler panicked")
}

/// Measures a call, also one that its caller gives up.
struct Measured<'a> {
    methods: &'a Methods,
    method: &'a Method,
    started: Instant,
    code: Code,
}

impl<'a> Measured<'a> {
    fn start(methods: &'a Methods, method: &'a Method) -> Self {
        methods.in_flight().increment(1);
        Self { methods, method, started: Instant::now(), code: Code::Cancelled }
    }

    fn finish(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        self.methods.in_flight().decrement(1);
        self.method.record(self.code, duration);
        let milliseconds = duration.as_secs_f64() * 1_000.0;
        tracing::debug!(code = code_name(self.code), milliseconds, "the call has ended");
    }
}
