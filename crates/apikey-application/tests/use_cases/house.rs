//! All use cases wired to one in-memory store, as the binary wires them to a real one.

use std::sync::Arc;

use apikey_application::{
    Asker, Attempts, Authenticator, CacheLimits, Caller, IssueApiKey, IssueRequest, IssuedApiKey, KeyCache,
    ListApiKeys, NobodyElse, OneProcess, Policy, RevokeApiKey, UsageLog, VerificationRequest, VerifyApiKey,
    ports::{StoreError, TokenAuthenticator, TokenError},
};
use apikey_domain::{KeyName, KeyType, KeyTypes, PermissionSet, Principal, pidgr};
use apikey_testing::{
    FixedClock, InMemoryStore, SeededEntropy,
    fixtures::{a_caller_with, a_person, an_instant, permissions},
};

/// Room for every key of these tests, and for two reads at once.
pub(crate) const LIMITS: CacheLimits = CacheLimits { bytes: 16 << 20, reads: 2, reads_for_strangers: 1 };

pub(crate) struct House {
    pub(crate) store: InMemoryStore,
    pub(crate) clock: FixedClock,
    pub(crate) entropy: SeededEntropy,
    pub(crate) usage: Arc<UsageLog>,
    pub(crate) issue: IssueApiKey<OneProcess<InMemoryStore>, FixedClock, SeededEntropy>,
    pub(crate) list: ListApiKeys<OneProcess<InMemoryStore>>,
    pub(crate) revoke: RevokeApiKey<OneProcess<InMemoryStore>, FixedClock, NobodyElse>,
    pub(crate) verify: Arc<VerifyApiKey<OneProcess<InMemoryStore>, FixedClock>>,
    pub(crate) authenticate: Authenticator<OneProcess<InMemoryStore>, FixedClock, OneToken>,
}

pub(crate) fn a_house() -> House {
    let (store, clock, entropy) = (InMemoryStore::new(), FixedClock::at(an_instant()), SeededEntropy::new(42));
    let cache = Arc::new(KeyCache::of_one_process(LIMITS));
    let shared = Arc::new(OneProcess::new(store.clone(), Arc::clone(&cache)));
    let usage = Arc::new(UsageLog::new());
    let format = pidgr::KEY_FORMAT;
    let (asked, its_cache, its_clock) = (Arc::clone(&shared), Arc::clone(&cache), Arc::new(clock.clone()));
    let verify = Arc::new(VerifyApiKey::new(asked, its_cache, its_clock, Arc::clone(&usage), format, Asker::Trusted));
    House {
        issue: IssueApiKey::new(
            Arc::clone(&shared),
            Arc::new(clock.clone()),
            Arc::new(entropy.clone()),
            Policy::pidgr(),
        ),
        list: ListApiKeys::new(Arc::clone(&shared), Policy::pidgr()),
        revoke: RevokeApiKey::new(shared, cache, Arc::new(NobodyElse), Arc::new(clock.clone()), Policy::pidgr()),
        authenticate: Authenticator::new(Arc::clone(&verify), OneToken, Attempts::limited_to(None)),
        verify,
        store,
        clock,
        entropy,
        usage,
    }
}

/// Knows one token, `good`, and cannot tell about `unknowable`.
pub(crate) struct OneToken;

impl TokenAuthenticator for OneToken {
    async fn authenticate(&self, token: &str) -> Result<Principal, TokenError> {
        match token {
            "good" => Ok(a_manager().principal),
            "unknowable" => Err(TokenError::Unavailable("no keys".into())),
            _ => Err(TokenError::Rejected("not the good one")),
        }
    }
}

/// May manage keys and read campaigns.
pub(crate) fn a_manager() -> Caller {
    a_caller_with(a_person("manager"), permissions(["PERMISSION_MANAGE_API_KEYS", "PERMISSION_CAMPAIGNS_READ"]))
}

/// May do everything but manage keys.
pub(crate) fn a_visitor() -> Caller {
    let all = pidgr::CATALOGUE.iter().filter(|permission| **permission != pidgr::MANAGE_API_KEYS);
    a_caller_with(a_person("visitor"), all.cloned().collect())
}

pub(crate) fn a_request() -> IssueRequest {
    IssueRequest {
        name: KeyName::parse("CI Integration").unwrap(),
        permissions: permissions(["PERMISSION_CAMPAIGNS_READ"]),
        expires_at: None,
        key_type: KeyType::ApiKey,
        idempotency_key: None,
    }
}

pub(crate) fn presented(raw_key: &str) -> VerificationRequest<'_> {
    VerificationRequest {
        raw_key,
        required_permissions: PermissionSet::empty(),
        key_types: KeyTypes::default(),
        strict: false,
    }
}

pub(crate) fn an_outage() -> StoreError {
    StoreError::Unavailable("the test pulled the plug".into())
}

impl House {
    pub(crate) async fn issued(&self) -> IssuedApiKey {
        self.issue.issue(&a_manager(), Ok(a_request())).await.expect("a permitted caller's ordinary request")
    }
}
