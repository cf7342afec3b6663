//! gRPC over HTTP/1.1: its trailers are announced, or they would be lost.
//!
//! gRPC asks for HTTP/2, but connect-go's client speaks it by HTTP/1.1 to an `http://` address, and its server answers. A trailer is
//! sent there only if the head of the answer names it (RFC 9110, section 6.6.2) and the request says `TE: trailers`.

use http::{HeaderValue, Response, Version, header};
use tonic::body::Body;

use crate::call::Answer;

/// The trailers of gRPC, by name.
const TRAILERS: HeaderValue = HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");

/// The answer to a request of that version: as it is, or with its trailers announced.
pub(crate) fn announced(version: Version, answer: Answer) -> Answer {
    if version >= Version::HTTP_2 {
        return answer;
    }
    Box::pin(async move { answer.await.map(announce) })
}

fn announce(mut response: Response<Body>) -> Response<Body> {
    let content_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    // gRPC-Web and Connect have their trailers in the body or in none.
    if content_type.is_some_and(|value| matches!(value.strip_prefix(b"application/grpc"), Some([] | [b'+', ..]))) {
        response.headers_mut().insert(header::TRAILER, TRAILERS);
    }
    response
}
