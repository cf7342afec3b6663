//! Exactly one message in the request of a method that takes one, as gRPC's and Connect's specifications want it.
//!
//! tonic takes the first message and ignores what follows. A request could then mean one thing to a proxy that reads its last
//! message and another to us.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};
use tower::Service;

use super::served::Served;
use crate::frames::HEADER;

/// A gRPC service whose methods get as many messages as they take.
#[derive(Clone)]
pub(super) struct Single<S> {
    service: S,
    served: Arc<Served>,
}

impl<S> Single<S> {
    pub(super) const fn new(service: S, served: Arc<Served>) -> Self {
        Self { service, served }
    }
}

impl<S> Service<Request<Body>> for Single<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let one = self.served.find(request.uri().path()).is_some_and(|method| !method.client_streaming);
        let request = if one { request.map(|body| Body::new(OneMessage::new(body))) } else { request };
        self.service.call(request)
    }
}

/// A body that fails where it has no message, or more than one.
struct OneMessage {
    body: Body,
    progress: Progress,
}

#[derive(Clone, Copy)]
enum Progress {
    Header { bytes: [u8; HEADER], read: usize },
    Message { left: usize },
}

impl Progress {
    const START: Self = Self::Header { bytes: [0; HEADER], read: 0 };

    /// What is left of the data after the one message, if it ends there.
    fn advance(&mut self, mut data: &[u8]) -> usize {
        while let Self::Header { bytes, read } = self {
            let (Some(place), Some((byte, rest))) = (bytes.get_mut(*read), data.split_first()) else { break };
            *place = *byte;
            data = rest;
            *read += 1;
            if *read == HEADER {
                let [_, a, b, c, d] = *bytes;
                let left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                *self = Self::Message { left };
            }
        }
        let Self::Message { left } = self else { return 0 };
        let taken = data.len().min(*left);
        *left -= taken;
        data.len() - taken
    }
}

impl OneMessage {
    const fn new(body: Body) -> Self {
        Self { body, progress: Progress::START }
    }
}

impl HttpBody for OneMessage {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && self.progress.advance(data) > 0
        {
            return Poll::Ready(Some(Err(Status::unimplemented("the method takes one message, and there are more"))));
        }
        if frame.is_none() && matches!(self.progress, Progress::Header { read: 0, .. }) {
            return Poll::Ready(Some(Err(Status::unimplemented("the method takes one message, and there is none"))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // An empty body is looked at, since it is one message short.
        !matches!(self.progress, Progress::Header { read: 0, .. }) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;
    use crate::frames::frame;

    async fn read(bytes: Vec<u8>, chunk: usize) -> Result<usize, tonic::Code> {
        let frames: Vec<_> =
            bytes.chunks(chunk).map(|chunk| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        OneMessage::new(body).collect().await.map(|read| read.to_bytes().len()).map_err(|status| status.code())
    }

    #[tokio::test]
    async fn one_message_passes_however_it_is_cut_and_any_other_number_does_not() {
        let one = frame(&[7; 40]).to_vec();
        for chunk in 1..=one.len() {
            assert_eq!(read(one.clone(), chunk).await, Ok(45));
            assert_eq!(read([one.clone(), one.clone()].concat(), chunk).await, Err(tonic::Code::Unimplemented));
            assert_eq!(read([one.clone(), vec![0]].concat(), chunk).await, Err(tonic::Code::Unimplemented));
        }
        assert_eq!(read(frame(b"").to_vec(), 5).await, Ok(5));
        assert_eq!(read(Vec::new(), 1).await, Err(tonic::Code::Unimplemented));
        let empty = OneMessage::new(Body::new(Full::new(Bytes::new())));
        assert!(!empty.is_end_stream());
        assert!(empty.collect().await.is_err());
        // What is cut short is the decoder's to refuse.
        assert_eq!(read(one[..20].to_vec(), 20).await, Ok(20));
    }
}
