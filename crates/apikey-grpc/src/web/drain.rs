//! What is left of a request's body when nobody wants it any more, over HTTP/1.1.
//!
//! There the answer to a refused request reaches its caller only if the rest of the request is read: a connection that is closed with
//! bytes unread is reset, and takes the answer with it. So the rest is read and forgotten, within bounds. HTTP/2 resets the one stream
//! and needs none of this.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tonic::{Status, body::Body};

/// How long that may take. Enough for what is on its way already; who sends slower loses the connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most that is read and forgotten where messages may have that size, in bytes: one message in base64, and room for its frame.
pub(super) const fn most_of(max_message_size: usize) -> usize {
    max_message_size.saturating_add(max_message_size / 2)
}

/// A body whose rest is read when it is dropped, up to so many bytes.
pub(super) struct Drained {
    body: Option<Body>,
    most: usize,
}

impl Drained {
    pub(super) const fn new(body: Body, most: usize) -> Self {
        Self { body: Some(body), most }
    }
}

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        // Outside a runtime there is no connection either.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(PATIENCE, read(body, self.most)));
        }
    }
}

async fn read(mut body: Body, most: usize) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > most {
            return;
        }
    }
}
