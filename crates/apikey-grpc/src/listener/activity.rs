//! Which connections are idle: requests, and answers that are still being read, are counted.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::watch;
use tower::{Service, ServiceExt};

use super::PeerAddress;

/// How many requests of a connection are in flight; `None` before the first.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<watch::Sender<Option<usize>>>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    fn enter(&self) -> InFlight {
        self.0.send_modify(|count| *count = Some(count.unwrap_or(0) + 1));
        InFlight(self.clone())
    }

    /// Is ready once the first request has not come within `first`, or none is in flight for the whole of `idle`.
    pub(super) async fn idle(&self, first: Duration, idle: Duration) {
        let mut count = self.0.subscribe();
        loop {
            let patience = match *count.borrow_and_update() {
                None => Some(first),
                Some(0) => Some(idle),
                Some(_) => None,
            };
            // The sender lives as long as `self`.
            let changed = count.changed();
            match patience {
                Some(patience) => match tokio::time::timeout(patience, changed).await {
                    Ok(_) => {}
                    Err(_) => return,
                },
                None => {
                    let _ = changed.await;
                }
            }
        }
    }
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
struct InFlight(Activity);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count = count.map(|count| count.saturating_sub(1)));
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
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = self.activity.enter();
        request.extensions_mut().insert(self.peer);
        let answer = self.service.clone().oneshot(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| TrackedBody { body, _in_flight: in_flight }))
        })
    }
}

/// An answer's body; its request is in flight until it has been read or dropped.
pub(super) struct TrackedBody<B> {
    body: B,
    _in_flight: InFlight,
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
