//! How long a refusal takes, by a clock that only this test moves.

use std::pin::pin;

use apikey_application::{
    Asker, Attempts, CacheLimits, KeyCache, UsageLog, VerifyApiKey,
    ports::{TokenAuthenticator, TokenError},
};
use apikey_domain::{KeyType, Principal, pidgr};
use apikey_testing::{FixedClock, InMemoryStore, fixtures};

use futures_util::poll;

use super::*;
use crate::places::Places;

struct NoIssuer;

impl TokenAuthenticator for NoIssuer {
    async fn authenticate(&self, _: &str) -> Result<Principal, TokenError> {
        Err(TokenError::Rejected("no issuer is configured"))
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_key_cannot_be_told_by_time_and_who_is_admitted_waits_for_nothing() {
    let (store, clock) = (InMemoryStore::new(), Arc::new(FixedClock::at(fixtures::seconds_later(60))));
    let limits = CacheLimits { bytes: 1 << 20, reads: 1, reads_for_strangers: 1 };
    let (cache, usage) = (Arc::new(KeyCache::of_one_process(limits)), Arc::new(UsageLog::new()));
    let strangers = Asker::Stranger;
    let verify = VerifyApiKey::new(Arc::new(store.clone()), cache, clock, usage, pidgr::KEY_FORMAT, strangers);
    let authenticator = Authenticator::new(Arc::new(verify), NoIssuer, Attempts::limited_to(None));
    let jitter = RandomState::new();
    let places = Places::new(1);
    let ask = async |raw_key: &str| {
        let mut head = Request::builder().header(X_API_KEY, raw_key).body(()).unwrap().into_parts().0;
        head.extensions.insert(Entrance::new(Arc::clone(&places), false));
        admit(&authenticator, &mut head, Body::empty(), &jitter).await
    };
    let took = async |raw_key: &str| {
        let asked_at = Instant::now();
        let admitted = ask(raw_key).await;
        (admitted.is_ok(), asked_at.elapsed())
    };
    let put = |seed, change: fn(&mut apikey_domain::ApiKeyParts)| {
        let (raw_key, key) = fixtures::a_raw_key_with(seed, change);
        store.put(key);
        raw_key
    };
    let valid = put(1, |_| {});
    let refused = [
        put(2, |parts| parts.revoked_at = Some(fixtures::seconds_later(1))),
        put(3, |parts| parts.expires_at = Some(fixtures::seconds_later(1))),
        put(4, |parts| parts.key_type = KeyType::ScimToken),
        fixtures::a_raw_key_with(5, |_| {}).0,
    ];
    for _ in 0..2 {
        assert_eq!(took(valid.expose()).await, (true, Duration::ZERO));
        for raw_key in &refused {
            let (is_admitted, took) = took(raw_key.expose()).await;
            assert!(
                !is_admitted && (REFUSAL..=REFUSAL + JITTER + Duration::from_millis(1)).contains(&took),
                "{took:?}"
            );
        }
    }
    let mut refusal = pin!(ask(refused[0].expose()));
    assert!(poll!(&mut refusal).is_pending());
    assert!(ask(valid.expose()).await.is_ok(), "who waits to be refused has no place");
}

#[test]
fn refusals_differ_by_what_no_caller_can_compute() {
    let drawn: Vec<_> = (0..100).map(|_| drawn(&RandomState::new())).collect();
    assert!(drawn.iter().all(|drawn| *drawn < JITTER));
    assert!(drawn.iter().any(|other| *other != drawn[0]), "one call's id, and another state");
}
