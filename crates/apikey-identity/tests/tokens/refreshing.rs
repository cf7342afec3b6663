//! Keys over time: issuers that rotate them, hang, fail and recover, and strangers who name keys that never were.

use std::{future::Future, task::Poll, time::Duration};

use apikey_identity::{JwksSource, JwtSettings};

use crate::{
    Shared, file_with,
    issuer::{SigningKey, good_principal, jwks},
    issuer_server::{Behaviour, IssuerServer},
    outcome, rejected, settings, start, unavailable,
};

/// Settings under which nothing is fetched but at start and because of tokens.
fn unscheduled(jwks: JwksSource, cool_down: Duration) -> JwtSettings {
    JwtSettings { refresh_interval: Duration::from_hours(24), cool_down, ..settings(jwks) }
}

const LONG: Duration = Duration::from_hours(1);

/// Fails a test that would otherwise hang; no test depends on how long anything takes.
async fn within_reason<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(2), future).await.unwrap()
}

fn set(keys: &[(&SigningKey, &str)]) -> String {
    jwks(&keys.iter().map(|(key, key_id)| key.published(key_id)).collect::<Vec<_>>())
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_ends() {
    let (old, new) = (SigningKey::p256(), SigningKey::ed25519());
    let server = IssuerServer::start(Behaviour::Serve(set(&[(&old, "old")]))).await;
    let authenticator = start(&unscheduled(server.source(), Duration::ZERO)).await;
    assert_eq!(outcome(&authenticator, &old.good_token("old")).await, Ok(good_principal()));
    assert_eq!(server.requests(), 1);

    server.behave(Behaviour::Serve(set(&[(&old, "old"), (&new, "new")])));
    assert_eq!(outcome(&authenticator, &new.good_token("new")).await, Ok(good_principal()));
    assert_eq!(outcome(&authenticator, &old.good_token("old")).await, Ok(good_principal()));
    assert_eq!(server.requests(), 2);

    server.behave(Behaviour::Serve(set(&[(&new, "new")])));
    assert_eq!(outcome(&authenticator, &new.good_token("never was")).await, rejected("kid"));
    assert_eq!(outcome(&authenticator, &new.good_token("new")).await, Ok(good_principal()));
    assert_eq!(outcome(&authenticator, &old.good_token("old")).await, rejected("kid"));
}

#[tokio::test]
async fn strangers_cannot_make_the_issuer_be_asked_within_the_cool_down() {
    let key = SigningKey::ed25519();
    let server = IssuerServer::start(Behaviour::Serve(set(&[(&key, "key")]))).await;
    let authenticator = start(&unscheduled(server.source(), LONG)).await;
    for number in 0..50 {
        let token = key.good_token(&format!("unknown {number}"));
        assert_eq!(outcome(&authenticator, &token).await, rejected("kid"));
    }
    assert_eq!(outcome(&authenticator, &key.good_token("key")).await, Ok(good_principal()));
    assert_eq!(server.requests(), 1);

    // Without one, each of them can: so it is the cool-down that holds them off.
    let authenticator = start(&unscheduled(server.source(), Duration::ZERO)).await;
    assert_eq!(outcome(&authenticator, &key.good_token("key")).await, Ok(good_principal()));
    assert_eq!(server.requests(), 2);
    for number in 0..5 {
        let token = key.good_token(&format!("unknown {number}"));
        assert_eq!(outcome(&authenticator, &token).await, rejected("kid"));
        assert_eq!(server.requests(), 3 + number);
    }
}

#[tokio::test]
async fn bad_tokens_that_name_a_known_key_or_none_never_cause_a_fetch() {
    let (key, stranger) = (SigningKey::ed25519(), SigningKey::ed25519());
    let server = IssuerServer::start(Behaviour::Serve(set(&[(&key, "key")]))).await;
    let authenticator = start(&unscheduled(server.source(), Duration::ZERO)).await;
    assert_eq!(outcome(&authenticator, &key.good_token("key")).await, Ok(good_principal()));
    assert_eq!(outcome(&authenticator, &stranger.good_token("key")).await, rejected("signature"));
    assert_eq!(outcome(&authenticator, &SigningKey::p256().good_token("key")).await, rejected("key"));
    assert_eq!(outcome(&authenticator, "a.b.c").await, rejected("encoding"));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn however_many_wait_for_a_key_there_is_one_fetch() {
    let (old, new) = (SigningKey::p256(), SigningKey::ed25519());
    let server = IssuerServer::start(Behaviour::Serve(set(&[(&old, "old")]))).await;
    let authenticator = Shared::new(start(&unscheduled(server.source(), Duration::ZERO)).await);
    assert_eq!(outcome(&*authenticator, &old.good_token("old")).await, Ok(good_principal()));

    server.behave(Behaviour::Hold(set(&[(&new, "new")])));
    let token = new.good_token("new");
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (authenticator, token) = (Shared::clone(&authenticator), token.clone());
            tokio::spawn(async move { outcome(&*authenticator, &token).await })
        })
        .collect();
    within_reason(server.requested(2)).await;
    // Known keys do not wait meanwhile.
    assert_eq!(outcome(&*authenticator, &old.good_token("old")).await, Ok(good_principal()));
    server.release();
    for task in waiting {
        assert_eq!(within_reason(task).await.unwrap(), Ok(good_principal()));
    }
    // Nor does another follow, for which nobody waits. A slow machine can only make this miss one, never see one.
    assert!(tokio::time::timeout(Duration::from_millis(500), server.requested(3)).await.is_err());
}

#[tokio::test]
async fn a_fetch_goes_on_without_the_one_who_asked_for_it() {
    let (old, new) = (SigningKey::p256(), SigningKey::ed25519());
    let server = IssuerServer::start(Behaviour::Serve(set(&[(&old, "old")]))).await;
    let authenticator = start(&unscheduled(server.source(), Duration::ZERO)).await;
    assert_eq!(outcome(&authenticator, &old.good_token("old")).await, Ok(good_principal()));

    server.behave(Behaviour::Hold(set(&[(&new, "new")])));
    let token = new.good_token("new");
    let mut first = Box::pin(outcome(&authenticator, &token));
    assert!(std::future::poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await);
    within_reason(server.requested(2)).await;
    drop(first);
    server.release();
    assert_eq!(within_reason(outcome(&authenticator, &token)).await, Ok(good_principal()));
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn an_outage_keeps_the_last_good_set_and_answers_unavailable_for_the_rest() {
    let (old, new, elsewhere) = (SigningKey::rsa(), SigningKey::ed25519(), SigningKey::ed25519());
    let elsewhere_server = IssuerServer::start(Behaviour::Serve(set(&[(&elsewhere, "new")]))).await;
    let location = match elsewhere_server.source() {
        JwksSource::Url(url) => url.to_string(),
        JwksSource::File(_) => panic!("an address"),
    };
    let unusable = jwks(&[serde_json::json!({ "kty": "oct", "kid": "new", "k": "AAAA" })]);
    let server = IssuerServer::start(Behaviour::Serve(set(&[(&old, "old")]))).await;
    let authenticator = start(&unscheduled(server.source(), Duration::ZERO)).await;
    for (number, behaviour) in [
        Behaviour::Close,
        Behaviour::BreakOff,
        Behaviour::Status(500, None),
        Behaviour::Status(404, None),
        Behaviour::Status(204, None),
        Behaviour::Status(302, Some(location.clone())),
        Behaviour::Status(307, Some("/elsewhere".to_owned())),
        Behaviour::Serve(String::new()),
        Behaviour::Serve("<html>".to_owned()),
        Behaviour::Serve(jwks(&[])),
        Behaviour::Serve(unusable),
        Behaviour::Flood(set(&[(&new, "new")])),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(outcome(&authenticator, &old.good_token("old")).await, Ok(good_principal()), "before {number}");
        server.behave(behaviour);
        let before = server.requests();
        assert_eq!(outcome(&authenticator, &new.good_token("new")).await, unavailable(), "{number}");
        assert!(server.requests() > before, "{number}");
    }
    assert_eq!(elsewhere_server.requests(), 0, "a redirect was followed");

    server.behave(Behaviour::Serve(set(&[(&new, "new")])));
    assert_eq!(outcome(&authenticator, &new.good_token("new")).await, Ok(good_principal()));
}

#[tokio::test]
async fn an_issuer_that_cannot_be_reached_at_start_is_waited_for() {
    let key = SigningKey::p256();
    let server = IssuerServer::start(Behaviour::Close).await;
    // Only the schedule fetches here: a failed fetch is repeated after a second or so, long before the interval.
    let authenticator = start(&unscheduled(server.source(), LONG)).await;
    assert_eq!(outcome(&authenticator, &key.good_token("key")).await, unavailable());
    assert_eq!(outcome(&authenticator, &key.token_of(r#"{"alg":"ES256"}"#, "{}")).await, unavailable());
    assert_eq!(outcome(&authenticator, "a.b.c").await, rejected("encoding"), "what is bad under any key");

    server.behave(Behaviour::Serve(set(&[(&key, "key")])));
    within_reason(async {
        while outcome(&authenticator, &key.good_token("key")).await == unavailable() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(outcome(&authenticator, &key.good_token("key")).await, Ok(good_principal()));
}

#[tokio::test]
async fn keys_that_the_issuer_withdraws_end_with_the_next_scheduled_fetch() {
    let (old, new) = (SigningKey::p256(), SigningKey::ed25519());
    let server = IssuerServer::start(Behaviour::Serve(set(&[(&old, "old")]))).await;
    let authenticator =
        start(&JwtSettings { refresh_interval: Duration::from_secs(1), cool_down: LONG, ..settings(server.source()) })
            .await;
    assert_eq!(outcome(&authenticator, &old.good_token("old")).await, Ok(good_principal()));
    server.behave(Behaviour::Serve(set(&[(&new, "new")])));
    within_reason(async {
        while outcome(&authenticator, &old.good_token("old")).await == Ok(good_principal()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(outcome(&authenticator, &old.good_token("old")).await, rejected("kid"));
    assert_eq!(outcome(&authenticator, &new.good_token("new")).await, Ok(good_principal()));
}

#[tokio::test]
async fn a_file_is_read_again_too() {
    let (old, new) = (SigningKey::p256(), SigningKey::ed25519());
    let path = file_with(&set(&[(&old, "old")]));
    let authenticator = start(&unscheduled(JwksSource::File(path.clone()), Duration::ZERO)).await;
    assert_eq!(outcome(&authenticator, &old.good_token("old")).await, Ok(good_principal()));
    std::fs::write(&path, set(&[(&new, "new")])).unwrap();
    assert_eq!(outcome(&authenticator, &new.good_token("new")).await, Ok(good_principal()));
    std::fs::write(&path, "{").unwrap();
    assert_eq!(outcome(&authenticator, &old.good_token("old")).await, unavailable());
    assert_eq!(outcome(&authenticator, &new.good_token("new")).await, Ok(good_principal()));
}
