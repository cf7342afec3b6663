//! How connections are opened, encrypted and driven. Knows no statement.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use diesel_async::AsyncPgConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::Notify,
    time::Instant,
};
use tokio_postgres::{
    AsyncMessage, Client, Config,
    config::{SslMode, SslNegotiation},
    tls::{MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    Options, TlsError, UrlError,
    connection::{Connection, ConnectionError},
    failure::{NoPreparedStatements, lacks_prepared_statements},
    observer::{Observed, Observer, Plain},
    server, tls,
    url::{Encryption, Target},
};

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

/// Where to connect to, as whom and how, as one URL says it.
struct Endpoint {
    /// To notice that another one is in its place.
    url: Box<str>,
    target: Target,
    tls: Option<MakeRustlsConnect>,
}

impl Endpoint {
    fn new(url: &str, options: &Options) -> Result<Self, TargetError> {
        let target = Target::parse(url, options)?;
        let tls = tls::connector(&target.encryption, target.client_certificate.as_ref())?;
        Ok(Self { url: url.into(), target, tls })
    }
}

/// How long the server is not asked for another connection after it refused one while others were open.
const FULL: Duration = Duration::from_secs(1);

/// Opens connections.
pub(crate) struct Connector {
    endpoint: Mutex<Arc<Endpoint>>,
    options: Options,
    /// How often all connections of the time were distrusted.
    generation: AtomicU64,
    /// How many connections of the pool are being opened.
    opening: AtomicUsize,
    /// Until when the server is not asked for another connection, since it refused one.
    full_until: Mutex<Option<Instant>>,
    /// Told of each notification that comes on any of the connections.
    heard: Arc<Notify>,
}

impl Connector {
    pub(crate) fn new(url: &str, options: Options) -> Result<Self, TargetError> {
        let endpoint = Mutex::new(Arc::new(Endpoint::new(url, &options)?));
        Ok(Self {
            endpoint,
            options,
            generation: AtomicU64::new(0),
            opening: AtomicUsize::new(0),
            full_until: Mutex::default(),
            heard: Arc::default(),
        })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Whether nobody can stand in between, or the server has to prove who it is; otherwise the value of `sslmode`.
    pub(crate) fn protection(&self) -> Result<(), &'static str> {
        let Endpoint { target, .. } = &*self.endpoint();
        if target.is_protected() { Ok(()) } else { Err(target.encryption.mode()) }
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on, no connection is trusted that was opened until now.
    pub(crate) fn distrust(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the connection was asked for after all were last distrusted.
    pub(crate) fn trusts(&self, connection: &Connection) -> bool {
        connection.generation() == self.generation.load(Ordering::Acquire)
    }

    /// Told of each notification that comes on any of the connections.
    pub(crate) fn heard(&self) -> &Notify {
        &self.heard
    }

    /// As [`Connector::connect`], for the pool.
    pub(crate) async fn connect_for_pool(&self) -> Result<Connection, ConnectionError> {
        let _opening = Opening::of(&self.opening);
        self.connect().await
    }

    /// Whether connections of the pool are being opened.
    pub(crate) fn is_opening(&self) -> bool {
        self.opening.load(Ordering::Acquire) > 0
    }

    /// Notes that another connection was refused while others were open.
    pub(crate) fn refused(&self, error: &ConnectionError) {
        if matches!(error, ConnectionError::Full) {
            return;
        }
        tracing::debug!(
            error = error as &dyn std::error::Error,
            "another connection was refused: those that are open are waited for"
        );
        *self.full_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + FULL);
    }

    /// Whether another connection was refused a moment ago.
    pub(crate) fn is_full(&self) -> bool {
        let full_until = *self.full_until.lock().unwrap_or_else(PoisonError::into_inner);
        full_until.is_some_and(|until| Instant::now() < until)
    }

    /// Asks the server again, since no connection is open any more.
    pub(crate) fn is_not_full(&self) {
        *self.full_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Opens a connection, on this task's runtime. Where that fails and the URL has changed meanwhile, the new one is tried.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectionError> {
        let endpoint = self.endpoint();
        let opened = self.connect_to(&endpoint).await;
        if opened.is_err()
            && let Some(changed) = self.changed(&endpoint).await
        {
            return self.connect_to(&changed).await;
        }
        opened
    }

    /// Reads the URL again, where it stands in a file: the next connection is opened by what it says.
    pub(crate) async fn read_url_again(&self) {
        let endpoint = self.endpoint();
        self.changed(&endpoint).await;
    }

    /// The endpoint of the URL as it is now, if it is another one than that.
    async fn changed(&self, endpoint: &Endpoint) -> Option<Arc<Endpoint>> {
        let source = self.options.url_source.clone()?;
        let url = tokio::task::spawn_blocking(move || source.read()).await.ok()??;
        if *url == *endpoint.url {
            return None;
        }
        match Endpoint::new(&url, &self.options) {
            Ok(changed) => {
                tracing::info!("the database's URL has changed, and is used from now on");
                let changed = Arc::new(changed);
                *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&changed);
                Some(changed)
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the database's URL has changed, and the new one cannot be used"
                );
                None
            }
        }
    }

    async fn connect_to(&self, endpoint: &Endpoint) -> Result<Connection, ConnectionError> {
        let attempt = async {
            let Endpoint { target, tls, .. } = endpoint;
            let (mode, tls) = (&target.encryption, tls.as_ref().filter(|_| target.socket.is_none()));
            let offered = Arc::new(AtomicBool::new(false));
            match self.attempt(target, tls, &offered).await {
                // The server answered, and was never asked to prove anything: it offers no TLS. What fails once it was offered
                // is never repeated in clear text.
                Err(ConnectionError::Connect(error))
                    if tls.is_some() && !offered.load(Ordering::Acquire) && error.as_db_error().is_none() =>
                {
                    if *mode == Encryption::Preferred {
                        self.attempt(target, None, &offered).await
                    } else if is_without_tls(&error) {
                        Err(ConnectionError::NoTls { mode: mode.mode() })
                    } else {
                        Err(ConnectionError::Connect(error))
                    }
                }
                result => result,
            }
        };
        let limit = endpoint.target.connect_timeout;
        tokio::time::timeout(limit, attempt).await.unwrap_or(Err(ConnectionError::TimedOut))
    }

    async fn attempt(
        &self,
        target: &Target,
        tls: Option<&MakeRustlsConnect>,
        offered: &Arc<AtomicBool>,
    ) -> Result<Connection, ConnectionError> {
        let observer = Arc::new(Observer::new(target.is_protected()));
        let generation = self.generation.load(Ordering::Acquire);
        let offered = Arc::clone(offered);
        if let Some((folder, port)) = &target.socket {
            // Nobody can listen on a socket of this machine but its administrator: it is never encrypted, as in libpq.
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let socket = UnixStream::connect(path).await.map_err(ConnectionError::Socket)?;
            let transport = Transport { tls: None, observer: Arc::clone(&observer), offered, host: String::new() };
            let opened = config(target, None).connect_raw(socket, transport).await;
            let (client, connection) = opened.map_err(ConnectionError::of)?;
            return self.drive(client, connection, observer, generation).await;
        }
        let transport = MakeTransport { tls: tls.cloned(), observer: Arc::clone(&observer), offered };
        let opened = config(target, tls).connect(transport).await;
        let (client, connection) = opened.map_err(ConnectionError::of)?;
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
        let seen = Arc::clone(&observer);
        match AsyncPgConnection::try_from(client).await {
            Ok(pg) => {
                let mut connection = Connection::new(pg, observer, generation, driver);
                match server::prepare_session(&mut connection).await {
                    Ok(()) => Ok(connection),
                    Err(error) => Err(ConnectionError::Setup(error.into())),
                }
            }
            Err(error) => {
                driver.abort();
                // The driver's first statements are prepared too.
                Err(if seen.take_error().is_some_and(lacks_prepared_statements) {
                    NoPreparedStatements(error.into()).into()
                } else {
                    ConnectionError::Setup(error.into())
                })
            }
        }
    }
}

/// Counts while it lives.
struct Opening<'a>(&'a AtomicUsize);

impl<'a> Opening<'a> {
    fn of(opening: &'a AtomicUsize) -> Self {
        opening.fetch_add(1, Ordering::AcqRel);
        Self(opening)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Every stream goes through a [`Transport`], which encrypts it or not. Where it does not, "direct negotiation" makes the driver
/// ask the server nothing about encryption.
fn config(target: &Target, tls: Option<&MakeRustlsConnect>) -> Config {
    let mut config = target.config.clone();
    config.ssl_mode(SslMode::Require);
    if tls.is_none() {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    config
}

/// Whether the server refused TLS, which the driver says in words alone.
fn is_without_tls(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.to_string() == "server does not support TLS")
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.endpoint().target)
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
    /// The server has agreed to encrypt.
    offered: Arc<AtomicBool>,
}

struct Transport {
    tls: Option<MakeRustlsConnect>,
    observer: Arc<Observer>,
    offered: Arc<AtomicBool>,
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
        Ok(Transport {
            tls: self.tls.clone(),
            observer: Arc::clone(&self.observer),
            offered: Arc::clone(&self.offered),
            host: host.to_owned(),
        })
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
            self.offered.store(true, Ordering::Release);
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
