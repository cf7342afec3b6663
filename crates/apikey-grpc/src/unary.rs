//! A call of one message each way, read and answered at once. A library's way is made for streams, and costs more than a verification.
//!
//! Only messages as they are: whoever compresses is served by tonic, and so is every method but the hot one. What is refused is refused
//! in tonic's words, so that the one table of errors reads both alike.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame};
use prost::Message;
use tonic::{Status, body::Body, metadata::GRPC_CONTENT_TYPE};

use crate::frames::{self, HEADER};

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const OK: HeaderValue = HeaderValue::from_static("0");

/// Whether the request says nothing of compression.
pub(crate) fn is_plain<B>(request: &Request<B>) -> bool {
    !request.headers().contains_key(GRPC_ENCODING)
}

/// Decodes the one message in what was read of a body; it may have `most` bytes.
///
/// # Errors
/// What tonic says of a body that it cannot read; `UNIMPLEMENTED` where there is not one message but none or more.
pub(crate) fn decode<M: Message + Default>(mut message: Bytes, most: usize) -> Result<M, Status> {
    if message.is_empty() {
        return Err(Status::unimplemented("the method takes one message, and there is none"));
    }
    if missing(&message, most)? > 0 {
        return Err(Status::internal("the message ends early"));
    }
    message.advance(HEADER);
    M::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// How many bytes of the message and its head are still to come.
fn missing(received: &[u8], most: usize) -> Result<usize, Status> {
    let Some((flag, length, message)) = frames::split_header(received) else {
        return Ok(HEADER - received.len());
    };
    if flag != 0 {
        return Err(Status::internal("the message's flag is not 0, and no encoding was announced"));
    }
    if length > most {
        let text = format!("the message is too large: {length} bytes, and the limit is {most} bytes");
        return Err(Status::out_of_range(text));
    }
    let Some(missing) = length.checked_sub(message.len()) else {
        return Err(Status::unimplemented("the method takes one message, and there are more"));
    };
    Ok(missing)
}

/// The answer of a call that succeeded.
pub(crate) fn answer(message: &impl Message) -> Response<Body> {
    let mut framed = frames::begin(message.encoded_len());
    message.encode_raw(&mut framed);
    let mut response = Response::new(Body::new(Answer { message: Some(framed.freeze()), has_ended: false }));
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// One message, and the trailers that say so.
struct Answer {
    message: Option<Bytes>,
    has_ended: bool,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::replace(&mut self.has_ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(Status::GRPC_STATUS, OK);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use apikey_proto::pidgr::v1::VerifyApiKeyRequest;
    use http_body_util::BodyExt as _;
    use tonic::Code;

    use super::*;
    use crate::frames::frame;

    const MOST: usize = 60;

    fn request(length: usize) -> Vec<u8> {
        let raw_key = "k".repeat(length);
        frame(&VerifyApiKeyRequest { raw_key, ..Default::default() }.encode_to_vec()).to_vec()
    }

    /// The length of the key in the one message of such a body.
    fn read(bytes: &[u8]) -> Result<usize, Code> {
        decode::<VerifyApiKeyRequest>(Bytes::copy_from_slice(bytes), MOST)
            .map(|read| read.raw_key.len())
            .map_err(|status| status.code())
    }

    #[test]
    fn one_message_is_read_and_any_other_number_is_refused() {
        let one = request(40);
        assert_eq!(read(&one), Ok(40));
        assert_eq!(read(&[one.clone(), one.clone()].concat()), Err(Code::Unimplemented));
        assert_eq!(read(&[one, vec![0]].concat()), Err(Code::Unimplemented));
        assert_eq!(read(&[]), Err(Code::Unimplemented));
        assert_eq!(read(&frame(b"")), Ok(0), "a message of nothing but defaults");
    }

    #[test]
    fn whatever_is_no_message_is_refused_as_tonic_refuses_it() {
        let one = request(40);
        for length in 1..one.len() {
            assert_eq!(read(&one[..length]), Err(Code::Internal), "cut at {length}");
        }
        for flag in [1, 2, 255] {
            let mut flagged = one.clone();
            flagged[0] = flag;
            assert_eq!(read(&flagged), Err(Code::Internal));
        }
        assert_eq!(read(&frame(&[0xFF; 3])), Err(Code::Internal), "no protobuf");
        assert_eq!(read(&request(MOST - 2)), Ok(MOST - 2));
        assert_eq!(read(&request(MOST - 1)), Err(Code::OutOfRange));
    }

    #[tokio::test]
    async fn an_answer_is_its_message_and_the_status() {
        let message = VerifyApiKeyRequest { raw_key: "k".to_owned(), ..Default::default() };
        let (head, body) = answer(&message).into_parts();
        assert_eq!(head.headers, HeaderMap::from_iter([(CONTENT_TYPE, GRPC_CONTENT_TYPE)]));
        assert!(!body.is_end_stream());
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&HeaderMap::from_iter([(Status::GRPC_STATUS, OK)])));
        assert_eq!(collected.to_bytes(), frame(&message.encode_to_vec()));
    }
}
