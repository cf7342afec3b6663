//! A caller by plain HTTP/1.1 or HTTP/2, one connection for each request, and what can be read out of its answers.

#![expect(clippy::indexing_slicing, reason = "JSON that lacks what is asked for is a failure of the test")]

use std::net::SocketAddr;

use ::http::{HeaderMap, Method, Request, StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic_types::{ErrorDetails, StatusExt};

use crate::wire::WireBody;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

pub(crate) const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Behind the body, where HTTP has them.
    pub(crate) trailers: HeaderMap,
}

pub(crate) fn full(body: impl Into<Bytes>) -> WireBody {
    Full::new(body.into()).boxed()
}

pub(crate) fn request(method: Method, path: &str, headers: &[(&str, &str)], body: WireBody) -> Request<WireBody> {
    let mut request = Request::builder().method(method).uri(format!("http://service.test{path}"));
    request = request.header("host", "service.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// Sends a request over a connection of its own.
pub(crate) async fn send(address: SocketAddr, version: Version, request: Request<WireBody>) -> Answer {
    send_over(TcpStream::connect(address).await.unwrap(), version, request).await
}

pub(crate) async fn send_over<I>(stream: I, version: Version, mut request: Request<WireBody>) -> Answer
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = TokioIo::new(stream);
    let response = match version {
        Version::Http1 => {
            // In HTTP/1.1 a request names the path alone.
            *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
            let (mut requests, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            requests.send_request(request).await.unwrap()
        }
        Version::Http2 => {
            request.headers_mut().remove("host");
            let (mut requests, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            requests.send_request(request).await.unwrap()
        }
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers }
}

/// Posts JSON by HTTP/1.1.
pub(crate) async fn post_json(address: SocketAddr, path: &str, headers: &[(&str, &str)], json: &str) -> Answer {
    let headers = [&[("content-type", "application/json")], headers].concat();
    send(address, Version::Http1, request(Method::POST, path, &headers, full(json.to_owned()))).await
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// The code of an error by Connect, after a check that it has what every error has.
    pub(crate) fn error(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), Some("application/json"));
        let json = self.json();
        let details = self.details();
        let info = details.error_info().expect("an error has ErrorInfo");
        assert_eq!(info.domain, "pidgr.com");
        let request_id = self.header("x-request-id").expect("an answer has a request id");
        assert_eq!(details.request_info().expect("an error has RequestInfo").request_id, request_id);
        let challenge = (self.status == StatusCode::UNAUTHORIZED).then_some("Bearer");
        assert_eq!(self.header("www-authenticate"), challenge);
        assert!(!json["message"].as_str().unwrap().is_empty());
        (self.status.as_u16(), json["code"].as_str().unwrap().to_owned(), info.reason.clone())
    }

    /// The details of an error by Connect, as gRPC would have shown them.
    pub(crate) fn details(&self) -> ErrorDetails {
        let details = self.json()["details"].as_array().cloned().unwrap_or_default();
        let details = details
            .iter()
            .map(|detail| prost_types::Any {
                type_url: format!("type.googleapis.com/{}", detail["type"].as_str().unwrap()),
                value: STANDARD_NO_PAD.decode(detail["value"].as_str().unwrap()).unwrap(),
            })
            .collect();
        let status = tonic_types::Status { code: 13, message: String::new(), details };
        tonic::Status::with_details(tonic::Code::Internal, "", status.encode_to_vec().into()).get_error_details()
    }

    pub(crate) fn violated_fields(&self) -> Vec<String> {
        let details = self.details();
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }
}
