//! `serve`: picks the store, wires the use cases to the listeners, and ends in the right order. Knows no rule.

mod admin;
mod detached;
mod shutdown;
mod usage;

use std::{convert::Infallible, fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use apikey_application::{
    Authenticator, IssueApiKey, ListApiKeys, Policy, RevokeApiKey, UsageLog, VerifyApiKey, ports::KeyStore,
};
use apikey_domain::pidgr;
use apikey_grpc::{
    AccessToken, CallLimits, Management, PublicService, RequestIds, Serving, TlsIdentity, VerificationService,
    listener::{self, ConnectionLimits},
};
use apikey_identity::JwtAuthenticator;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, runtime::Handle, task::JoinHandle, time::timeout};
use tower::service_fn;
use zeroize::Zeroizing;

use crate::{
    bootstrap,
    config::{Backend, ServerSettings, TlsFiles},
    failure::Failure,
    runtimes::{Runtimes, run_on},
    stores,
    system::{SystemClock, SystemEntropy},
    telemetry,
};
use admin::Admin;
use detached::Detached;
use shutdown::{Shutdown, StopSignals};

/// How long requests in flight may take to finish. With the limits below it stays within the 10 s that a stop may take.
const DRAIN: Duration = Duration::from_millis(6_500);
/// How long the last flush may take.
const LAST_FLUSH: Duration = Duration::from_millis(1_500);
/// How long calls to the store that nobody waits for any more may take.
const LAST_CALLS: Duration = Duration::from_millis(500);
/// How long the store may take to close.
const CLOSE: Duration = Duration::from_millis(500);
/// Connections to the admin listener: enough for scrapers and probes.
const ADMIN_CONNECTIONS: usize = 64;

/// Runs the service until it is told to stop.
///
/// # Errors
/// The store cannot be opened, or a listener cannot be bound.
pub(crate) fn run(settings: ServerSettings) -> Result<(), Failure> {
    let metrics = telemetry::start_metrics()?;
    let runtimes = Runtimes::start()?;
    let outcome = runtimes.block_on(pick(settings, &runtimes, metrics));
    runtimes.stop();
    Ok(outcome?)
}

/// Opens the one store or the other, serves, and closes it.
async fn pick(settings: ServerSettings, runtimes: &Runtimes, metrics: PrometheusHandle) -> anyhow::Result<()> {
    let (runtime, workers) = (runtimes.store().clone(), runtimes.serving());
    match settings.backend.clone() {
        Backend::Sqlite { directory } => {
            let (store, is_new) = run_on(&runtime, async move {
                let store = stores::open_sqlite(&directory).await?;
                let is_new = !store.any_keys().await?;
                Ok((store, is_new))
            })
            .await?;
            let outcome =
                serve(Detached::new(store.clone(), runtime.clone()), workers, is_new, &settings, metrics).await;
            close(&runtime, store.close()).await;
            outcome
        }
        Backend::Postgres { url, migrate, options } => {
            let (store, is_new) =
                run_on(&runtime, async move { stores::open_postgres(&url, migrate, options).await }).await?;
            serve(Detached::new(store, runtime.clone()), workers, is_new, &settings, metrics).await
        }
    }
}

async fn close(runtime: &Handle, closing: impl Future<Output = ()> + Send + 'static) {
    if timeout(CLOSE, runtime.spawn(closing)).await.is_err() {
        tracing::warn!("the store did not close in time");
    }
}

/// Serves from that store until the process is told to stop.
async fn serve<S: KeyStore>(
    store: Detached<S>,
    workers: Vec<Handle>,
    is_new: bool,
    settings: &ServerSettings,
    metrics: PrometheusHandle,
) -> anyhow::Result<()> {
    let store = Arc::new(store);
    let mut stop_signals = StopSignals::catch().context("signals cannot be caught")?;
    let tls = settings.tls.as_ref().map(tls_identity).transpose()?;
    let listeners = Listeners::bind(settings).await?;
    let usage = Arc::new(UsageLog::new());
    let services = Services::wire(&store, &usage, settings).await?;
    let admin = Arc::new(Admin::new(Arc::clone(&store), metrics.clone()));

    let (stop_serving, stop_admin) = (Shutdown::new(), Shutdown::new());
    let health = [services.public_health.clone(), services.verification_health.clone()];
    let addresses = listeners.addresses()?;
    let admin_service = service_fn({
        let admin = Arc::clone(&admin);
        move |request| {
            let answer = Arc::clone(&admin).answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        }
    });
    let admin_limits = ConnectionLimits { connections: ADMIN_CONNECTIONS, drain: CLOSE, ..ConnectionLimits::default() };
    let admin_task =
        tokio::spawn(listener::serve(listeners.admin, admin_service, admin_limits, stop_admin.requested()));
    let limits =
        ConnectionLimits { connections: settings.max_connections, drain: DRAIN, ..ConnectionLimits::default() };
    let serving = [
        tokio::spawn(listener::serve_on(
            workers.clone(),
            listeners.public,
            tls.clone(),
            services.public,
            limits,
            stop_serving.requested(),
        )),
        tokio::spawn(listener::serve_on(
            workers,
            listeners.verification,
            tls,
            services.verification,
            limits,
            stop_serving.requested(),
        )),
    ];
    let flushing = tokio::spawn(usage::flush_regularly(
        Arc::clone(&usage),
        Arc::clone(&store),
        settings.usage_flush_interval,
        metrics,
        stop_serving.requested(),
    ));

    greet(&store, is_new, settings.is_local()).await?;
    set_health(&health, true).await;
    let Addresses { public, verification, admin: admin_address } = addresses;
    tracing::info!(listen = %public, verify_listen = %verification, admin_listen = %admin_address, "serving");

    let signal = stop_signals.received().await;
    tracing::info!(signal, "stopping: requests in flight are finished");
    admin.stop_serving();
    set_health(&health, false).await;
    stop_serving.request();
    for task in serving {
        finished(task).await;
    }
    finished(flushing).await;
    if timeout(LAST_FLUSH, usage::flush_finally(&usage, &*store)).await.is_err() {
        tracing::warn!("the last uses could not be recorded in time");
    }
    if timeout(LAST_CALLS, store.idle()).await.is_err() {
        tracing::warn!("calls to the store did not end in time");
    }
    stop_admin.request();
    finished(admin_task).await;
    tracing::info!("stopped");
    Ok(())
}

/// On a new store that only this machine reaches: issues the first key. Otherwise says how to get one, if there is none.
async fn greet<S: KeyStore>(store: &Arc<Detached<S>>, is_new: bool, is_local: bool) -> anyhow::Result<()> {
    if is_new && is_local {
        return bootstrap::issue_at_first_start(Arc::clone(store)).await;
    }
    if is_new {
        tracing::warn!(
            "there is no key yet: run `apikeys bootstrap --organization NAME` (with SQLite, stop this first)"
        );
    }
    Ok(())
}

/// The listeners, bound and not yet served.
struct Listeners {
    public: TcpListener,
    verification: TcpListener,
    admin: TcpListener,
}

/// Where they really listen.
struct Addresses {
    public: SocketAddr,
    verification: SocketAddr,
    admin: SocketAddr,
}

impl Listeners {
    async fn bind(settings: &ServerSettings) -> anyhow::Result<Self> {
        Ok(Self {
            public: bind("listen", settings.listen).await?,
            verification: bind("verify_listen", settings.verify_listen).await?,
            admin: bind("admin_listen", settings.admin_listen).await?,
        })
    }

    fn addresses(&self) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            public: self.public.local_addr()?,
            verification: self.verification.local_addr()?,
            admin: self.admin.local_addr()?,
        })
    }
}

async fn bind(setting: &'static str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{setting}: {address} cannot be listened on"))
}

fn tls_identity(TlsFiles { certificate, key }: &TlsFiles) -> anyhow::Result<TlsIdentity> {
    let read = |name: &str, path: &Path| {
        fs::read(path).map(Zeroizing::new).with_context(|| format!("{name}: {} cannot be read", path.display()))
    };
    let (certificate, key) = (read("tls_certificate", certificate)?, read("tls_key", key)?);
    TlsIdentity::from_pem(&certificate, &key).context("tls_certificate and tls_key cannot be worked with")
}

/// What the listeners serve.
struct Services {
    public: PublicService,
    public_health: Serving,
    verification: VerificationService,
    verification_health: Serving,
}

impl Services {
    async fn wire<S: KeyStore>(
        store: &Arc<S>,
        usage: &Arc<UsageLog>,
        settings: &ServerSettings,
    ) -> anyhow::Result<Self> {
        let policy = Policy::pidgr();
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let verify =
            Arc::new(VerifyApiKey::new(Arc::clone(store), Arc::clone(&clock), Arc::clone(usage), policy.format));
        let tokens = match &settings.jwt {
            Some(jwt) => {
                let tokens = JwtAuthenticator::start(jwt, pidgr::CATALOGUE, SystemClock).await;
                Some(tokens.context("the settings jwt_… cannot be worked with")?)
            }
            None => None,
        };
        let management = Management {
            authenticator: Authenticator::new(Arc::clone(&verify), tokens),
            issue: IssueApiKey::new(Arc::clone(store), Arc::clone(&clock), Arc::clone(&entropy), policy.clone()),
            list: ListApiKeys::new(Arc::clone(store), policy.clone()),
            revoke: RevokeApiKey::new(Arc::clone(store), clock, policy),
        };
        let limits = CallLimits { concurrent_calls: settings.max_concurrent_requests, ..CallLimits::default() };
        let request_ids = RequestIds::new(&*entropy)?;
        let token = settings.verify_token.as_ref().map(|token| AccessToken::new(token)).transpose()?;
        let (public, public_health) = PublicService::new(management, request_ids.clone(), limits).await?;
        let public = public.for_origins(settings.cors_allowed_origins.clone());
        let (verification, verification_health) = VerificationService::new(verify, token, request_ids, limits).await?;
        Ok(Self { public, public_health, verification, verification_health })
    }
}

async fn set_health(listeners: &[Serving], serving: bool) {
    for listener in listeners {
        listener.set(serving).await;
    }
}

async fn finished<T>(task: JoinHandle<T>) {
    if task.await.is_err() {
        // The panic itself has been reported where it happened.
        tracing::error!("a task of the service ended early");
    }
}
