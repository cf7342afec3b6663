//! Errors as Connect shows them: the table's, and the runtime's own.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::{Code, Status, body::Body};

use crate::{request_id::RequestId, status::complete};

/// A refusal as an answer to a request with these headers.
pub(in crate::web) fn refusal(status: &Status, request_headers: &HeaderMap) -> Response<Body> {
    let headers = status.metadata().clone().into_headers();
    connect_error(status, headers).into_http_response(request_headers).map(Body::new)
}

pub(super) fn is_error(response: &Response<Body>) -> bool {
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    response.status() != StatusCode::OK && json
}

/// Gives an error that the runtime made the details that every error has.
pub(super) async fn detailed(response: Response<Body>, request_id: &RequestId) -> Response<Body> {
    let (head, body) = response.into_parts();
    // It is in memory already and short.
    let Ok(body) = body.collect().await else { return Response::from_parts(head, Body::empty()) };
    let body = body.to_bytes();
    let Ok(mut error) = serde_json::from_slice::<ConnectError>(&body) else {
        return Response::from_parts(head, Body::new(Full::new(body)));
    };
    let mut status = head.status;
    if error.details.is_empty() {
        let made = Status::new(code_of(error.code), error.message.clone().unwrap_or_default());
        let mut headers = HeaderMap::new();
        if made.add_header(&mut headers).is_ok() {
            complete(&mut headers, request_id);
            if let Some(told) = Status::from_header_map(&headers) {
                let code = error.code;
                error = connect_error(&told, HeaderMap::new());
                // The table may call it by another code than the runtime.
                if error.code != code {
                    status = error.http_status();
                }
            }
        }
    }
    let mut response = Response::new(Body::new(Full::new(error.to_json())));
    *response.status_mut() = status;
    *response.headers_mut() = head.headers;
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
}

/// A status and the headers beside it as Connect shows them.
pub(super) fn connect_error(status: &Status, headers: HeaderMap) -> ConnectError {
    let number = u32::try_from(i32::from(status.code())).unwrap_or_default();
    let code = ErrorCode::from_grpc_code(number).unwrap_or(ErrorCode::Unknown);
    let mut error = ConnectError::new(code, status.message());
    // Details that cannot be read are none; the error itself stands.
    let details = tonic_types::Status::decode(status.details()).unwrap_or_default().details;
    error.details = details
        .into_iter()
        .map(|detail| {
            let message = detail.type_url.rsplit('/').next().unwrap_or_default();
            ErrorDetail {
                type_url: message.to_owned(),
                value: Some(STANDARD_NO_PAD.encode(&detail.value)),
                debug: in_words(message, &detail.value),
            }
        })
        .collect();
    error.with_headers(headers)
}

/// The messages of `google/rpc/error_details.proto`.
static DETAILS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // What it cannot read would be a defect of the library's build, for which details in Base64 alone are no reason to fail.
    DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap_or_default()
});

/// A detail as JSON: for people who read an answer, where no program should look.
fn in_words(message: &str, value: &[u8]) -> Option<serde_json::Value> {
    let descriptor = DETAILS.get_message_by_name(message)?;
    serde_json::to_value(DynamicMessage::decode(descriptor, value).ok()?).ok()
}

/// What the inner service is told where the runtime could not read a message of a stream.
pub(super) fn inner_status(error: &ConnectError) -> Status {
    Status::new(code_of(error.code), error.message.clone().unwrap_or_default())
}

fn code_of(code: ErrorCode) -> Code {
    Code::from(i32::try_from(code.grpc_code()).unwrap_or_default())
}
