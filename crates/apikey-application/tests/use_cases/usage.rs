//! `last_used_at`.

use std::sync::Arc;

use apikey_application::{CachedKey, VerificationRequest};
use apikey_testing::{
    StoreCall,
    fixtures::{an_instant, permissions, seconds_later},
};

use crate::house::{a_house, an_outage, presented};

#[tokio::test]
async fn a_successful_verification_is_recorded_by_the_next_flush_and_writes_nothing_before() {
    let house = a_house();
    let issued = house.issued().await;
    house.clock.set(seconds_later(3));
    house.verify.verify(presented(issued.raw_key.expose())).await.unwrap();
    assert_eq!(house.store.calls(StoreCall::RecordUses), 0);
    assert_eq!(house.usage.flush(&house.store).await.unwrap(), 1);
    assert_eq!(house.store.keys()[0].parts().last_used_at, Some(seconds_later(3)));
    assert_eq!(house.usage.flush(&house.store).await.unwrap(), 0);
    assert_eq!(house.store.calls(StoreCall::RecordUses), 1, "nothing noted, nothing written");
}

#[tokio::test]
async fn a_rejection_is_no_use() {
    let house = a_house();
    let issued = house.issued().await;
    let lacking = VerificationRequest {
        required_permissions: permissions(["PERMISSION_ORG_WRITE"]),
        ..presented(issued.raw_key.expose())
    };
    house.verify.verify(lacking).await.unwrap();
    assert_eq!(house.usage.flush(&house.store).await.unwrap(), 0);
}

#[tokio::test]
async fn the_latest_of_many_uses_is_kept_also_when_the_clock_steps_back() {
    let house = a_house();
    let issued = house.issued().await;
    for seconds in [1, 9, 4] {
        house.clock.set(seconds_later(seconds));
        house.verify.verify(presented(issued.raw_key.expose())).await.unwrap();
    }
    house.usage.flush(&house.store).await.unwrap();
    assert_eq!(house.store.keys()[0].parts().last_used_at, Some(seconds_later(9)));
}

#[tokio::test]
async fn a_failed_flush_loses_nothing() {
    let house = a_house();
    let keys: Vec<_> = (0..2_500).map(apikey_testing::fixtures::a_key).collect();
    for key in &keys {
        house.store.put(key.clone());
        house.usage.note(&Arc::new(CachedKey::new(key)), an_instant());
    }
    house.store.fail_next(StoreCall::RecordUses, an_outage());
    assert!(house.usage.flush(&house.store).await.is_err());
    // The cache forgot the key and read it again: there are two records of it now, each with a use of its own.
    house.usage.note(&Arc::new(CachedKey::new(&keys[0])), seconds_later(1));
    assert_eq!(house.usage.flush(&house.store).await.unwrap(), 2_501);
    for key in house.store.keys() {
        let expected = if key.id() == keys[0].id() { seconds_later(1) } else { an_instant() };
        assert_eq!(key.parts().last_used_at, Some(expected));
    }
}
