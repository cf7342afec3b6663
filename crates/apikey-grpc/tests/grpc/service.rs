//! Both listeners on the in-memory store, with keys to call them by.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use apikey_application::{
    Asker, Attempts, Authenticator, CacheLimits, IssueApiKey, KeyCache, ListApiKeys, NobodyElse, Policy, RevokeApiKey,
    UsageLog, VerifyApiKey,
    ports::{Entropy, EntropyError, TokenAuthenticator, TokenError},
};
use apikey_domain::{ApiKey, ApiKeyParts, KeyType, NewApiKey, Principal, RawKey, pidgr};
use apikey_grpc::{
    AccessToken, CallLimits, Management, PublicService, RequestIds, Serving, TlsIdentity, VerificationService,
    listener::{ConnectionLimits, Drained, PeerAddress, serve_with},
    web::AllowedOrigins,
};
use apikey_testing::{FixedClock, InMemoryStore, SeededEntropy, fixtures};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::wire::Wire;

/// The token of the verification listener, where a test wants one.
pub(crate) const LISTENER_TOKEN: &str = "the-listener's-own-token";

/// What a test wants to be special.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) calls: CallLimits,
    pub(crate) connections: ConnectionLimits,
    pub(crate) tokens: Tokens,
    pub(crate) listener_token: bool,
    pub(crate) only_local_names: bool,
    pub(crate) origins: AllowedOrigins,
    pub(crate) tls: Option<TlsIdentity>,
    /// How many failed attempts a second a peer may make.
    pub(crate) failed_attempts: Option<std::num::NonZeroU32>,
}

/// An issuer whose tokens a test decides.
#[derive(Clone, Debug, Default)]
pub(crate) enum Tokens {
    #[default]
    NoIssuer,
    Unreachable,
    Known(&'static str, Principal),
}

impl TokenAuthenticator for Tokens {
    async fn authenticate(&self, token: &str) -> Result<Principal, TokenError> {
        match self {
            Self::NoIssuer => Err(TokenError::Rejected("no issuer is configured")),
            Self::Unreachable => Err(TokenError::Unavailable("the issuer is down".into())),
            Self::Known(known, principal) if *known == token => Ok(principal.clone()),
            Self::Known(..) => Err(TokenError::Rejected("the token is another one")),
        }
    }
}

/// Entropy that panics when a test wants a handler to.
#[derive(Clone)]
pub(crate) struct FragileEntropy {
    seeded: SeededEntropy,
    panic: Arc<AtomicBool>,
}

impl Entropy for FragileEntropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        assert!(!self.panic.load(Ordering::SeqCst), "the text of a panic");
        self.seeded.fill(buffer)
    }
}

/// One listener that is served.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) serving: Serving,
    shutdown: Option<oneshot::Sender<()>>,
    pub(crate) ended: JoinHandle<Drained>,
}

impl Listener {
    pub(crate) async fn wire(&self) -> Wire {
        Wire::connect(self.address).await
    }

    pub(crate) fn shut_down(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    pub(crate) fn address(&self) -> apikey_grpc::client::ServiceAddress {
        self.endpoint().parse().unwrap()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Everything that runs.
pub(crate) struct Running {
    pub(crate) store: InMemoryStore,
    pub(crate) clock: FixedClock,
    pub(crate) usage: Arc<UsageLog>,
    pub(crate) entropy: FragileEntropy,
    pub(crate) public: Listener,
    pub(crate) verification: Listener,
}

impl FragileEntropy {
    pub(crate) fn panic_from_now_on(&self, panic: bool) {
        self.panic.store(panic, Ordering::SeqCst);
    }
}

pub(crate) async fn start() -> Running {
    start_with(Setup::default()).await
}

pub(crate) async fn start_with(setup: Setup) -> Running {
    let Setup { calls, connections, tokens, listener_token, only_local_names, origins, tls, failed_attempts } = setup;
    let store = InMemoryStore::new();
    let clock = FixedClock::at(fixtures::seconds_later(60));
    let entropy = FragileEntropy { seeded: SeededEntropy::new(1), panic: Arc::default() };
    let (shared_store, shared_clock) = (Arc::new(store.clone()), Arc::new(clock.clone()));
    let policy = Policy::pidgr();
    let usage = Arc::new(UsageLog::new());
    // Nothing stays in memory, so that what a test does to the store shows at once.
    let cache = Arc::new(KeyCache::of_one_process(CacheLimits { bytes: 0, reads: 64, reads_for_strangers: 64 }));
    let verify_for = |asker| {
        let (store, cache, clock) = (shared_store.clone(), cache.clone(), shared_clock.clone());
        Arc::new(VerifyApiKey::new(store, cache, clock, usage.clone(), policy.format, asker))
    };
    let (verify, strangers) = (verify_for(Asker::Trusted), verify_for(Asker::Stranger));
    let management = Management {
        authenticator: Authenticator::new(strangers, tokens, Attempts::limited_to(failed_attempts)),
        issue: IssueApiKey::new(shared_store.clone(), shared_clock.clone(), Arc::new(entropy.clone()), policy.clone()),
        list: ListApiKeys::new(shared_store.clone(), policy.clone()),
        revoke: RevokeApiKey::new(shared_store, cache, Arc::new(NobodyElse), shared_clock, policy),
    };
    let ids = RequestIds::new(&entropy).unwrap();
    let (service, serving) = PublicService::new(management, ids.clone(), calls).await.unwrap();
    let service = service.for_origins(origins);
    let public = listen(move |peer| service.for_peer(peer), serving, tls, connections).await;
    let token = listener_token.then(|| AccessToken::new(LISTENER_TOKEN).unwrap());
    let (service, serving) = VerificationService::new(verify, token, ids, calls).await.unwrap();
    let service = if only_local_names { service.only_by_local_names() } else { service };
    let verification = listen(move |_| service.clone(), serving, None, connections).await;
    Running { store, clock, usage, entropy, public, verification }
}

async fn listen<S>(
    service: impl Fn(PeerAddress) -> S + Send + 'static,
    serving: Serving,
    tls: Option<TlsIdentity>,
    limits: ConnectionLimits,
) -> Listener
where
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    serving.set(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, asked) = oneshot::channel::<()>();
    // A test that ends without asking for a shutdown drops the sender, which is one too.
    let ended = tokio::spawn(serve_with(listener, tls, service, limits, async move { drop(asked.await) }));
    Listener { address, serving, shutdown: Some(shutdown), ended }
}

impl Running {
    /// Puts a key with every permission there, and returns it raw.
    pub(crate) fn manager(&self, seed: u64) -> (String, ApiKey) {
        self.key(seed, |parts| parts.permissions = pidgr::CATALOGUE.all())
    }

    /// Puts a key there with what the test changes in it, and returns it raw.
    pub(crate) fn key(&self, seed: u64, change: impl FnOnce(&mut ApiKeyParts)) -> (String, ApiKey) {
        let (raw_key, key) = fixtures::a_raw_key_with(seed, change);
        self.store.put(key.clone());
        (raw_key.expose().to_owned(), key)
    }

    /// Puts a SCIM token with every permission there, and returns it raw.
    pub(crate) fn scim_token(&self, seed: u64) -> (String, ApiKey) {
        let entropy = SeededEntropy::new(seed ^ 0x5C13);
        let mut fill = |buffer: &mut [u8]| entropy.fill_always(buffer);
        let raw_key: RawKey = pidgr::KEY_FORMAT.generate(KeyType::ScimToken, &mut fill).unwrap();
        let new = NewApiKey {
            organization_id: fixtures::an_organization(),
            name: apikey_domain::KeyName::parse("provisioning").unwrap(),
            permissions: pidgr::CATALOGUE.all(),
            expires_at: None,
        };
        let (key, _) = ApiKey::issue(new, &raw_key, &mut fill, fixtures::an_instant()).unwrap();
        self.store.put(key.clone());
        (raw_key.expose().to_owned(), key)
    }

    /// All that a caller could have changed: every key and every event. When keys were last used is noted elsewhere.
    pub(crate) fn state(&self) -> String {
        format!("{:?}\n{:?}\n{:?}", self.store.keys(), self.store.audit(), self.store.head())
    }
}
