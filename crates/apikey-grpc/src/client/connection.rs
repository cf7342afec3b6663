//! A connection to a service: one deadline from the look-up of the name to the answer, and plain words about a peer that is something
//! else than this service. Knows no message.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::RootCertStore;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tonic::{
    Status,
    body::Body,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tower::{BoxError, Service, ServiceExt as _, service_fn};
use zeroize::Zeroizing;

use super::{
    address::ServiceAddress,
    error::{ClientError, NotGrpc},
};

/// How often a silent connection is asked for a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Bytes that tell one protocol from another.
const GREETING: usize = 5;

/// A connection's deadlines, and what its peer said first.
#[derive(Clone)]
pub(super) struct Connection {
    encrypted: bool,
    timeout: Duration,
    /// When the call at work ends; the first one began with the look-up of the name.
    deadline: Instant,
    is_first: bool,
    greeting: Greeting,
}

/// Sends requests with a credential, and takes only answers of gRPC.
#[derive(Clone)]
pub(super) struct Caller {
    channel: Channel,
    credential: Option<HeaderValue>,
}

impl Connection {
    /// Connects; the first call has what is left of the time.
    pub(super) async fn open(
        address: &ServiceAddress,
        credential: Option<HeaderValue>,
        timeout: Duration,
    ) -> Result<(Caller, Self), ClientError> {
        let deadline = Instant::now() + timeout;
        let greeting = Greeting::default();
        let connection =
            Self { encrypted: address.is_encrypted(), timeout, deadline, is_first: true, greeting: greeting.clone() };
        let mut endpoint = Endpoint::from(address.uri()).http2_keep_alive_interval(KEEP_ALIVE);
        if connection.encrypted {
            let tls = ClientTlsConfig::new().trust_anchors(native_roots()?.roots);
            endpoint = endpoint.tls_config(tls).map_err(|error| ClientError::Unreachable(Box::new(error)))?;
        }
        let connecting = endpoint.connect_with_connector(connector(timeout, greeting));
        let channel = timeout_at(deadline, connecting).await.map_err(|_| ClientError::NotConnected(timeout))?;
        let channel = channel.map_err(|error| connection.explained(ClientError::connecting(Box::new(error))))?;
        Ok((Caller { channel, credential }, connection))
    }

    /// A request of the call that begins now.
    pub(super) fn request<M>(&mut self, message: M) -> tonic::Request<M> {
        if !std::mem::take(&mut self.is_first) {
            self.deadline = Instant::now() + self.timeout;
        }
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        request
    }

    /// The answer to that call.
    pub(super) async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<tonic::Response<T>, ClientError> {
        match timeout_at(self.deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.explained(ClientError::of(status, self.timeout))),
            Err(_) => Err(ClientError::TimedOut(self.timeout)),
        }
    }

    /// The error, or what the peer's first bytes say about it.
    fn explained(&self, error: ClientError) -> ClientError {
        match error {
            ClientError::Unreachable(source) => match (self.encrypted, self.greeting.protocol()) {
                (true, Some(Protocol::Http1 | Protocol::Other)) => {
                    ClientError::AnotherProtocol("it does not speak TLS there: is it http://?")
                }
                (false, Some(Protocol::Tls)) => ClientError::AnotherProtocol("it speaks TLS there: use https://"),
                // Whatever was sent may have been carried out all the same.
                (false, Some(Protocol::Silence)) => ClientError::Unreachable(
                    "it closed the connection without a word: where it speaks TLS, use https://".into(),
                ),
                (false, Some(Protocol::Http1)) => {
                    ClientError::AnotherProtocol("it speaks HTTP/1.1 there, and gRPC needs HTTP/2")
                }
                _ => ClientError::Unreachable(source),
            },
            error => error,
        }
    }
}

/// The credential as a header.
pub(super) fn bearer(credential: &str) -> Result<HeaderValue, ClientError> {
    let visible = !credential.is_empty() && credential.bytes().all(|byte| byte.is_ascii_graphic());
    let text = Zeroizing::new(format!("Bearer {credential}"));
    let value = HeaderValue::from_str(&text).ok().filter(|_| visible);
    // The error must not hold the credential, so that it holds nothing.
    let mut value = value.ok_or(ClientError::InvalidCredential)?;
    value.set_sensitive(true);
    Ok(value)
}

fn native_roots() -> Result<RootCertStore, ClientError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Whatever cannot be read or used is passed over, as long as something is left.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() { Err(ClientError::NoRootCertificates(found.errors.into_iter().next())) } else { Ok(roots) }
}

fn connector(
    timeout: Duration,
    greeting: Greeting,
) -> impl Service<
    Uri,
    Response = TokioIo<Listening>,
    Error = BoxError,
    Future = impl Future<Output = Result<TokioIo<Listening>, BoxError>> + Send,
> + Send
+ 'static {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // Shared by the addresses of a name, so that one that is silent does not take all of it.
    tcp.set_connect_timeout(Some(timeout));
    service_fn(move |uri: Uri| {
        let (tcp, greeting) = (tcp.clone(), greeting.clone());
        async move {
            greeting.forget();
            let stream = tcp.oneshot(uri).await?.into_inner();
            greeting.begin();
            Ok::<_, BoxError>(TokioIo::new(Listening { stream, greeting }))
        }
    })
}

/// The first bytes that came over a channel's latest connection; `None` while there is no connection.
#[derive(Clone, Default)]
struct Greeting(Arc<Mutex<Option<Vec<u8>>>>);

/// What a peer speaks.
enum Protocol {
    /// It said nothing before it closed the connection.
    Silence,
    Tls,
    Http1,
    Other,
}

impl Greeting {
    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    fn hear(&self, bytes: &[u8]) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard.get_or_insert_default();
        let missing = GREETING.saturating_sub(heard.len());
        heard.extend(bytes.iter().take(missing));
    }

    fn protocol(&self) -> Option<Protocol> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.as_ref()?.as_slice() {
            [] => Some(Protocol::Silence),
            // A record of TLS (RFC 8446, section 5.1): an alert or a handshake message.
            [0x15 | 0x16, 3, ..] => Some(Protocol::Tls),
            [b'H', b'T', b'T', b'P', ..] => Some(Protocol::Http1),
            _ => Some(Protocol::Other),
        }
    }
}

/// A connection whose first bytes are remembered.
struct Listening {
    stream: TcpStream,
    greeting: Greeting,
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.greeting.hear(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Service<Request<Body>> for Caller {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(credential) = &self.credential {
            request.headers_mut().insert(AUTHORIZATION, credential.clone());
        }
        let answer = self.channel.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let content_type = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            let is_grpc = content_type.is_some_and(|name| name.starts_with(b"application/grpc"));
            if is_grpc { Ok(answer) } else { Err(NotGrpc(answer.status()).into()) }
        })
    }
}
