//! What is left of a request's body when nobody wants it any more.
//!
//! Most clients send a whole request before they read the answer. They see it only if the rest of the request is taken: over HTTP/1.1
//! a connection that is closed with bytes unread is reset, and over HTTP/2 curl takes the reset of the stream for a failure of its
//! own. So the rest is read and forgotten, within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{runtime::Handle, time::timeout};
use tonic::{Status, body::Body};

/// How long that may take, as in nginx (`lingering_timeout`).
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the caller may be silent: what it does not send is not waited for.
const SILENCE: Duration = Duration::from_millis(500);

/// The most that is read and forgotten, in bytes.
const MOST: usize = 16 << 20;

/// A body whose rest is read when it is dropped, within bounds.
pub(crate) struct Drained(Option<Body>);

impl Drained {
    pub(crate) const fn new(body: Body) -> Self {
        Self(Some(body))
    }
}

impl HttpBody for Drained {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if let Some(body) = self.0.take() {
            forget(body);
        }
    }
}

/// Reads the rest of a body that nobody wants, beside everything else.
pub(crate) fn forget<B>(body: B)
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
{
    if body.is_end_stream() {
        return;
    }
    // Outside a runtime there is no connection either.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(timeout(PATIENCE, read(body.map_err(drop))));
    }
}

async fn read<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) {
    let mut bytes = 0;
    while let Ok(Some(Ok(frame))) = timeout(SILENCE, body.frame()).await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > MOST {
            return;
        }
    }
}
