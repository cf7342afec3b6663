//! Contract: a listing shows each key once, newest first, however it is paged and whatever is inserted meanwhile.

use apikey_application::ports::KeyStore;
use apikey_domain::{ApiKey, KeyType};
use futures_util::future::{join, join_all};

use super::{StoreUnderTest, commit, listing, newest_first, page};
use crate::fixtures::{
    a_key, a_key_with, an_instant, an_organization, another_organization, instant, issue, revoke, seconds_later,
};

fn a_key_made(seed: u64, seconds: u64) -> ApiKey {
    a_key_with(seed, |parts| parts.created_at = seconds_later(seconds))
}

async fn issue_all(under_test: &impl StoreUnderTest, keys: &[ApiKey]) {
    for some in keys.chunks(32) {
        for outcome in join_all(some.iter().map(|key| under_test.store().commit(issue(key)))).await {
            outcome.expect("nothing speaks against this commit");
        }
    }
}

fn ids(keys: &[ApiKey]) -> Vec<apikey_domain::KeyId> {
    keys.iter().map(ApiKey::id).collect()
}

pub async fn keys_of_one_instant_are_ordered_by_id(under_test: &impl StoreUnderTest) {
    let mut keys: Vec<_> = (1..=20).map(a_key).collect();
    issue_all(under_test, &keys).await;
    newest_first(&mut keys);
    assert!(keys.iter().all(|key| key.parts().created_at == an_instant()));
    assert_eq!(listing(under_test, &an_organization(), None, 3).await, keys);
}

pub async fn each_page_size_shows_each_key_once(under_test: &impl StoreUnderTest) {
    // Three keys to an instant, so that pages end inside an instant and between two.
    let mut keys: Vec<_> = (0..18).map(|seed| a_key_made(seed, seed / 3)).collect();
    issue_all(under_test, &keys).await;
    newest_first(&mut keys);
    for limit in [1, 2, 3, 4, 5, 7, 17, 18, 19, 1000] {
        assert_eq!(listing(under_test, &an_organization(), None, limit).await, keys, "pages of {limit}");
        let first = page(under_test, &an_organization(), None, None, limit).await;
        assert_eq!(first.keys.len(), keys.len().min(limit as usize));
        assert_eq!((first.total_count, first.more), (18, limit < 18));
    }
}

pub async fn a_page_that_is_exactly_full_and_last_says_so(under_test: &impl StoreUnderTest) {
    let keys: Vec<_> = (0..4).map(|seed| a_key_made(seed, seed)).collect();
    issue_all(under_test, &keys).await;
    assert!(!page(under_test, &an_organization(), None, None, 4).await.more);
    assert!(page(under_test, &an_organization(), None, None, 3).await.more);
    assert!(!page(under_test, &an_organization(), None, Some(&keys[2]), 2).await.more);
    let past_the_end = page(under_test, &an_organization(), None, Some(&keys[0]), 2).await;
    assert_eq!((past_the_end.keys.len(), past_the_end.more, past_the_end.total_count), (0, false, 4));
}

pub async fn types_are_filtered_and_counted_apart(under_test: &impl StoreUnderTest) {
    let is_token = |seed: u64| seed.is_multiple_of(3);
    let mut keys: Vec<_> = (0..20)
        .map(|seed| {
            a_key_with(seed, |parts| {
                parts.created_at = seconds_later(seed / 4);
                parts.key_type = if is_token(seed) { KeyType::ScimToken } else { KeyType::ApiKey };
            })
        })
        .collect();
    issue_all(under_test, &keys).await;
    issue_all(under_test, &[a_key_with(50, |parts| parts.organization_id = another_organization())]).await;
    commit(under_test, revoke(&keys[0], seconds_later(100))).await;
    keys[0].revoke(seconds_later(100)).expect("it was not revoked");
    newest_first(&mut keys);
    for key_type in KeyType::ALL {
        let mut expected = keys.clone();
        expected.retain(|key| key.parts().key_type == key_type);
        assert_eq!(listing(under_test, &an_organization(), Some(key_type), 3).await, expected);
        let first = page(under_test, &an_organization(), Some(key_type), None, 3).await;
        assert_eq!(first.total_count, expected.len() as u64, "revoked keys are counted too");
    }
    assert_eq!(page(under_test, &an_organization(), None, None, 3).await.total_count, 20);
    assert_eq!(page(under_test, &another_organization(), Some(KeyType::ScimToken), None, 3).await.total_count, 0);
}

pub async fn keys_inserted_between_pages_make_none_skip_or_repeat(under_test: &impl StoreUnderTest) {
    let mut keys: Vec<_> = (0..30).map(|seed| a_key_made(seed, 100 + seed / 2)).collect();
    issue_all(under_test, &keys).await;
    newest_first(&mut keys);
    let (mut seen, mut next) = (Vec::<ApiKey>::new(), 1_000);
    loop {
        let page = page(under_test, &an_organization(), None, seen.last(), 4).await;
        seen.extend(page.keys);
        if !page.more {
            break;
        }
        // Newer than all, of the instant that the page ended in, and older than all.
        let ended_at = seen.last().expect("a page").parts().created_at;
        for created_at in [seconds_later(10_000 + next), ended_at, an_instant()] {
            commit(under_test, issue(&a_key_with(next, |parts| parts.created_at = created_at))).await;
            next += 1;
        }
    }
    let mut once = ids(&seen);
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), seen.len(), "a key was repeated");
    let first_ones = ids(&keys);
    seen.retain(|key| first_ones.contains(&key.id()));
    assert_eq!(seen, keys, "a key was skipped or came in another order");
}

pub async fn keys_inserted_while_paging_make_none_skip_or_repeat(under_test: &impl StoreUnderTest) {
    let mut keys: Vec<_> = (0..60).map(|seed| a_key_made(seed, 100 + seed / 3)).collect();
    issue_all(under_test, &keys).await;
    newest_first(&mut keys);
    let first_ones = ids(&keys);
    let insert = async {
        for seed in 1_000..1_060 {
            let key = a_key_made(seed, if seed % 2 == 0 { 100 + seed % 20 } else { seed });
            commit(under_test, issue(&key)).await;
        }
    };
    let page_through = async {
        for limit in [1, 2, 5, 7] {
            let mut seen = listing(under_test, &an_organization(), None, limit).await;
            let mut once = ids(&seen);
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), seen.len(), "a key was repeated");
            seen.retain(|key| first_ones.contains(&key.id()));
            assert_eq!(seen, keys, "a key was skipped or came in another order");
        }
    };
    join(insert, page_through).await;
    assert_eq!(page(under_test, &an_organization(), None, None, 1).await.total_count, 120);
}

pub async fn a_position_needs_no_key_to_be_there(under_test: &impl StoreUnderTest) {
    let keys: Vec<_> = (0..4).map(|seed| a_key_made(seed, seed * 10)).collect();
    issue_all(under_test, &keys).await;
    let after = |seconds| a_key_made(99, seconds);
    let of = |under_test, key: ApiKey| async move {
        ids(&page(under_test, &an_organization(), None, Some(&key), 10).await.keys)
    };
    assert_eq!(of(under_test, after(15)).await, [keys[1].id(), keys[0].id()]);
    assert_eq!(of(under_test, after(1_000)).await.len(), 4);
    let before_all = a_key_with(99, |parts| parts.created_at = instant(0));
    assert_eq!(of(under_test, before_all).await, []);
}

pub async fn ten_thousand_keys_are_paged_through(under_test: &impl StoreUnderTest) {
    // Seven keys to an instant; every fifth is a token.
    let mut keys: Vec<_> = (0..10_000)
        .map(|seed: u64| {
            a_key_with(seed, |parts| {
                parts.created_at = seconds_later(seed / 7);
                if seed.is_multiple_of(5) {
                    parts.key_type = KeyType::ScimToken;
                }
            })
        })
        .collect();
    issue_all(under_test, &keys).await;
    newest_first(&mut keys);
    let mut tokens = keys.clone();
    tokens.retain(|key| key.parts().key_type == KeyType::ScimToken);
    for (key_type, limit, expected) in
        [(None, 1_000, &keys), (None, 97, &keys), (Some(KeyType::ScimToken), 50, &tokens)]
    {
        let mut place = 0;
        loop {
            let after = (place > 0).then(|| &expected[place - 1]);
            let page = page(under_test, &an_organization(), key_type, after, limit).await;
            let until = (place + limit as usize).min(expected.len());
            assert!(page.keys == expected[place..until], "the page from {place} on is another one");
            assert_eq!(page.total_count, expected.len() as u64);
            assert_eq!(page.more, until < expected.len());
            if !page.more {
                break;
            }
            place = until;
        }
    }
}
