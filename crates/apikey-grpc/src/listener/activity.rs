//! Which connections are idle: requests, and answers that are still being read, are counted.

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

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Service, ServiceExt, util::Oneshot};

use super::PeerAddress;

/// How many requests of a connection are in flight, and when the last one ended. A request costs two additions and a look at the
/// clock; nobody is woken.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    opened: Instant,
    in_flight: AtomicUsize,
    /// When no request was left in flight for the last time, in nanoseconds after the connection was opened.
    at_rest_since: AtomicU64,
}

/// There has been no request yet.
const NEVER: u64 = u64::MAX;

impl Activity {
    pub(super) fn new() -> Self {
        let (in_flight, at_rest_since) = (AtomicUsize::new(0), AtomicU64::new(NEVER));
        Self(Arc::new(State { opened: Instant::now(), in_flight, at_rest_since }))
    }

    fn enter(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Is ready once the first request has not come within `first`, or none is in flight for the whole of `idle`.
    pub(super) async fn idle(&self, first: Duration, idle: Duration) {
        loop {
            let now = Instant::now();
            let end = match (self.0.in_flight.load(Ordering::Acquire), self.0.at_rest_since.load(Ordering::Relaxed)) {
                (0, NEVER) => self.0.opened + first,
                (0, since) => self.0.opened + Duration::from_nanos(since) + idle,
                _ => now + idle,
            };
            if end <= now {
                return;
            }
            // A request may come and end from now on: then it is later than that.
            tokio::time::sleep_until(end.min(now + idle)).await;
        }
    }
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
struct InFlight(Activity);

impl Drop for InFlight {
    fn drop(&mut self) {
        let State { opened, in_flight, at_rest_since } = &*self.0.0;
        // A connection does not live for 584 years.
        let now = u64::try_from(opened.elapsed().as_nanos()).unwrap_or(NEVER - 1);
        at_rest_since.store(now, Ordering::Relaxed);
        in_flight.fetch_sub(1, Ordering::Release);
    }
}

/// A connection's service: tells each request where it came from, and counts it.
#[derive(Clone)]
pub(super) struct Tracked<S> {
    service: S,
    peer: PeerAddress,
    activity: Activity,
}

impl<S> Tracked<S> {
    pub(super) const fn new(service: S, peer: PeerAddress, activity: Activity) -> Self {
        Self { service, peer, activity }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Tracked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<TrackedBody<B>>;
    type Error = Infallible;
    type Future = TrackedAnswer<Oneshot<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = Some(self.activity.enter());
        request.extensions_mut().insert(self.peer);
        TrackedAnswer { answer: self.service.clone().oneshot(request), in_flight }
    }
}

pin_project! {
    /// An answer that is being made; its request is in flight.
    pub(super) struct TrackedAnswer<F> {
        #[pin]
        answer: F,
        in_flight: Option<InFlight>,
    }
}

impl<F, B> Future for TrackedAnswer<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<TrackedBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = self.project();
        let in_flight = answer.in_flight;
        answer
            .answer
            .poll(context)
            .map_ok(|response| response.map(|body| TrackedBody { body, _in_flight: in_flight.take() }))
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
