//! A caller that speaks gRPC by hand, so that nothing of the client's own hides what is on the wire. Every answer that it
//! receives is checked for what every answer must have.

use std::{convert::Infallible, net::SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub(crate) const CREATE: &str = "/pidgr.v1.ApiKeyService/CreateApiKey";
pub(crate) const LIST: &str = "/pidgr.v1.ApiKeyService/ListApiKeys";
pub(crate) const REVOKE: &str = "/pidgr.v1.ApiKeyService/RevokeApiKey";
pub(crate) const VERIFY: &str = "/pidgr.v1.ApiKeyVerificationService/VerifyApiKey";

pub(crate) type WireBody = BoxBody<Bytes, Infallible>;

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Wire {
    requests: SendRequest<WireBody>,
    pub(crate) local: SocketAddr,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        let (requests, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { requests, local }
    }

    /// Calls with one message and these headers.
    pub(crate) async fn call(&self, path: &str, headers: &[(&str, &str)], message: &impl Message) -> Answer {
        let body = Full::new(frame(&message.encode_to_vec())).boxed();
        self.try_call(path, headers, body).await.unwrap()
    }

    /// Calls as whoever that credential stands for.
    pub(crate) async fn call_as(&self, credential: &str, path: &str, message: &impl Message) -> Answer {
        self.call(path, &[("x-api-key", credential)], message).await
    }

    /// Calls with any body; fails where there is no answer.
    pub(crate) async fn try_call(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: WireBody,
    ) -> Result<Answer, hyper::Error> {
        let mut request = Request::post(format!("http://service.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let answer = self.send(request).await?;
        answer.check();
        Ok(answer)
    }

    pub(crate) async fn send(&self, request: Request<WireBody>) -> Result<Answer, hyper::Error> {
        let mut requests = self.requests.clone();
        requests.ready().await?;
        let response = requests.send_request(request).await?;
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer { http: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }
}

/// A message as gRPC frames it: not compressed, its length, its bytes.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    framed.freeze()
}

impl Answer {
    /// Every answer has a request id; every error has its details, and they name the same request.
    fn check(&self) {
        let request_id = self.request_id();
        assert!(!request_id.is_empty());
        if self.http == StatusCode::OK && self.code() != Code::Ok {
            let details = self.details();
            let info = details.error_info().expect("an error has ErrorInfo");
            assert_eq!(info.domain, "pidgr.com");
            assert!(info.reason.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{}", info.reason);
            assert_eq!(details.request_info().expect("an error has RequestInfo").request_id, request_id);
            assert!(!self.status().message().is_empty());
        }
        let challenge = self.headers.get("www-authenticate").map(|value| value.to_str().unwrap());
        assert_eq!(challenge, (self.code() == Code::Unauthenticated).then_some("Bearer"));
    }

    pub(crate) fn status(&self) -> Status {
        Status::from_header_map(&self.headers)
            .or_else(|| Status::from_header_map(&self.trailers))
            .unwrap_or_else(|| Status::unknown("there is no status"))
    }

    pub(crate) fn code(&self) -> Code {
        self.status().code()
    }

    pub(crate) fn details(&self) -> ErrorDetails {
        self.status().get_error_details()
    }

    pub(crate) fn reason(&self) -> String {
        self.details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
    }

    pub(crate) fn request_id(&self) -> String {
        let mut ids = self.headers.get_all("x-request-id").iter();
        let id = ids.next().expect("an answer has a request id").to_str().unwrap().to_owned();
        assert_eq!(ids.next(), None);
        id
    }

    pub(crate) fn violated_fields(&self) -> Vec<String> {
        let details = self.details();
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    /// The one message of a successful answer.
    pub(crate) fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.code(), Code::Ok, "{:?}", self.status());
        let mut body = self.body.clone();
        assert_eq!(body.get_u8(), 0);
        let length = usize::try_from(body.get_u32()).unwrap();
        assert_eq!(body.len(), length);
        M::decode(body).unwrap()
    }
}
