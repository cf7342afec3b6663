//! What surrounds every call, whatever it is: request id, span, metrics, admission, deadline, and a net under panics.
//!
//! Stands on the inner routes, so that each protocol in front of them is treated alike. Knows no method's meaning.

use std::{
    any::Any,
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tonic::{Code, body::Body};
use tower::Service;

use crate::{
    listener::{PeerAddress, Waits},
    methods::{Method, Methods, Nth},
    places::{Entrance, Places},
    request_id::{RequestId, RequestIds, X_REQUEST_ID},
    status::{Failure, code_name, complete},
    streams::{Open, Streams},
};

mod deadline;
mod span;

pub(crate) use deadline::GRPC_TIMEOUT;
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
    /// How many calls are carried out at once; what is above is refused at once. One peer takes at most half of the places before it
    /// is known who calls, one organization at most half after it; `RevokeApiKey` has an eighth besides. Health checks and reflection
    /// do not count.
    pub concurrent_calls: usize,
    /// Whether the listener describes its services by reflection.
    pub reflection: bool,
}

impl Default for CallLimits {
    /// 5 s; 10 s to revoke; 1024 calls; reflection.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            revoke_deadline: Duration::from_secs(10),
            concurrent_calls: 1024,
            reflection: true,
        }
    }
}

/// Carries out calls, whatever they are.
pub(crate) trait Handler<B>: Send + Sync + 'static {
    /// Begins with the request at once: what waits for the answer does not hold it. The answer is in a box, since it is moved more
    /// than once before it is waited for. What works for the call takes a place by the entrance once the message has been read.
    fn handle(&self, request: Request<B>, entrance: Entrance) -> Answer;
}

impl<S, B> Handler<B> for S
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    /// The service finds the entrance among the request's extensions.
    fn handle(&self, mut request: Request<B>, entrance: Entrance) -> Answer {
        request.extensions_mut().insert(entrance);
        // tonic's services are always ready: they keep nobody waiting before they take a request.
        Box::pin(self.clone().call(request))
    }
}

/// A handler with everything that surrounds a call.
pub(crate) struct Calls<H>(Arc<Shared<H>>);

struct Shared<H> {
    handler: H,
    request_ids: RequestIds,
    methods: Methods,
    places: Arc<Places>,
    streams: Streams,
}

impl<H> Calls<H> {
    /// Streams end once `stopping` says so.
    pub(crate) fn new(
        handler: H,
        request_ids: RequestIds,
        methods: Methods,
        concurrent_calls: usize,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self(Arc::new(Shared {
            handler,
            request_ids,
            methods,
            places: Places::new(concurrent_calls),
            streams: Streams::new(stopping),
        }))
    }

    /// Carries out one call.
    pub(crate) fn call<B>(&self, request: Request<B>) -> Answer
    where
        H: Handler<B>,
    {
        let shared = &self.0;
        let method = shared.methods.place(request.uri().path());
        let request_id = shared.request_ids.identify(request.headers());
        let call = Call { request_id, method: shared.methods.at(method).name };
        let mut account = Account::start(Arc::clone(shared), method);
        match account.begin(request) {
            Ok((answer, deadline)) => Box::pin(within(call, Work { answer, deadline, timer: None, account })),
            Err(refused) => Box::pin(within(call, async move { Ok(account.finish(Err(refused))) })),
        }
    }
}

impl<H> Clone for Calls<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The answer of a call that is being carried out; there always is one.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<H: Handler<B>, B> Service<Request<B>> for Calls<H> {
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

/// The work of a call, until its answer is there or its time is over. Small, since there is one for each call.
struct Work<H> {
    answer: Answer,
    deadline: Instant,
    /// Set only where the answer is not there at once.
    timer: Option<Pin<Box<Sleep>>>,
    account: Account<H>,
}

impl<H> Future for Work<H> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { answer, deadline, timer, account } = &mut *self;
        let outcome = match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
            Ok(Poll::Ready(Ok(response))) => Ok(response),
            Ok(Poll::Pending) => {
                ready!(timer.get_or_insert_with(|| Box::pin(sleep_until(*deadline))).as_mut().poll(context));
                Err(Refused::Failed(Failure::deadline_exceeded()))
            }
            Err(panic) => Err(Refused::Failed(panicked(panic))),
        };
        Poll::Ready(Ok(account.finish(outcome)))
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

/// Keeps account of a call from its head to its answer's, or until its caller gives it up.
struct Account<H> {
    shared: Arc<Shared<H>>,
    method: Nth,
    started: Instant,
    /// A stream's place, which its answer takes over.
    stream: Option<Open>,
    has_ended: bool,
}

impl<H> Account<H> {
    fn start(shared: Arc<Shared<H>>, method: Nth) -> Self {
        shared.methods.in_flight().increment(1);
        Self { shared, method, started: Instant::now(), stream: None, has_ended: false }
    }

    fn method(&self) -> &Method {
        self.shared.methods.at(self.method)
    }

    /// Hands the request to the handler, if it is a call. Returns until when the answer has to be there.
    fn begin<B>(&mut self, request: Request<B>) -> Result<(Answer, Instant), Refused>
    where
        H: Handler<B>,
    {
        refuse_other_protocols(&request)?;
        let limit = deadline::of(request.headers(), self.method().deadline).map_err(Refused::Failed)?;
        if self.method().streams {
            let peer = request.extensions().get::<PeerAddress>().copied();
            self.stream = Some(self.shared.streams.open(peer).map_err(Refused::Failed)?);
        }
        let entrance = Entrance::new(Arc::clone(&self.shared.places), self.method().revokes);
        match catch_unwind(AssertUnwindSafe(|| self.shared.handler.handle(request, entrance))) {
            Ok(answer) => Ok((answer, self.started + limit)),
            Err(panic) => Err(Refused::Failed(panicked(panic))),
        }
    }

    /// Completes the call's answer. The call is the thread's current one.
    fn finish(&mut self, outcome: Result<Response<Body>, Refused>) -> Response<Body> {
        let request_id = request_id();
        let mut response = outcome.unwrap_or_else(|refused| refused.into_http(&request_id));
        let code = match response.status() {
            StatusCode::OK => complete(response.headers_mut(), &request_id),
            _ => Some(Code::Unknown),
        };
        response.headers_mut().insert(X_REQUEST_ID, request_id.header());
        self.end(code.unwrap_or(Code::Ok));
        if code.is_some() || !self.method().streams {
            return response;
        }
        response.extensions_mut().insert(Waits);
        if let Some(stream) = self.stream.take() {
            response = stream.limit(response, &request_id);
        }
        // The error of a stream stands in its trailers.
        response.map(|body| {
            Body::new(body.map_frame(move |mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    complete(trailers, &request_id);
                }
                frame
            }))
        })
    }

    fn end(&mut self, code: Code) {
        self.has_ended = true;
        let duration = self.started.elapsed();
        self.shared.methods.in_flight().decrement(1);
        self.method().record(code, duration);
        let milliseconds = duration.as_secs_f64() * 1_000.0;
        tracing::debug!(code = code_name(code), milliseconds, "the call has ended");
    }
}

impl<H> Drop for Account<H> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Code::Cancelled);
        }
    }
}
