//! What one organization may have and do, where there are limits.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use apikey_application::{
    Caller, ErrorKind, IssueApiKey, IssueError, KeyCache, Limits, NobodyElse, Policy, RevokeApiKey, RevokeError,
};
use apikey_testing::{
    FixedClock, InMemoryStore, SeededEntropy,
    fixtures::{a_caller_with, a_person, an_instant, another_organization, permissions},
};

use crate::house::{LIMITS, a_manager, a_request};

type Issue = IssueApiKey<InMemoryStore, FixedClock, SeededEntropy>;
type Revoke = RevokeApiKey<InMemoryStore, FixedClock, NobodyElse>;

fn within(limits: Limits, clock: &FixedClock) -> (Issue, Revoke) {
    let (store, clock) = (Arc::new(InMemoryStore::new()), Arc::new(clock.clone()));
    let cache = Arc::new(KeyCache::of_one_process(LIMITS));
    let entropy = Arc::new(SeededEntropy::new(1));
    let issue = IssueApiKey::new(Arc::clone(&store), Arc::clone(&clock), entropy, Policy::pidgr());
    let revoke = RevokeApiKey::new(store, cache, Arc::new(NobodyElse), clock, Policy::pidgr());
    (issue.within(limits), revoke.within(limits))
}

fn another_manager() -> Caller {
    a_caller_with(a_person("another"), permissions(["PERMISSION_MANAGE_API_KEYS"]))
}

#[tokio::test]
async fn one_key_more_than_there_may_be_is_refused_with_the_limit_until_one_is_revoked() {
    let two = Limits { live_keys: NonZeroU32::new(2), ..Limits::default() };
    let (issue, revoke) = within(two, &FixedClock::at(an_instant()));
    let first = issue.issue(&a_manager(), Ok(a_request())).await.ok().unwrap();
    issue.issue(&a_manager(), Ok(a_request())).await.ok().unwrap();
    let error = issue.issue(&a_manager(), Ok(a_request())).await.err().unwrap();
    assert!(matches!(error, IssueError::TooManyKeys { limit } if limit.get() == 2), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    revoke.revoke(&a_manager(), Ok(first.key.id())).await.unwrap();
    issue.issue(&a_manager(), Ok(a_request())).await.ok().unwrap();
}

#[tokio::test]
async fn changes_above_the_rate_are_refused_and_nobody_keeps_another_from_revoking() {
    let two_a_second = Limits { changes_per_second: NonZeroU32::new(2), ..Limits::default() };
    let clock = FixedClock::at(an_instant());
    let (issue, revoke) = within(two_a_second, &clock);
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(issue.issue(&a_manager(), Ok(a_request())).await.ok().unwrap().key.id());
    }
    let error = issue.issue(&another_manager(), Ok(a_request_without_campaigns())).await.err().unwrap();
    assert!(matches!(error, IssueError::TooManyChanges), "{error:?}: it counts for the organization");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    let mut foreign = a_manager();
    foreign.principal.organization_id = another_organization();
    assert!(issue.issue(&foreign, Ok(a_request())).await.is_ok(), "another organization is not concerned");
    for id in [ids[0], ids[0]] {
        revoke.revoke(&a_manager(), Ok(id)).await.unwrap();
    }
    let error = revoke.revoke(&a_manager(), Ok(ids[1])).await.unwrap_err();
    assert!(matches!(error, RevokeError::TooManyChanges), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    revoke.revoke(&another_manager(), Ok(ids[1])).await.unwrap();
    clock.advance(Duration::from_secs(1));
    issue.issue(&a_manager(), Ok(a_request())).await.ok().unwrap();
}

fn a_request_without_campaigns() -> apikey_application::IssueRequest {
    apikey_application::IssueRequest { permissions: permissions([]), ..a_request() }
}
