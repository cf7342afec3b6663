//! Streams that wait for what may never happen: health that is watched, and reflection. Each ends after a while, and when the listener
//! stops; their clients come again.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame};
use tokio::sync::watch;
use tonic::{Status, body::Body};

use crate::{
    listener::{PeerAddress, network},
    places::{Counter, Share},
    request_id::RequestId,
    status::Failure,
};

/// How long a stream may last.
const LIFETIME: Duration = Duration::from_mins(1);
/// How many there may be on one listener, and of one peer's address where it is known.
const MOST: usize = 1_024;
const PER_PEER: usize = 128;

/// The streams of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    shared: Arc<Shared>,
    stopping: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Shared {
    all: Counter,
    peers: Share<IpAddr>,
}

/// One stream's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    streams: Streams,
    peer: Option<IpAddr>,
}

impl Streams {
    /// Streams that end once `stopping` says so.
    pub(crate) fn new(stopping: watch::Receiver<bool>) -> Self {
        Self { shared: Arc::new(Shared { all: Counter::new(MOST), peers: Share::new(PER_PEER) }), stopping }
    }

    /// A place for one more.
    ///
    /// # Errors
    /// There are too many, or too many of this peer.
    pub(crate) fn open(&self, peer: Option<PeerAddress>) -> Result<Open, Failure> {
        if !self.shared.all.take() {
            return Err(Failure::overloaded());
        }
        let mut open = Open { streams: self.clone(), peer: None };
        if let Some(peer) = peer.map(network) {
            if !self.shared.peers.take(&peer) {
                return Err(Failure::overloaded());
            }
            open.peer = Some(peer);
        }
        Ok(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(peer) = &self.peer {
            self.streams.shared.peers.give_back(peer);
        }
        self.streams.shared.all.give_back();
    }
}

impl Open {
    /// The answer, which ends after a while.
    pub(crate) fn limit(self, response: Response<Body>, request_id: &RequestId) -> Response<Body> {
        let mut stopping = self.streams.stopping.clone();
        let ends = Box::pin(async move {
            let stops = async {
                if stopping.wait_for(|stopping| *stopping).await.is_err() {
                    // Nobody is left who could say so.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(LIFETIME) => {}
                () = stops => {}
            }
        });
        let end = Failure::stream_ended().into_status(request_id);
        response.map(|body| Body::new(Limited { body, ends, end: Some(end), _open: self }))
    }
}

struct Limited {
    body: Body,
    ends: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What it ends with, as long as it has not ended.
    end: Option<Status>,
    _open: Open,
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.end.is_none() {
            return Poll::Ready(None);
        }
        // What is there is said before the end.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(self.ends.as_mut().poll(context));
        let mut trailers = HeaderMap::new();
        match self.end.take().map(|end| end.add_header(&mut trailers)) {
            Some(Ok(())) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            _ => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_says_what_there_is_and_ends_after_a_minute() {
        let (_stopping, stops) = watch::channel(false);
        let first = Ok::<_, Status>(Frame::data(Bytes::from_static(b"first")));
        let body = StreamBody::new(futures_util::StreamExt::chain(
            futures_util::stream::iter([first]),
            futures_util::stream::pending(),
        ));
        let open = Streams::new(stops).open(None).map_err(|failure| failure.code()).unwrap();
        let started = tokio::time::Instant::now();
        let read =
            open.limit(Response::new(Body::new(body)), &RequestId::missing()).into_body().collect().await.unwrap();
        assert!(started.elapsed() >= LIFETIME);
        assert_eq!(read.trailers().unwrap().get("grpc-status").unwrap(), "14");
        assert_eq!(read.to_bytes(), "first");
    }
}
