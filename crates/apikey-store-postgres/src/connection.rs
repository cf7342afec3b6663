//! One connection: how it is opened, encrypted, driven and closed. Knows no statement.

use std::{
    fmt,
    future::Future,
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::Arc,
};

use diesel_async::AsyncPgConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    task::AbortHandle,
};
use tokio_postgres::{
    Client, Config,
    config::{SslMode, SslNegotiation},
    tls::{MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    Options, TlsError, UrlError,
    observer::{Observed, Observer, Plain},
    tls,
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
    Setup(#[source] diesel::ConnectionError),
    /// It took too long.
    #[error("PostgreSQL did not accept a connection in time")]
    TimedOut,
}

/// Opens connections.
pub(crate) struct Connector {
    target: Target,
    tls: Option<MakeRustlsConnect>,
    options: Options,
}

/// A connection, with what was seen on it.
pub(crate) struct Connection {
    pg: AsyncPgConnection,
    pub(crate) observer: Arc<Observer>,
    /// A statement has been sent and its answer has not been read to the end.
    pub(crate) busy: bool,
    driver: AbortHandle,
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
        Ok(Self { target, tls, options })
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
        if let Some((folder, port)) = &self.target.socket {
            // Nobody can listen on a socket of this machine but its administrator: it is never encrypted, as in libpq.
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let socket = UnixStream::connect(path).await.map_err(ConnectionError::Socket)?;
            let transport = Transport { tls: None, observer: Arc::clone(&observer), host: String::new() };
            let opened = self.config(None).connect_raw(socket, transport).await;
            let (client, connection) = opened.map_err(ConnectionError::Connect)?;
            return drive(client, connection, observer).await;
        }
        let transport = MakeTransport { tls: tls.cloned(), observer: Arc::clone(&observer) };
        let opened = self.config(tls).connect(transport).await;
        let (client, connection) = opened.map_err(ConnectionError::Connect)?;
        drive(client, connection, observer).await
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

async fn drive(
    client: Client,
    connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
    observer: Arc<Observer>,
) -> Result<Connection, ConnectionError> {
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection to PostgreSQL ended");
        }
    })
    .abort_handle();
    match AsyncPgConnection::try_from(client).await {
        Ok(pg) => Ok(Connection { pg, observer, busy: false, driver }),
        Err(error) => {
            driver.abort();
            Err(ConnectionError::Setup(error))
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
