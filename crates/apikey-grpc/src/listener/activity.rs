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
use hyper::{body::Incoming, service::Service};
use pin_project_lite::pin_project;
use tokio::time::Instant;

/// How many requests a connection has had, and how many are in flight. A request costs three additions; nobody is woken, and
/// nobody looks at a clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<State>);

#[derive(Debug, Default)]
struct State {
    requests: AtomicU64,
    in_flight: AtomicUsize,
}

/// So often a connection is looked at before it counts as idle.
const LOOKS: u32 = 8;

impl Activity {
    fn enter(&self) -> InFlight {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Is ready once the first request has not come within `first`, or none was in flight for the whole of `idle`, or for an eighth
    /// longer.
    pub(super) async fn idle(&self, first: Duration, idle: Duration) {
        let opened = Instant::now();
        let (mut seen, mut looks_at_rest) = (0, 0);
        loop {
            let pause = if seen == 0 { first.saturating_sub(opened.elapsed()) } else { idle };
            tokio::time::sleep(pause.min(idle / LOOKS)).await;
            let requests = self.0.requests.load(Ordering::Relaxed);
            let at_rest = requests == seen && self.0.in_flight.load(Ordering::Acquire) == 0;
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

/// A connection's service, whose requests are counted.
#[derive(Clone)]
pub(super) struct Tracked<S> {
    service: S,
    activity: Activity,
}

impl<S> Tracked<S> {
    pub(super) const fn new(service: S, activity: Activity) -> Self {
        Self { service, activity }
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
        TrackedAnswer { answer: self.service.call(request), in_flight }
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
