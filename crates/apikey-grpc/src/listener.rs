//! Connections: accepted, limited, kept alive, drained. HTTP/1.1 and HTTP/2 on one port, in clear text or by TLS.
//!
//! Knows nothing of what is served.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::watch,
    task::JoinSet,
};

use activity::{Activity, Tracked};
use connections::{Connections, Opened};
use heads::{HeadTimer, Reads};
use linger::Lingering;

pub(crate) use activity::Waits;

use crate::TlsIdentity;

mod activity;
mod connections;
mod date;
mod heads;
mod hosts;
mod linger;

pub use hosts::{MISDIRECTED, is_local};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The network address of whoever opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The peer's address; of IPv6 the network of 64 bits, of which one peer has as many addresses as it likes.
pub(crate) fn network(PeerAddress(address): PeerAddress) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// How much one listener takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// What the listener is called in metrics.
    pub name: &'static str,
    /// Connections at once. For those above, the one makes room that has been without a call for longest; where each has a call in
    /// flight, they wait in the kernel's queue, unaccepted, until one ends.
    pub connections: usize,
    /// Connections at once of one peer's address, of IPv6 of one /64. For those above, one of its own makes room.
    pub connections_per_peer: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// The largest list of headers, in bytes. For HTTP/1.1, where it bounds the read buffer, at least 8 KiB.
    pub header_list: u32,
    /// How often a silent HTTP/2 connection is asked for a sign of life.
    pub keep_alive: Duration,
    /// How long that sign may take.
    pub keep_alive_timeout: Duration,
    /// How long a new connection may take for its TLS handshake, how long until its first request is there, and how long an HTTP/1.1
    /// connection for the headers of each, from their first byte on.
    pub header_timeout: Duration,
    /// After how long without a request a connection is closed, gracefully; it may be an eighth more. HTTP/1.1 answers announce it,
    /// in whole seconds, as `keep-alive: timeout=…`.
    pub idle_timeout: Duration,
    /// How long requests in flight have to finish when the listener shuts down.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    /// 1024 connections, 512 of one peer, of 100 streams, 16 KiB of headers, 30 s keep-alive and 10 s for its answer, 10 s for headers,
    /// 11 min idle, 8 s to drain.
    ///
    /// A load balancer must close idle connections before the service does, or it sends requests into connections that are being
    /// closed. Google's keeps them for 600 s, AWS's for 60 s.
    fn default() -> Self {
        Self {
            name: "-",
            connections: 1024,
            connections_per_peer: 512,
            streams: 100,
            header_list: 16 * 1024,
            keep_alive: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(11),
            drain: Duration::from_secs(8),
        }
    }
}

/// Streams that a peer may open and reset before we have looked at them: h2's own answer to rapid reset (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// Streams that we may have reset for the peer's mistakes, before the connection goes (CVE-2019-9514 and its kin).
const MAX_ERROR_RESETS: usize = 256;
/// Bytes that wait for a slow reader, on each stream.
const MAX_SEND_BUFFER: usize = 256 * 1024;
/// Bytes that a peer may send ahead of being read, on each stream and on the connection: one message and its frames, and ten.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The most headers in an HTTP/1.1 request.
const MAX_HEADERS: usize = 64;
/// The least that hyper allows for the read buffer of an HTTP/1.1 connection.
const MIN_READ_BUFFER: usize = 8 * 1024;
/// How long to wait after a failed accept: out of descriptors, mostly, and no better at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a listener ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open when the time to drain was over, and were cut.
    pub cut: usize,
}

/// Serves connections in clear text; otherwise as [`serve_with`].
///
/// # Cancel safety
/// Dropping the future cuts all connections.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: impl Fn(PeerAddress) -> S,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
) -> Drained
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    serve_with(listener, None, service, limits, shutdown).await
}

/// Serves connections on the runtime that this is called on; otherwise as [`serve_on`].
///
/// # Cancel safety
/// Dropping the future cuts all connections.
pub async fn serve_with<S, B>(
    listener: TcpListener,
    tls: Option<TlsIdentity>,
    service: impl Fn(PeerAddress) -> S,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
) -> Drained
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    serve_on(Vec::new(), listener, tls, service, limits, shutdown).await
}

/// Serves connections, by TLS where there is an identity, until `shutdown` is ready; then accepts no more, tells each peer
/// (GOAWAY), lets requests in flight finish within [`ConnectionLimits::drain`], and cuts the rest.
///
/// `service` makes the service of each connection.
///
/// Connections are accepted on the runtime that this is called on, and handed to the `workers` in turn: a connection and all its
/// calls stay on one of them. Without any they stay where they were accepted.
///
/// # Cancel safety
/// Dropping the future cuts all connections.
pub async fn serve_on<S, B>(
    workers: Vec<Handle>,
    listener: TcpListener,
    tls: Option<TlsIdentity>,
    service: impl Fn(PeerAddress) -> S,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()>,
) -> Drained
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let http = Arc::new(http(&limits));
    let open = Connections::new(limits.name, limits.connections, limits.connections_per_peer);
    let (closing, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut in_turn = workers.iter().cycle();
    let mut shutdown = std::pin::pin!(shutdown);
    {
        // Never dropped half-way: a connection that waits for room would be lost.
        let mut accepting = std::pin::pin!(accept(&listener, &open));
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                (stream, peer, opened, activity) = &mut accepting => {
                    accepting.set(accept(&listener, &open));
                    let closing = closing.subscribe();
                    let connection = Connection { http: Arc::clone(&http), limits, closing, opened, activity };
                    let (tls, service) = (tls.clone(), service(PeerAddress(peer)));
                    match in_turn.next() {
                        None => connections.spawn(connection.open(stream, tls, peer, service)),
                        Some(worker) => {
                            connections.spawn_on(connection.move_and_open(stream, tls, peer, service), worker)
                        }
                    };
                }
            }
        }
    }
    drop(listener);
    closing.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(limits.drain, all_ended).await;
    let cut = connections.len();
    if cut > 0 {
        tracing::warn!(connections = cut, "connections were cut: their requests did not finish in time");
        connections.shutdown().await;
    }
    Drained { cut }
}

/// How HTTP is spoken within these limits. The `Date` of answers is the service's to add.
#[must_use]
pub fn http(limits: &ConnectionLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let header_list = usize::try_from(limits.header_list).unwrap_or(usize::MAX);
    builder
        .http1()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .header_read_timeout(limits.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(header_list.max(MIN_READ_BUFFER));
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_list)
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive_timeout)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, open: &Arc<Connections>) -> (TcpStream, SocketAddr, Opened, Activity) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let activity = Activity::new();
                if let Some(opened) = open.open(PeerAddress(peer), &activity).await {
                    return (stream, peer, opened, activity);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    http: Arc<Builder<TokioExecutor>>,
    limits: ConnectionLimits,
    closing: watch::Receiver<bool>,
    /// Held until the connection ends.
    opened: Opened,
    activity: Activity,
}

impl Connection {
    /// Opens a connection that was accepted on another runtime.
    async fn move_and_open<S, B>(self, stream: TcpStream, tls: Option<TlsIdentity>, peer: SocketAddr, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        match stream.into_std().and_then(TcpStream::from_std) {
            Ok(stream) => self.open(stream, tls, peer, service).await,
            Err(error) => tracing::warn!(%peer, %error, "a connection could not be handed on"),
        }
    }

    async fn open<S, B>(self, stream: TcpStream, tls: Option<TlsIdentity>, peer: SocketAddr, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        // Answers are small and wanted at once; that it cannot be set is no reason not to serve.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.serve(stream, peer, service).await };
        let mut closing = self.closing.clone();
        let handshake = tokio::time::timeout(self.limits.header_timeout, tls.accept(stream));
        let outcome = tokio::select! {
            outcome = handshake => outcome,
            () = self.opened.makes_room() => return,
            () = async { drop(closing.wait_for(|closing| *closing).await) } => return,
        };
        match outcome {
            Ok(Ok(stream)) => self.serve(stream, peer, service).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
        }
    }

    async fn serve<I, S, B>(self, stream: I, peer: SocketAddr, service: S)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let Self { http, limits, mut closing, opened, activity } = self;
        let reads = Reads::default();
        let service = Tracked::new(service, activity.clone(), limits.idle_timeout);
        let mut http = Builder::clone(&http);
        http.http1().timer(HeadTimer::new(reads.clone(), limits.header_timeout));
        let stream = TokioIo::new(Lingering::new(stream, reads.clone()));
        let mut connection = std::pin::pin!(http.serve_connection(stream, service));
        let outcome = tokio::select! {
            outcome = drive(connection.as_mut(), &reads) => outcome,
            () = async { drop(closing.wait_for(|closing| *closing).await) } => {
                connection.as_mut().graceful_shutdown();
                drive(connection, &reads).await
            }
            () = opened.makes_room() => {
                // At once: somebody waits.
                tracing::debug!(%peer, "the connection makes room for another one");
                return;
            }
            () = activity.idle(limits.header_timeout, limits.idle_timeout) => {
                connection.as_mut().graceful_shutdown();
                // A peer that says nothing does not say goodbye either.
                tokio::time::timeout(limits.drain, drive(connection, &reads)).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = outcome {
            // Peers that break off or break the protocol: theirs to know, ours to see when we look for it.
            tracing::debug!(%peer, error, "the connection ended with an error");
        }
    }
}

/// Carries a connection on until it ends, or until its protocol cannot be spoken any more.
async fn drive<C, E>(mut connection: Pin<&mut C>, reads: &Reads) -> Result<(), BoxError>
where
    C: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    poll_fn(|context| {
        if reads.is_http1() && date::is_impossible() {
            return Poll::Ready(Err(date::IMPOSSIBLE.into()));
        }
        connection.as_mut().poll(context).map_err(Into::into)
    })
    .await
}
