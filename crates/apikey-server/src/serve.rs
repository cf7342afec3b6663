//! `serve`: picks the store, wires the use cases to the listeners, and ends in the right order. Knows no rule.

mod admin;
mod detached;
mod listeners;
mod pulse;
mod reload;
mod replica;
mod shutdown;
mod turns;
mod usage;
mod vitals;

use std::{
    convert::Infallible,
    fs,
    io::{self, IsTerminal as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use apikey_application::{
    Asker, Attempts, Authenticator, CacheLimits, IssueApiKey, KeyCache, ListApiKeys, NobodyElse, OneProcess, Policy,
    RevokeApiKey, UsageLog, VerifyApiKey,
    fence::Lease,
    ports::{Clock, Confirmations, Entropy as _, KeyStore},
};
use apikey_domain::pidgr;
use apikey_grpc::{
    AccessToken, CallLimits, Management, PublicService, RequestIds, Serving, TlsIdentity, VerificationService, listener,
};
use apikey_identity::JwtAuthenticator;
use apikey_store_postgres::PostgresStore;
use hyper::service::service_fn;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{runtime::Handle, task::JoinHandle, time::timeout};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Decorate, bootstrap,
    config::{Backend, ServerSettings, TlsFiles},
    failure::Failure,
    runtimes::{Runtimes, run_on},
    signals::{ReloadSignals, Signals, StopSignals},
    stores,
    system::{DatabaseClock, SystemClock, SystemEntropy},
    telemetry,
};
use admin::Admin;
use detached::{Budget, Detached};
use listeners::{Addresses, CLOSE, DRAIN, Listeners, connection_limits};
use pulse::Pulse;
use reload::Reload;
use replica::Replica;
use shutdown::Shutdown;
use vitals::Vitals;

/// How long the last flush may take.
const LAST_FLUSH: Duration = Duration::from_millis(1_500);
/// How long calls to the store that nobody waits for any more may take.
const LAST_CALLS: Duration = Duration::from_millis(500);
/// How long a call may take; where it revokes, its confirmation may take longer.
const CALL: Duration = Duration::from_secs(5);
/// How much longer than the lease a confirmation may take, as [`Confirmation`](apikey_application::fence::Confirmation) says.
const CONFIRMATION_GRACE: Duration = Duration::from_secs(1);
/// How many reads SQLite carries out at once for keys that are not in memory: its connections stay free for others.
const SQLITE_READS: usize = 2;
const SQLITE_READS_FOR_STRANGERS: usize = 1;
/// Which part of the connections to PostgreSQL may be busy with such reads: for strangers an eighth, in all a half.
const PART_FOR_STRANGERS: usize = 8;
const PART_FOR_MISSES: usize = 2;
/// Calls of organizations that run on SQLite at once: as many as it has connections, its writer and the readers.
const SQLITE_TURNS: usize = 4;
/// Calls that may run on SQLite or wait for it: with the places of calls this is no limit that is met before theirs.
const SQLITE_CALLS: usize = 1_024;
/// Calls that may run on PostgreSQL or wait for a connection, for each connection of the pool. A call takes about a millisecond.
const CALLS_PER_CONNECTION: usize = 64;
/// Runs the service until it is told to stop.
///
/// # Errors
/// The store cannot be opened, or a listener cannot be bound.
pub(crate) fn run(settings: ServerSettings, decorate: &impl Decorate, signals: &Signals) -> Result<(), Failure> {
    let metrics = telemetry::start_metrics()?;
    let runtimes = Runtimes::start()?;
    let outcome = runtimes.block_on(pick(settings, decorate, &runtimes, metrics, signals));
    runtimes.stop();
    Ok(outcome?)
}

/// Opens the one store or the other, serves, and closes it.
async fn pick(
    settings: ServerSettings,
    decorate: &impl Decorate,
    runtimes: &Runtimes,
    metrics: PrometheusHandle,
    signals: &Signals,
) -> anyhow::Result<()> {
    let mut told = Told { stop: signals.stop(), reload: signals.reload() };
    let (runtime, workers) = (runtimes.store().clone(), runtimes.serving());
    match settings.backend.clone() {
        Backend::Sqlite { directory } => {
            let opening = run_on(&runtime, async move {
                let store = stores::open_sqlite(&directory).await?;
                let is_new = !store.any_keys().await?;
                Ok((store, is_new))
            });
            let Some(opened) = told.unless_stopped(opening).await else { return Ok(()) };
            let (store, is_new) = opened?;
            let limits = CacheLimits {
                bytes: settings.cache_bytes,
                reads: SQLITE_READS,
                reads_for_strangers: SQLITE_READS_FOR_STRANGERS,
            };
            let budget = Budget {
                lookups: limits.reads,
                strangers: limits.reads_for_strangers,
                turns: SQLITE_TURNS,
                calls: SQLITE_CALLS,
            };
            let cache = Arc::new(KeyCache::of_one_process(limits));
            // The commit and what follows from it in memory are one call, which nobody drops half-way.
            let sole = OneProcess::new(decorate.store(store.clone()), Arc::clone(&cache));
            let backing = Backing {
                store: Arc::new(Detached::new(sole, runtime.clone(), budget)),
                vitals: Vitals::of_one_process(Arc::clone(&cache)),
                cache,
                clock: Arc::new(SystemClock),
                confirmations: Arc::new(NobodyElse),
                revoke_deadline: CALL,
                replica: None,
                database: None,
            };
            let outcome = serve(backing, workers, is_new, &settings, metrics, told).await;
            close(&runtime, store.close()).await;
            outcome
        }
        Backend::Postgres(database) => {
            let connections = database.options.max_connections;
            let opening = run_on(&runtime, async move { stores::open_postgres(&database).await });
            let Some(opened) = told.unless_stopped(opening).await else { return Ok(()) };
            let (store, is_new) = opened?;
            // Where the URL stands in a file.
            let database = settings.reads_database_url_again().then(|| store.clone());
            let reads_for_strangers = (connections / PART_FOR_STRANGERS).max(1);
            let limits = CacheLimits {
                bytes: settings.cache_bytes,
                reads: (connections / PART_FOR_MISSES).saturating_sub(reads_for_strangers).max(1),
                reads_for_strangers,
            };
            let calls = connections.saturating_mul(CALLS_PER_CONNECTION);
            let budget = Budget {
                lookups: limits.reads,
                strangers: reads_for_strangers,
                turns: (connections / 4).saturating_mul(3).max(2),
                calls,
            };
            let cache = Arc::new(KeyCache::of_replica(settings.lease, limits));
            let clock = Arc::new(DatabaseClock::new());
            let revocations = Arc::new(decorate.revocations(store.revocations()));
            let store = Arc::new(Detached::new(decorate.store(store), runtime.clone(), budget));
            let replica = Replica::start(replica::Parts {
                lease: settings.lease,
                process: random_id()?,
                revocations,
                store: Arc::clone(&store),
                cache: Arc::clone(&cache),
                clock: Arc::clone(&clock),
            })
            .context("no thread for the lease")?;
            if told.unless_stopped(replica.wait_for_first_lease()).await.is_none() {
                replica.leave().await;
                return Ok(());
            }
            let backing = Backing {
                store,
                vitals: Vitals::of_replica(Arc::clone(&cache), Arc::clone(&clock)),
                cache,
                clock,
                confirmations: replica.confirmer(),
                revoke_deadline: revoke_deadline(settings.lease),
                replica: Some(replica),
                database,
            };
            serve(backing, workers, is_new, &settings, metrics, told).await
        }
    }
}

/// What the use cases work with.
struct Backing<S, C, R> {
    store: Arc<Detached<S>>,
    cache: Arc<KeyCache>,
    clock: Arc<C>,
    confirmations: Arc<R>,
    vitals: Vitals,
    revoke_deadline: Duration,
    /// This process among others, where there can be others.
    replica: Option<Replica>,
    /// The store whose URL can be read again.
    database: Option<PostgresStore>,
}

/// The signals that a service is told by.
struct Told {
    stop: StopSignals,
    reload: ReloadSignals,
}

impl Told {
    /// Carries out a part of the start, unless the process is told to stop first.
    async fn unless_stopped<T>(&mut self, part: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = part => Some(done),
            signal = self.stop.received() => {
                tracing::info!(signal, "stopped before the service was ready");
                None
            }
        }
    }
}

fn revoke_deadline(lease: Lease) -> Duration {
    CALL + lease.waited_out() + CONFIRMATION_GRACE
}

fn random_id() -> anyhow::Result<Uuid> {
    let mut bytes = [0; 16];
    SystemEntropy.fill(&mut bytes)?;
    Ok(Uuid::from_bytes(bytes))
}

async fn close(runtime: &Handle, closing: impl Future<Output = ()> + Send + 'static) {
    if timeout(CLOSE, runtime.spawn(closing)).await.is_err() {
        tracing::warn!("the store did not close in time");
    }
}

async fn last_calls<S: KeyStore>(store: &Detached<S>) {
    if timeout(LAST_CALLS, store.idle()).await.is_err() {
        tracing::warn!("calls to the store did not end in time");
    }
}

/// Serves from that store until the process is told to stop.
async fn serve<S: KeyStore, C: Clock, R: Confirmations>(
    backing: Backing<S, C, R>,
    workers: Vec<Handle>,
    is_new: bool,
    settings: &ServerSettings,
    metrics: PrometheusHandle,
    mut told: Told,
) -> anyhow::Result<()> {
    let usage = Arc::new(UsageLog::new());
    let token = settings.verify_token.as_ref().map(|token| AccessToken::new(token)).transpose()?;
    let starting = async {
        let tls = settings.tls.as_ref().map(tls_identity).transpose()?;
        let listeners = Listeners::bind(settings).await?;
        let services = Services::wire(&backing, &usage, settings, token.clone()).await?;
        anyhow::Ok((tls, listeners, services))
    };
    let started = told.unless_stopped(starting).await;
    let Backing { store, vitals, replica, database, .. } = backing;
    let Some(started) = started else {
        if let Some(replica) = replica {
            replica.leave().await;
        }
        return Ok(());
    };
    let (tls, listeners, services) = started?;
    let reload = Reload { tls: tls.clone(), token, database };
    let addresses = listeners.addresses()?;
    let pulse = Pulse::of(workers.iter().cloned());
    let admin = Arc::new(Admin::new(Arc::clone(&store), vitals, pulse, metrics.clone(), addresses.admin));

    let (stop_serving, stop_admin) = (Shutdown::new(), Shutdown::new());
    let health = [services.public_health.clone(), services.verification_health.clone()];
    let admin_service = service_fn({
        let admin = Arc::clone(&admin);
        move |request| {
            let answer = Arc::clone(&admin).answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        }
    });
    let (admin_limits, public_limits, verification_limits) = connection_limits(settings);
    let admin_task = tokio::spawn(listener::serve(
        listeners.admin,
        move |_| admin_service.clone(),
        admin_limits,
        stop_admin.requested(),
    ));
    let serving = [
        tokio::spawn(listener::serve_on(
            workers.clone(),
            listeners.public,
            tls.clone(),
            move |peer| services.public.for_peer(peer),
            public_limits,
            stop_serving.requested(),
        )),
        tokio::spawn(listener::serve_on(
            workers,
            listeners.verification,
            tls,
            move |_| services.verification.clone(),
            verification_limits,
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

    let Told { mut stop, reload: reload_signals } = told;
    let signal = tokio::select! {
        signal = stop.received() => signal,
        never = reload.run(settings, reload_signals) => match never {},
    };
    tracing::info!(signal, "stopping: requests in flight are finished");
    admin.stop_serving();
    set_health(&health, false).await;
    stop_serving.request();
    if let Some(replica) = &replica {
        replica.stop_watching();
    }
    drain(serving).await;
    let last_uses = async {
        // A flush that has begun may wait for a database that stands still.
        finished(flushing).await;
        usage::flush_finally(&usage, &*store).await;
    };
    let leaving = async {
        if let Some(replica) = replica {
            replica.leave().await;
        }
    };
    // Nobody is served any more, so that the one need not wait for the other.
    let (recorded, ()) = tokio::join!(timeout(LAST_FLUSH, last_uses), leaving);
    if recorded.is_err() {
        tracing::warn!("the last uses could not be recorded in time");
    }
    last_calls(&store).await;
    stop_admin.request();
    finished(admin_task).await;
    tracing::info!("stopped");
    Ok(())
}

/// Waits until nobody is served any more, though not for a thread that hangs.
async fn drain<T>(serving: [JoinHandle<T>; 2]) {
    let drained = async {
        for task in serving {
            finished(task).await;
        }
    };
    if timeout(DRAIN + CLOSE, drained).await.is_err() {
        tracing::error!("a thread that serves does not answer: its connections are left behind");
    }
}

/// On a new store that only this machine reaches: issues the first key, where somebody sees it and nothing else does. Otherwise says how
/// to get one, if there is none: what goes to a pipe may be kept by a journal.
async fn greet<S: KeyStore>(store: &Arc<Detached<S>>, is_new: bool, is_local: bool) -> anyhow::Result<()> {
    if is_new && is_local && io::stdout().is_terminal() {
        return bootstrap::issue_at_first_start(Arc::clone(store)).await;
    }
    if is_new {
        tracing::warn!(
            "there is no key yet: run `apikeys bootstrap --organization NAME` (with SQLite, stop this first)"
        );
    }
    Ok(())
}

fn tls_identity(TlsFiles { certificate, key }: &TlsFiles) -> anyhow::Result<TlsIdentity> {
    let read = |name: &str, path: &Path| {
        fs::read(path).map(Zeroizing::new).with_context(|| format!("{name}: {} cannot be read", path.display()))
    };
    let (certificate, key) = (read("tls_certificate", certificate)?, read("tls_key", key)?);
    TlsIdentity::from_pem(&certificate, &key).context("tls_certificate and tls_key cannot be worked with")
}

/// What the listeners serve.
struct Services<S, C> {
    public: PublicService,
    public_health: Serving,
    verification: VerificationService<Detached<S>, C>,
    verification_health: Serving,
}

impl<S: KeyStore, C: Clock> Services<S, C> {
    async fn wire<R: Confirmations>(
        backing: &Backing<S, C, R>,
        usage: &Arc<UsageLog>,
        settings: &ServerSettings,
        token: Option<AccessToken>,
    ) -> anyhow::Result<Self> {
        let Backing { store, cache, clock, confirmations, revoke_deadline, .. } = backing;
        let (policy, entropy) = (Policy::pidgr(), Arc::new(SystemEntropy));
        let verify_for = |store, asker| {
            let (cache, clock, usage) = (Arc::clone(cache), Arc::clone(clock), Arc::clone(usage));
            Arc::new(VerifyApiKey::new(store, cache, clock, usage, policy.format, asker))
        };
        let verify = verify_for(Arc::clone(store), Asker::Trusted);
        let strangers = verify_for(Arc::new(store.for_strangers()), Asker::Stranger);
        let tokens = match &settings.jwt {
            Some(jwt) => {
                let tokens = JwtAuthenticator::start(jwt, pidgr::CATALOGUE, SystemClock).await;
                Some(tokens.context("the settings jwt_… cannot be worked with")?)
            }
            None => None,
        };
        let management = Management {
            authenticator: Authenticator::new(
                strangers,
                tokens,
                Attempts::limited_to(settings.failed_attempts_per_second),
            ),
            issue: IssueApiKey::new(Arc::clone(store), Arc::clone(clock), Arc::clone(&entropy), policy.clone())
                .within(settings.limits),
            list: ListApiKeys::new(Arc::clone(store), policy.clone()),
            revoke: RevokeApiKey::new(
                Arc::clone(store),
                Arc::clone(cache),
                Arc::clone(confirmations),
                Arc::clone(clock),
                policy,
            )
            .within(settings.limits),
        };
        let limits = CallLimits {
            deadline: CALL,
            revoke_deadline: *revoke_deadline,
            concurrent_calls: settings.max_concurrent_requests,
            reflection: settings.reflection,
        };
        let request_ids = RequestIds::new(&*entropy)?;
        let (public, public_health) = PublicService::new(management, request_ids.clone(), limits).await?;
        let public = public.for_origins(settings.cors_allowed_origins.clone());
        let (mut verification, verification_health) =
            VerificationService::new(verify, token, request_ids, limits).await?;
        if settings.verify_listen.ip().is_loopback() && settings.tls.is_none() {
            verification = verification.only_by_local_names();
        }
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
