//! One connection: how it is opened, encrypted, driven and closed, and how a statement runs on it. Knows no statement.

use std::{
    error::Error,
    fmt,
    future::{Future, poll_fn},
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use diesel_async::{AsyncPgConnection, methods::LoadQuery};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::Notify,
    task::AbortHandle,
};
use tokio_postgres::{
    AsyncMessage, Client, Config,
    config::{SslMode, SslNegotiation},
    tls::{MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    Options, TlsError, UrlError,
    failure::{Answer, Failure, Intent},
    observer::{Observed, Observer, Plain},
    server, tls,
    url::{Encryption, Target},
};

/// A connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The server could not be reached, or refused.
    #[error("PostgreSQL cannot be reached, or refused the connection")]
    Connect(#[source] tokio_postgres::Error),
    /// The socket could not be opened.
    #[error("PostgreSQL's socket cannot be opened")]
    Socket(#[source] io::Error),
    /// The new connection failed at once.
    #[error("a new connection to PostgreSQL could not be set up")]
    Setup(#[source] Box<dyn Error + Send + Sync>),
    /// It took too long.
    #[error("PostgreSQL did not accept a connection in time")]
    TimedOut,
}

impl ConnectionError {
    /// Whether the same attempt may succeed later without anybody changing a setting: the server cannot be reached, is starting or
    /// stopping, or has no connection left.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect(error) => match error.as_db_error() {
                // insufficient_resources, operator_intervention.
                Some(error) => matches!(error.code().code().as_bytes(), [b'5', b'3' | b'7', ..]),
                None => is_of_the_network(error),
            },
            Self::Socket(_) | Self::TimedOut => true,
            Self::Setup(_) => false,
        }
    }
}

/// Whether the operating system reported the error, or the connection ended: not TLS, and not the driver's own view of a setting.
fn is_of_the_network(error: &tokio_postgres::Error) -> bool {
    let causes = std::iter::successors(Error::source(error), |error| (*error).source());
    causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|error| error.get_ref().is_none())
        || error.is_closed()
}

/// Opens connections.
pub(crate) struct Connector {
    target: Target,
    tls: Option<MakeRustlsConnect>,
    options: Options,
    /// How often all connections of the time were distrusted.
    generation: AtomicU64,
    /// Told of each notification that comes on any of the connections.
    heard: Arc<Notify>,
}

/// A connection, with what was seen on it.
pub(crate) struct Connection {
    pg: AsyncPgConnection,
    observer: Arc<Observer>,
    /// A statement has been sent and its answer has not been read to the end.
    busy: bool,
    /// The connector's when the connection was asked for.
    generation: u64,
    driver: AbortHandle,
}

impl Connection {
    /// Runs a statement, and reads its answer to the end. Afterwards, or where this is dropped half-way,
    /// [`Connection::is_usable`] says whether another may follow; a connection that is not usable is to be dropped, never
    /// cancelled: a commit that is cancelled while it waits for its standby reports success.
    pub(crate) async fn run<Q, R>(
        &mut self,
        statement: Q,
        intent: Intent,
        time_limit: Duration,
    ) -> Result<Vec<R>, Failure>
    where
        Q: LoadQuery<'static, AsyncPgConnection, R> + Send + 'static,
        R: Send + 'static,
    {
        // Here alone: it lends a `load` to every type.
        use diesel_async::RunQueryDsl as _;

        self.busy = true;
        self.observer.take_error();
        let sent_before = self.observer.sent();
        // All rows are read, and with them the message that follows the commit: the server sends the rows of a statement
        // before it commits, so that `get_result`, which stops at the first row, would report what may still fail.
        let answer = tokio::time::timeout(time_limit, statement.load::<R>(&mut self.pg)).await;
        let error = match answer {
            Ok(Ok(rows)) => {
                self.busy = false;
                return Ok(rows);
            }
            Ok(Err(error)) => Some(error),
            Err(_elapsed) => None,
        };
        let state = self.observer.take_error();
        let was_sent = self.observer.sent() != sent_before;
        let (failure, reusable) = Answer { error, state, was_sent, intent }.into_failure();
        self.busy = !reusable;
        Err(failure)
    }

    /// What was seen on the connection.
    pub(crate) fn observer(&self) -> Arc<Observer> {
        Arc::clone(&self.observer)
    }

    /// Whether a statement may be sent: no answer is outstanding, and the connection was not seen to end.
    pub(crate) fn is_usable(&self) -> bool {
        !self.busy && !self.observer.is_closed()
    }
}

impl Deref for Connection {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.pg
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.pg
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("observer", &self.observer).field("busy", &self.busy).finish_non_exhaustive()
    }
}

/// Whatever is unanswered is abandoned: the socket is closed at once.
impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The URL or its encryption cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Encryption cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Connector {
    pub(crate) fn new(url: &str, options: Options) -> Result<Self, TargetError> {
        let target = Target::parse(url, &options)?;
        let tls = tls::connector(&target.encryption)?;
        Ok(Self { target, tls, options, generation: AtomicU64::new(0), heard: Arc::default() })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// From now on, no connection is trusted that was opened until now.
    pub(crate) fn distrust(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the connection was asked for after all were last distrusted.
    pub(crate) fn trusts(&self, connection: &Connection) -> bool {
        connection.generation == self.generation.load(Ordering::Acquire)
    }

    /// Told of each notification that comes on any of the connections.
    pub(crate) fn heard(&self) -> &Notify {
        &self.heard
    }

    /// Opens a connection, on this task's runtime.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectionError> {
        let attempt = async {
            match (&self.target.encryption, &self.tls) {
                (Encryption::Preferred, Some(tls)) if self.target.socket.is_none() => {
                    match self.attempt(Some(tls)).await {
                        // Only the server itself can refuse; every other failure may be one of encryption.
                        Err(ConnectionError::Connect(error)) if error.as_db_error().is_none() => {
                            self.attempt(None).await
                        }
                        result => result,
                    }
                }
                (_, tls) => self.attempt(tls.as_ref()).await,
            }
        };
        tokio::time::timeout(self.options.connect_timeout, attempt).await.unwrap_or(Err(ConnectionError::TimedOut))
    }

    async fn attempt(&self, tls: Option<&MakeRustlsConnect>) -> Result<Connection, ConnectionError> {
        let observer = Arc::new(Observer::default());
        let generation = self.generation.load(Ordering::Acquire);
        if let Some((folder, port)) = &self.target.socket {
            // Nobody can listen on a socket of this machine but its administrator: it is never encrypted, as in libpq.
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let socket = UnixStream::connect(path).await.map_err(ConnectionError::Socket)?;
            let transport = Transport { tls: None, observer: Arc::clone(&observer), host: String::new() };
            let opened = self.config(None).connect_raw(socket, transport).await;
            let (client, connection) = opened.map_err(ConnectionError::Connect)?;
            return self.drive(client, connection, observer, generation).await;
        }
        let transport = MakeTransport { tls: tls.cloned(), observer: Arc::clone(&observer) };
        let opened = self.config(tls).connect(transport).await;
        let (client, connection) = opened.map_err(ConnectionError::Connect)?;
        self.drive(client, connection, observer, generation).await
    }

    async fn drive<S, T>(
        &self,
        client: Client,
        connection: tokio_postgres::Connection<S, T>,
        observer: Arc<Observer>,
        generation: u64,
    ) -> Result<Connection, ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let driver = tokio::spawn(drive(connection, Arc::clone(&self.heard))).abort_handle();
        match AsyncPgConnection::try_from(client).await {
            Ok(pg) => {
                let mut connection = Connection { pg, observer, busy: false, generation, driver };
                let prepared = server::prepare_session(&mut connection).await;
                prepared.map_err(|error| ConnectionError::Setup(error.into()))?;
                Ok(connection)
            }
            Err(error) => {
                driver.abort();
                Err(ConnectionError::Setup(error.into()))
            }
        }
    }

    /// Every stream goes through a [`Transport`], which encrypts it or not. Where it does not, "direct negotiation" makes the
    /// driver ask the server nothing about encryption.
    fn config(&self, tls: Option<&MakeRustlsConnect>) -> Config {
        let mut config = self.target.config.clone();
        config.ssl_mode(SslMode::Require);
        if tls.is_none() {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        config
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.target)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Moves what is sent and received, until the connection ends.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, heard: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notification(_)) => heard.notify_one(),
            Ok(AsyncMessage::Notice(notice)) => {
                tracing::debug!(severity = notice.severity(), message = notice.message(), "PostgreSQL notes");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection to PostgreSQL ended");
                return;
            }
        }
    }
}

struct MakeTransport {
    tls: Option<MakeRustlsConnect>,
    observer: Arc<Observer>,
}

struct Transport {
    tls: Option<MakeRustlsConnect>,
    observer: Arc<Observer>,
    host: String,
}

impl<S> MakeTlsConnect<S> for MakeTransport
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Observed;
    type TlsConnect = Transport;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Transport, io::Error> {
        Ok(Transport { tls: self.tls.clone(), observer: Arc::clone(&self.observer), host: host.to_owned() })
    }
}

impl<S> TlsConnect<S> for Transport
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Observed;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Observed>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            match self.tls {
                None => Ok(Observed::new(Plain(stream), self.observer)),
                Some(mut tls) => Ok(Observed::new(encrypt(&mut tls, &self.host, stream).await?, self.observer)),
            }
        })
    }
}

async fn encrypt<S>(tls: &mut MakeRustlsConnect, host: &str, stream: S) -> io::Result<impl TlsStream + Send + 'static>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connect = MakeTlsConnect::<S>::make_tls_connect(tls, host).unwrap_or_else(|never| match never {});
    connect.connect(stream).await
}
