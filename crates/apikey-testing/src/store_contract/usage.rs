//! Contract: uses are recorded in batches, and `last_used_at` never moves back.

use apikey_application::ports::{KeyStore, Use};
use apikey_domain::{ApiKey, Timestamp};
use futures_util::future::{join, join_all};

use super::{StoreUnderTest, commit, everything, stored};
use crate::fixtures::{a_key, a_key_with, another_organization, issue, revoke, seconds_later};

fn used(key: &ApiKey, seconds: u64) -> Use {
    Use { key_id: key.id(), at: seconds_later(seconds) }
}

async fn record(under_test: &impl StoreUnderTest, uses: &[Use]) {
    under_test.store().record_uses(uses).await.expect("the store answers");
}

async fn last_used_at(under_test: &impl StoreUnderTest, key: &ApiKey) -> Option<Timestamp> {
    stored(under_test, key).await.expect("the key is there").parts().last_used_at
}

pub async fn a_use_is_recorded_and_changes_nothing_else(under_test: &impl StoreUnderTest) {
    let (key, bystander) = (a_key(1), a_key(2));
    commit(under_test, issue(&key)).await;
    commit(under_test, issue(&bystander)).await;
    let before = everything(under_test, &key).await;
    record(under_test, &[]).await;
    record(under_test, &[used(&key, 5)]).await;
    let mut expected = before;
    let mut parts = key.into_parts();
    parts.last_used_at = Some(seconds_later(5));
    let key = ApiKey::from_parts(parts).expect("parts that agree");
    expected.key = Some(key.clone());
    assert_eq!(everything(under_test, &key).await, expected, "neither revision nor head nor audit know of uses");
    let read = under_test.store().find_by_digest(key.digest()).await.expect("the store answers");
    assert_eq!(read.value, Some(key));
    assert_eq!(last_used_at(under_test, &bystander).await, None);
}

pub async fn usage_never_moves_back(under_test: &impl StoreUnderTest) {
    let key = a_key(1);
    commit(under_test, issue(&key)).await;
    for (seconds, latest) in [(5, 5), (3, 5), (5, 5), (6, 6), (0, 6)] {
        record(under_test, &[used(&key, seconds)]).await;
        assert_eq!(last_used_at(under_test, &key).await, Some(seconds_later(latest)));
    }
}

pub async fn batches_at_once_leave_the_latest_use(under_test: &impl StoreUnderTest) {
    let keys: Vec<_> = (1..=20).map(a_key).collect();
    for key in &keys {
        commit(under_test, issue(key)).await;
    }
    for round in 0..4_u64 {
        // One batch is later for half of the keys, the other for the rest, and they come in opposite orders.
        let at = |place: usize, odd: bool| 10 * round + u64::from((place % 2 == 1) == odd);
        let ahead: Vec<_> = keys.iter().enumerate().map(|(place, key)| used(key, at(place, true))).collect();
        let back: Vec<_> = keys.iter().enumerate().rev().map(|(place, key)| used(key, at(place, false))).collect();
        join(record(under_test, &ahead), record(under_test, &back)).await;
        for key in &keys {
            assert_eq!(last_used_at(under_test, key).await, Some(seconds_later(10 * round + 1)));
        }
    }
    let key = &keys[0];
    join_all((0..16).map(|index| async move { record(under_test, &[used(key, 100 + (index * 7) % 16)]).await })).await;
    assert_eq!(last_used_at(under_test, key).await, Some(seconds_later(115)));
}

pub async fn uses_of_unknown_keys_are_passed_over(under_test: &impl StoreUnderTest) {
    let (key, unknown) = (a_key(1), a_key(2));
    commit(under_test, issue(&key)).await;
    record(under_test, &[used(&unknown, 5), used(&key, 5), used(&unknown, 6)]).await;
    record(under_test, &[used(&unknown, 7)]).await;
    assert_eq!(last_used_at(under_test, &key).await, Some(seconds_later(5)));
    assert_eq!(stored(under_test, &unknown).await, None);
    assert_eq!(under_test.row_counts().await.keys, 1);
}

pub async fn a_key_twice_in_a_batch_keeps_its_latest_use(under_test: &impl StoreUnderTest) {
    let (ahead, back) = (a_key(1), a_key(2));
    commit(under_test, issue(&ahead)).await;
    commit(under_test, issue(&back)).await;
    record(under_test, &[used(&ahead, 5), used(&ahead, 6), used(&back, 6), used(&back, 5)]).await;
    for key in [&ahead, &back] {
        assert_eq!(last_used_at(under_test, key).await, Some(seconds_later(6)));
    }
}

pub async fn a_revocation_made_from_an_older_read_keeps_the_use(under_test: &impl StoreUnderTest) {
    let key = a_key(1);
    commit(under_test, issue(&key)).await;
    let read_before_the_use = revoke(&key, seconds_later(9));
    record(under_test, &[used(&key, 5)]).await;
    commit(under_test, read_before_the_use).await;
    let after = stored(under_test, &key).await.expect("the key is there");
    assert_eq!(after.parts().last_used_at, Some(seconds_later(5)));
    assert_eq!(after.parts().revoked_at, Some(seconds_later(9)));
}

pub async fn uses_of_revoked_and_expired_keys_are_recorded(under_test: &impl StoreUnderTest) {
    // They verified before; only the flush comes later.
    let revoked = a_key(1);
    let expired = a_key_with(2, |parts| {
        parts.expires_at = Some(seconds_later(3));
        parts.organization_id = another_organization();
    });
    commit(under_test, issue(&revoked)).await;
    commit(under_test, issue(&expired)).await;
    commit(under_test, revoke(&revoked, seconds_later(3))).await;
    record(under_test, &[used(&revoked, 2), used(&expired, 2)]).await;
    for key in [&revoked, &expired] {
        assert_eq!(last_used_at(under_test, key).await, Some(seconds_later(2)));
    }
}

pub async fn a_large_batch_is_recorded_whole(under_test: &impl StoreUnderTest) {
    // More than the parameters that one SQL statement may have: 32,766 on SQLite, 65,535 on PostgreSQL.
    let keys: Vec<_> = (1..=4).map(a_key).collect();
    for key in &keys {
        commit(under_test, issue(key)).await;
    }
    let mut uses: Vec<_> = (1_000..41_000)
        .map(|seed| {
            let mut id = [0x5A; 16];
            id[..8].copy_from_slice(&u64::to_be_bytes(seed));
            Use { key_id: apikey_domain::KeyId::from_uuid(uuid::Uuid::from_bytes(id)), at: seconds_later(5) }
        })
        .collect();
    for (place, key) in [0, 20_000, 30_000, uses.len() - 1].into_iter().zip(&keys) {
        uses[place] = used(key, 5);
    }
    record(under_test, &uses).await;
    for key in &keys {
        assert_eq!(last_used_at(under_test, key).await, Some(seconds_later(5)));
    }
}
