//! The inner service's answers, as the runtime wants them.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use connectrpc::{ConnectError, ConnectRpcBody, EncodedBody, EncodedResponse, EncodedStream, Response as Answer};
use futures_util::{StreamExt, future};
use http::{HeaderMap, HeaderName, Response, header};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use super::{Codec, errors::connect_error, is_of_the_protocol};
use crate::frames::{self, Part};

/// The trailers of a stream that ended well. The runtime wants them before the stream, when nobody knows them; so they are noted
/// here, among the request's extensions, and written into its last frame.
#[derive(Clone, Default)]
pub(super) struct Ending(Arc<OnceLock<HeaderMap>>);

/// The flag of the frame that ends a stream, from Connect's specification.
const END_OF_STREAM: u8 = 2;

impl Ending {
    /// Adds the trailers to the metadata of the frame, if it is the last one.
    pub(super) fn write(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(trailers) = self.0.get().filter(|trailers| !trailers.is_empty()) else { return frame };
        let written = frame.data_ref().and_then(|data| {
            let (flag, length, json) = frames::split_header(data)?;
            if (flag, length) != (END_OF_STREAM, json.len()) {
                return None;
            }
            let mut end: serde_json::Map<_, _> = serde_json::from_slice(json).ok()?;
            let names = trailers.keys().map(|name| {
                let values =
                    trailers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into());
                (name.as_str().to_owned(), serde_json::Value::Array(values.collect()))
            });
            end.insert("metadata".to_owned(), serde_json::Value::Object(names.collect()));
            let json = serde_json::to_vec(&end).ok()?;
            let mut framed = BytesMut::from(frames::frame(&json));
            *framed.first_mut()? = END_OF_STREAM;
            Some(framed.freeze())
        });
        written.map_or(frame, Frame::data)
    }
}

pub(super) fn is_stream(response: &Response<ConnectRpcBody>) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/connect+"))
}

/// The headers or trailers of an inner answer that are not the protocol's own.
pub(super) fn application_headers(headers: &HeaderMap) -> HeaderMap {
    let own = |name: &HeaderName| is_of_the_protocol(name) || *name == header::DATE;
    headers.iter().filter(|(name, _)| !own(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The error in headers or trailers, if there is one.
fn error_in(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// The answer of a method that answers once.
pub(super) async fn one(response: Response<Body>, codec: &Codec) -> Result<EncodedResponse, ConnectError> {
    let (head, body) = response.into_parts();
    let headers = application_headers(&head.headers);
    if let Some(status) = error_in(&head.headers) {
        return Err(connect_error(&status, headers));
    }
    let (mut message, mut trailers) = (None, HeaderMap::new());
    let mut parts = std::pin::pin!(frames::parts(body));
    while let Some(part) = parts.next().await {
        match part {
            Ok(Part::Message(part)) if message.is_none() => message = Some(part),
            Ok(Part::Message(_)) => return Err(ConnectError::unimplemented("the answer has more than one message")),
            Ok(Part::Trailers(part)) => trailers = part,
            Err(status) => return Err(connect_error(&status, headers)),
        }
    }
    if let Some(status) = error_in(&trailers) {
        return Err(connect_error(&status, headers).with_trailers(application_headers(&trailers)));
    }
    let message = message.ok_or_else(|| ConnectError::unimplemented("the answer has no message"))?;
    let mut answer = Answer::new(EncodedBody::from(codec.encode(message)?));
    answer.headers = headers;
    answer.trailers = application_headers(&trailers);
    Ok(answer)
}

/// The answer of a method that answers more than once.
pub(super) fn many(
    response: Response<Body>,
    codec: Codec,
    ending: Ending,
) -> Result<Answer<EncodedStream>, ConnectError> {
    let (head, body) = response.into_parts();
    let headers = application_headers(&head.headers);
    if let Some(status) = error_in(&head.headers) {
        return Err(connect_error(&status, headers));
    }
    let messages = frames::parts(body).filter_map(move |part| {
        future::ready(match part {
            Ok(Part::Message(message)) => Some(codec.encode(message).map(EncodedBody::from)),
            Ok(Part::Trailers(trailers)) => {
                let beside = application_headers(&trailers);
                if let Some(status) = error_in(&trailers) {
                    Some(Err(connect_error(&status, HeaderMap::new()).with_trailers(beside)))
                } else {
                    // Trailers come once.
                    let _ = ending.0.set(beside);
                    None
                }
            }
            Err(status) => Some(Err(connect_error(&status, HeaderMap::new()))),
        })
    });
    let mut answer: Answer<EncodedStream> = Answer::new(Box::pin(messages));
    answer.headers = headers;
    Ok(answer)
}
