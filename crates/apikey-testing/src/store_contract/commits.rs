//! Contract: a unit of work happens whole or not at all, and over the revision that it was made from.

use apikey_application::ports::{Change, CommitError, KeyStore};
use apikey_domain::{Actor, KeyEventKind};
use futures_util::future::join;

use super::{AuditRow, StoreUnderTest, commit, everything, refusal, stored};
use crate::fixtures::{
    a_claim, a_key, a_key_with, a_person, an_event, an_instant, another_organization, issue, issue_once, permissions,
    revoke, seconds_later,
};

pub async fn a_digest_is_stored_once(under_test: &impl StoreUnderTest) {
    let key = a_key(1);
    let twin = a_key_with(2, |parts| {
        parts.digest = *key.digest();
        parts.organization_id = another_organization();
    });
    commit(under_test, issue(&key)).await;
    let before = everything(under_test, &twin).await;
    assert!(matches!(refusal(under_test, issue(&twin)).await, CommitError::DuplicateDigest));
    assert_eq!(everything(under_test, &twin).await, before);
    assert_eq!(stored(under_test, &key).await, Some(key));
}

pub async fn a_digest_issued_twice_at_once_is_stored_once(under_test: &impl StoreUnderTest) {
    let key = a_key(1);
    let twin = a_key_with(2, |parts| parts.digest = *key.digest());
    let store = under_test.store();
    let outcomes = join(store.commit(issue(&key)), store.commit(issue(&twin))).await;
    let (winner, loser) = match outcomes {
        (Ok(_), Err(CommitError::DuplicateDigest)) => (key, twin),
        (Err(CommitError::DuplicateDigest), Ok(_)) => (twin, key),
        outcomes => panic!("one of the two must be refused: {outcomes:?}"),
    };
    assert_eq!(stored(under_test, &loser).await, None);
    assert_eq!(under_test.audit_rows(loser.id()).await, []);
    assert_eq!(under_test.audit_rows(winner.id()).await.len(), 1);
    assert_eq!(stored(under_test, &winner).await, Some(winner));
    assert_eq!(under_test.row_counts().await.counted_keys, 1);
}

pub async fn a_stale_revision_is_refused(under_test: &impl StoreUnderTest) {
    let key = a_key(1);
    commit(under_test, issue(&key)).await;
    let from_the_future = a_key_with(1, |parts| parts.revision = 2);
    let before = everything(under_test, &key).await;
    let ahead = refusal(under_test, revoke(&from_the_future, seconds_later(1))).await;
    assert!(matches!(ahead, CommitError::StaleRevision), "{ahead:?}");
    assert_eq!(everything(under_test, &key).await, before);

    commit(under_test, revoke(&key, seconds_later(1))).await;
    let before = everything(under_test, &key).await;
    let behind = refusal(under_test, revoke(&key, seconds_later(2))).await;
    assert!(matches!(behind, CommitError::StaleRevision), "{behind:?}");
    assert_eq!(everything(under_test, &key).await, before, "the first revocation stays");
}

pub async fn a_failed_commit_leaves_neither_row_nor_event(under_test: &impl StoreUnderTest) {
    let (old, new) = (a_key(1), a_key(2));
    commit(under_test, issue(&old)).await;
    let before = (everything(under_test, &old).await, everything(under_test, &new).await);
    under_test.break_audit().await;
    let claim = a_claim(&new, Actor::operator(), "header", 1);
    for failing in [issue(&new), issue_once(&new, claim.clone()), revoke(&old, seconds_later(1))] {
        let error = refusal(under_test, failing).await;
        assert!(matches!(error, CommitError::Store(_)), "{error:?}");
        assert_eq!((everything(under_test, &old).await, everything(under_test, &new).await), before);
    }
    let record = under_test.store().find_idempotency(&claim.organization_id, &claim.actor, &claim.key).await;
    assert_eq!(record.expect("the store answers"), None);
    // And the store is none the worse for it.
    under_test.mend_audit().await;
    commit(under_test, issue_once(&new, claim)).await;
    commit(under_test, revoke(&old, seconds_later(1))).await;
    assert_eq!(under_test.audit_rows(new.id()).await.len(), 1);
    assert_eq!(under_test.audit_rows(old.id()).await.len(), 2);
}

pub async fn of_two_revocations_at_once_one_wins(under_test: &impl StoreUnderTest) {
    for seed in 1..=8 {
        let key = a_key(seed);
        commit(under_test, issue(&key)).await;
        let head = under_test.head().await;
        let store = under_test.store();
        let (first, second) = (seconds_later(1), seconds_later(2));
        let outcomes = join(store.commit(revoke(&key, first)), store.commit(revoke(&key, second))).await;
        let (revoked_at, seq) = match outcomes {
            (Ok(seq), Err(CommitError::StaleRevision)) => (first, seq),
            (Err(CommitError::StaleRevision), Ok(seq)) => (second, seq),
            outcomes => panic!("one of the two must be refused: {outcomes:?}"),
        };
        let after = stored(under_test, &key).await.expect("the key is there");
        assert_eq!((after.parts().revoked_at, after.parts().revision), (Some(revoked_at), 2));
        assert_eq!((seq.number, under_test.head().await), (head + 1, head + 1), "the head moved once");
        assert_eq!(under_test.narrowed_seq(key.id()).await, Some(head + 1));
        let revocations = under_test.audit_rows(key.id()).await;
        assert_eq!(
            revocations.iter().map(|row| (row.kind.as_str(), row.at)).collect::<Vec<_>>(),
            [("issued", an_instant()), ("revoked", revoked_at)]
        );
    }
}

pub async fn an_unknown_or_foreign_key_cannot_be_revoked(under_test: &impl StoreUnderTest) {
    let key = a_key(1);
    commit(under_test, issue(&key)).await;
    let before = everything(under_test, &key).await;
    let foreign = a_key_with(1, |parts| parts.organization_id = another_organization());
    for (what, absent) in [("unknown", a_key(2)), ("foreign", foreign)] {
        let error = refusal(under_test, revoke(&absent, seconds_later(1))).await;
        assert!(matches!(error, CommitError::NotFound), "{what}: {error:?}");
        assert_eq!(everything(under_test, &key).await, before, "{what}");
    }
}

pub async fn events_are_stored_with_their_change_in_their_order(under_test: &impl StoreUnderTest) {
    let key = a_key(1);
    let mut issued = issue(&key);
    issued.events[0].actor = a_person("alice");
    issued.events[0].origin.address = None;
    // A later transition may report more than one event; none is lost and none overtakes another.
    issued.events.push(an_event(&key, KeyEventKind::Issued, seconds_later(7)));
    let revoked = revoke(&key, seconds_later(3));
    let expected: Vec<AuditRow> = issued.events.iter().chain(&revoked.events).map(AuditRow::from).collect();
    commit(under_test, issued).await;
    commit(under_test, revoked).await;
    assert_eq!(under_test.audit_rows(key.id()).await, expected);
    assert_eq!(under_test.audit_rows(a_key(2).id()).await, []);
}

pub async fn a_revocation_changes_nothing_but_the_revocation(under_test: &impl StoreUnderTest) {
    let (key, bystander) = (a_key(1), a_key(2));
    commit(under_test, issue(&key)).await;
    commit(under_test, issue(&bystander)).await;
    let before = everything(under_test, &bystander).await;
    let mut altered = revoke(&key, seconds_later(1));
    // What the caller believes of the other fields is not part of the change.
    if let Change::Revoke { key: revoked } = &mut altered.change {
        let mut parts = revoked.parts().clone();
        parts.permissions = permissions(["PERMISSION_MANAGE_API_KEYS"]);
        *revoked = apikey_domain::ApiKey::from_parts(parts).expect("parts that agree");
    }
    commit(under_test, altered).await;
    let mut expected = key;
    expected.revoke(seconds_later(1)).expect("it was not revoked");
    assert_eq!(stored(under_test, &expected).await, Some(expected));
    let after = everything(under_test, &bystander).await;
    assert_eq!((after.key, after.narrowed_seq, after.audit), (before.key, before.narrowed_seq, before.audit));
    assert_eq!(after.rows.keys, before.rows.keys);
}
