//! Listing keys.

use std::time::Duration;

use apikey_application::{ErrorKind, FieldViolation, IssueRequest, ListError, ListRequest, Listing};
use apikey_domain::{KeyType, OrganizationId};
use apikey_testing::{
    StoreCall,
    fixtures::{a_caller, a_key_with, seconds_later},
};

use crate::house::{House, a_house, a_manager, a_request, a_visitor, an_outage};

async fn a_house_of(keys: usize) -> House {
    let house = a_house();
    for _ in 0..keys {
        house.issued().await;
        house.clock.advance(Duration::from_secs(1));
    }
    house
}

fn page(page_size: i32, after: Option<&Listing>) -> ListRequest {
    let page_token = after.and_then(|listing| listing.next_page_token.as_ref()).map(ToString::to_string);
    ListRequest { key_type: None, page_size, page_token: page_token.unwrap_or_default() }
}

fn violated_fields(error: Option<ListError>) -> Vec<String> {
    match error {
        Some(ListError::InvalidFields(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
        other => panic!("not about fields: {other:?}"),
    }
}

#[tokio::test]
async fn pages_follow_each_other_newest_first_and_end() {
    let house = a_house_of(5).await;
    let mut seen = Vec::new();
    let mut last = None;
    for newcomers in 0.. {
        let listing = house.list.list(&a_manager(), Ok(page(2, last.as_ref()))).await.unwrap();
        assert_eq!(listing.total_count, 5 + newcomers);
        seen.extend(listing.keys.iter().map(|key| key.parts().created_at));
        if listing.next_page_token.is_none() {
            break;
        }
        // A key issued meanwhile is newer than every position: it disturbs no page.
        house.store.put(a_key_with(newcomers, |parts| parts.created_at = seconds_later(1_000)));
        last = Some(listing);
    }
    assert_eq!(seen, [4, 3, 2, 1, 0].map(seconds_later));
}

#[tokio::test]
async fn a_page_of_large_keys_ends_earlier_and_none_is_lost() {
    let house = a_house();
    let name = apikey_domain::KeyName::parse(&"\u{1F511}".repeat(200)).unwrap();
    (0..1_000).for_each(|seed| {
        house.store.put(a_key_with(seed, |parts| {
            parts.name = name.clone();
            parts.permissions = apikey_domain::pidgr::CATALOGUE.all();
        }));
    });
    let (mut seen, mut pages, mut last) = (std::collections::HashSet::new(), 0, None);
    loop {
        let listing = house.list.list(&a_manager(), Ok(page(1_000, last.as_ref()))).await.unwrap();
        let bytes: usize = listing.keys.iter().map(|key| key.parts().name.as_str().len()).sum();
        assert!((1..=512 * 1024).contains(&bytes), "{bytes}");
        seen.extend(listing.keys.iter().map(apikey_domain::ApiKey::id));
        pages += 1;
        if listing.next_page_token.is_none() {
            break;
        }
        last = Some(listing);
    }
    assert_eq!(seen.len(), 1_000);
    assert!(pages > 1, "{pages}");
}

#[tokio::test]
async fn a_page_size_of_zero_is_fifty_and_above_a_thousand_a_thousand() {
    let house = a_house();
    (0..1_002).for_each(|seed| house.store.put(a_key_with(seed, |_| ())));
    for (page_size, expected) in [(0, 50), (1, 1), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
        let listing = house.list.list(&a_manager(), Ok(page(page_size, None))).await.unwrap();
        assert_eq!(listing.keys.len(), expected, "{page_size}");
    }
    for page_size in [-1, i32::MIN] {
        let outcome = house.list.list(&a_manager(), Ok(page(page_size, None))).await;
        assert_eq!(violated_fields(outcome.err()), ["pagination.page_size"]);
    }
}

#[tokio::test]
async fn a_listing_ends_exactly_at_its_last_key() {
    let house = a_house_of(2).await;
    let listing = house.list.list(&a_manager(), Ok(page(2, None))).await.unwrap();
    assert_eq!((listing.keys.len(), listing.next_page_token), (2, None));
}

#[tokio::test]
async fn a_token_belongs_to_its_organization_and_filter() {
    let house = a_house_of(3).await;
    let first = house.list.list(&a_manager(), Ok(page(1, None))).await.unwrap();
    let token = page(1, Some(&first));
    let mut foreigner = a_caller();
    foreigner.principal.organization_id = OrganizationId::parse("globex").unwrap();
    let filtered = ListRequest { key_type: Some(KeyType::ApiKey), ..token.clone() };
    let altered = (0..token.page_token.len()).map(|place| {
        let mut text = token.page_token.clone();
        let other = if text[place..].starts_with('A') { "B" } else { "A" };
        text.replace_range(place..=place, other);
        ListRequest { page_token: text, ..token.clone() }
    });
    let altered: Vec<_> = altered.collect();
    let garbage = ListRequest { page_token: "next".to_owned(), page_size: -1, key_type: None };
    assert_eq!(violated_fields(house.list.list(&foreigner, Ok(token)).await.err()), ["pagination.page_token"]);
    assert_eq!(violated_fields(house.list.list(&a_manager(), Ok(filtered)).await.err()), ["pagination.page_token"]);
    let both = ["pagination.page_size", "pagination.page_token"];
    assert_eq!(violated_fields(house.list.list(&a_manager(), Ok(garbage)).await.err()), both);
    for altered in altered {
        assert_eq!(violated_fields(house.list.list(&a_manager(), Ok(altered)).await.err()), ["pagination.page_token"]);
    }
}

#[tokio::test]
async fn a_listing_shows_one_organization_and_one_type_if_asked() {
    let house = a_house_of(2).await;
    let scim = IssueRequest { key_type: KeyType::ScimToken, ..a_request() };
    let scim = house.issue.issue(&a_manager(), Ok(scim)).await.ok().unwrap();
    let only_scim = ListRequest { key_type: Some(KeyType::ScimToken), ..ListRequest::default() };
    let listing = house.list.list(&a_manager(), Ok(only_scim)).await.unwrap();
    assert_eq!((listing.keys, listing.total_count), (vec![scim.key], 1));

    let mut foreigner = a_caller();
    foreigner.principal.organization_id = OrganizationId::parse("globex").unwrap();
    let listing = house.list.list(&foreigner, Ok(ListRequest::default())).await.unwrap();
    assert_eq!((listing.keys, listing.total_count, listing.next_page_token), (vec![], 0, None));
}

#[tokio::test]
async fn permission_comes_before_fields_and_outages_are_errors() {
    let house = a_house_of(1).await;
    let wrong = Err(vec![FieldViolation::new("key_type", "is not a type")]);
    assert_eq!(house.list.list(&a_visitor(), wrong).await.err().unwrap().kind(), ErrorKind::PermissionDenied);
    house.store.fail_next(StoreCall::Page, an_outage());
    let outcome = house.list.list(&a_manager(), Ok(ListRequest::default())).await;
    assert_eq!(outcome.err().unwrap().kind(), ErrorKind::Unavailable);
}
