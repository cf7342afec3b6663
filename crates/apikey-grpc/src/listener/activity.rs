//! Which connections are idle: requests, and answers that are still being read, are counted. Streams that only wait are not, and an
//! answer that nobody reads counts no longer than a call can take. Answers get the headers of their connection.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::date;

/// How many requests a connection has had, how many are in flight, and when the last one began. Nobody is woken by a request.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    opened: Instant,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    /// In milliseconds since it was opened.
    last_call: AtomicU64,
}

/// So often a connection is looked at before it counts as idle.
const LOOKS: u32 = 8;

/// Longer than any call takes, and its answer: what is in flight where no call began for so long is read by nobody. A revocation takes up
/// to 67 s, with the longest lease.
const STALLED: Duration = Duration::from_secs(75);

impl Activity {
    pub(super) fn new() -> Self {
        let (requests, in_flight, last_call) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        Self(Arc::new(State { opened: Instant::now(), requests, in_flight, last_call }))
    }

    fn enter(&self) -> InFlight {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        let since = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_call.store(since, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// When the last call began; if there was none, when the connection was opened.
    pub(super) fn last_call(&self) -> Instant {
        self.0.opened + Duration::from_millis(self.0.last_call.load(Ordering::Relaxed))
    }

    /// Whether a call is in flight that goes on.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.0.in_flight.load(Ordering::Acquire) > 0 && now.saturating_duration_since(self.last_call()) < STALLED
    }

    /// Is ready once the first request has not come within `first`, or none was in flight for the whole of `idle`, or for an eighth
    /// longer.
    pub(super) async fn idle(&self, first: Duration, idle: Duration) {
        let opened = self.0.opened;
        let (mut seen, mut looks_at_rest) = (0, 0);
        loop {
            let pause = if seen == 0 { first.saturating_sub(opened.elapsed()) } else { idle };
            tokio::time::sleep(pause.min(idle / LOOKS)).await;
            let requests = self.0.requests.load(Ordering::Relaxed);
            let at_rest = requests == seen && !self.is_busy(Instant::now());
            looks_at_rest = if at_rest { looks_at_rest + 1 } else { 0 };
            seen = requests;
            if requests == 0 && opened.elapsed() >= first || requests > 0 && looks_at_rest >= LOOKS {
                return;
            }
        }
    }
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
struct InFlight(Activity);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}

/// Among an answer's extensions: it is a stream that waits for what may never happen, and keeps no connection open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// A connection's service, whose requests are counted.
#[derive(Clone)]
pub(super) struct Tracked<S> {
    service: S,
    activity: Activity,
    idle: Duration,
}

impl<S> Tracked<S> {
    /// The service of a connection that is closed after so long without a request.
    pub(super) const fn new(service: S, activity: Activity, idle: Duration) -> Self {
        Self { service, activity, idle }
    }
}

impl<S, B> Service<Request<Incoming>> for Tracked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
{
    type Response = Response<TrackedBody<B>>;
    type Error = Infallible;
    type Future = TrackedAnswer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let in_flight = Some(self.activity.enter());
        let keep_alive = (request.version() == Version::HTTP_11).then_some(self.idle);
        TrackedAnswer { answer: self.service.call(request), in_flight, keep_alive }
    }
}

pin_project! {
    /// An answer that is being made; its request is in flight.
    pub(super) struct TrackedAnswer<F> {
        #[pin]
        answer: F,
        in_flight: Option<InFlight>,
        keep_alive: Option<Duration>,
    }
}

impl<F, B> Future for TrackedAnswer<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<TrackedBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = self.project();
        let (in_flight, keep_alive) = (answer.in_flight, *answer.keep_alive);
        answer.answer.poll(context).map_ok(|mut response| {
            announce(response.headers_mut(), keep_alive);
            let waits = response.extensions().get::<Waits>().is_some();
            let in_flight = in_flight.take().filter(|_| !waits);
            response.map(|body| TrackedBody { body, _in_flight: in_flight })
        })
    }
}

/// Writes the date, and how long the connection stays open, where its protocol has no other way to tell (RFC 2068, section 19.7.1.1)
/// and the answer does not close it.
fn announce(headers: &mut HeaderMap, keep_alive: Option<Duration>) {
    if let Some(date) = date::now() {
        headers.insert(header::DATE, date);
    }
    if let Some(idle) = keep_alive
        && !headers.contains_key(header::CONNECTION)
        && let Ok(value) = HeaderValue::try_from(format!("timeout={}", idle.as_secs()))
    {
        headers.insert(KEEP_ALIVE, value);
    }
}

/// An answer's body; its request is in flight until it has been read or dropped.
pub(super) struct TrackedBody<B> {
    body: B,
    _in_flight: Option<InFlight>,
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
