//! Contract: an organization has no more live keys than it may have.

use apikey_application::ports::{Change, Commit, CommitError};
use apikey_domain::Actor;

use super::{StoreUnderTest, commit, everything, refusal};
use crate::fixtures::{a_claim, a_key, a_key_with, another_organization, issue, issue_once, revoke, seconds_later};

fn among(most: u32, mut issue: Commit) -> Commit {
    if let Change::Issue { most_live, .. } = &mut issue.change {
        *most_live = Some(most);
    }
    issue
}

pub async fn a_key_above_the_limit_is_refused_and_leaves_nothing(under_test: &impl StoreUnderTest) {
    for seed in 1..=3 {
        commit(under_test, among(3, issue(&a_key(seed)))).await;
    }
    let one_more = a_key(4);
    let before = everything(under_test, &one_more).await;
    let claim = a_claim(&one_more, Actor::operator(), "header", 1);
    for refused in [among(3, issue(&one_more)), among(2, issue(&one_more)), among(3, issue_once(&one_more, claim))] {
        let error = refusal(under_test, refused).await;
        assert!(matches!(error, CommitError::TooManyKeys), "{error:?}");
        assert_eq!(everything(under_test, &one_more).await, before);
    }
    commit(under_test, among(4, issue(&one_more))).await;
}

pub async fn revoked_and_expired_keys_and_those_of_others_do_not_count(under_test: &impl StoreUnderTest) {
    let (revoked, kept) = (a_key(1), a_key(2));
    let expired = a_key_with(3, |parts| parts.expires_at = Some(seconds_later(10)));
    for key in [&revoked, &kept, &expired] {
        commit(under_test, among(3, issue(key))).await;
    }
    commit(under_test, revoke(&revoked, seconds_later(1))).await;
    for seed in 11..=14 {
        let foreign = a_key_with(seed, |parts| parts.organization_id = another_organization());
        commit(under_test, among(4, issue(&foreign))).await;
    }
    let mut just_before = among(2, issue(&a_key(4)));
    just_before.now = seconds_later(9);
    assert!(matches!(refusal(under_test, just_before).await, CommitError::TooManyKeys));
    let mut at_its_end = among(2, issue(&a_key(4)));
    at_its_end.now = seconds_later(10);
    commit(under_test, at_its_end).await;
}

pub async fn a_repetition_above_the_limit_is_told_the_first_key(under_test: &impl StoreUnderTest) {
    let (first, second) = (a_key(1), a_key(2));
    let claim = |key| a_claim(key, Actor::operator(), "header", 1);
    commit(under_test, among(1, issue_once(&first, claim(&first)))).await;
    let error = refusal(under_test, among(1, issue_once(&second, claim(&second)))).await;
    assert!(matches!(error, CommitError::IdempotencyKeyUsed(stored) if stored.key_id == first.id()), "{error:?}");
}
