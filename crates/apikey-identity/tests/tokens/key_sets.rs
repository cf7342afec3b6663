//! Which keys of a set are used, which sets are none, and which settings are refused.

use std::{path::PathBuf, time::Duration};

use apikey_domain::pidgr;
use apikey_identity::{JwksError, JwksSource, JwtAuthenticator, JwtSettings, JwtSetupError, KeySetError};
use serde_json::{Value, json};

use crate::{
    Stopped, authenticator_of, file_with,
    issuer::{SigningKey, encode, good_principal, jwks, with, without},
    outcome, rejected, settings,
};

async fn setup_error(settings: &JwtSettings) -> JwtSetupError {
    match JwtAuthenticator::start(settings, pidgr::CATALOGUE, Stopped).await {
        Ok(_) => panic!("accepted: {settings:?}"),
        Err(error) => error,
    }
}

async fn file_error(path: PathBuf) -> JwksError {
    match setup_error(&settings(JwksSource::File(path))).await {
        JwtSetupError::File { cause, .. } => cause,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn optional_members_that_fit_change_nothing() {
    let key = SigningKey::rsa();
    let modulus = key.jwk()["n"].as_str().unwrap().to_owned();
    for members in [
        json!({}),
        json!({ "use": "sig" }),
        json!({ "alg": "RS256" }),
        json!({ "key_ops": ["verify"], "x5c": ["AAAA"], "x5t": "AAAA", "anything": {} }),
        // A zero byte in front, as some issuers encode signed integers.
        json!({ "n": format!("AAAA{modulus}") }),
    ] {
        let authenticator = authenticator_of(&[with(with(key.jwk(), json!({ "kid": "k" })), members.clone())]).await;
        assert_eq!(outcome(&authenticator, &key.good_token("k")).await, Ok(good_principal()), "{members}");
    }
}

/// Each of these keys really signs the token, and would let it pass if it were used.
#[tokio::test]
async fn keys_that_do_not_fit_are_left_out_and_the_others_stay() {
    let other = SigningKey::ed25519();
    let (rsa, ec, ed) = (SigningKey::rsa(), SigningKey::p256(), SigningKey::ed25519());
    for (key, members) in [
        (&rsa, json!({ "use": "enc" })),
        (&rsa, json!({ "use": null })),
        (&rsa, json!({ "alg": "RS512" })),
        (&rsa, json!({ "alg": "PS256" })),
        (&rsa, json!({ "alg": "ES256" })),
        (&rsa, json!({ "alg": "HS256" })),
        (&rsa, json!({ "alg": 1 })),
        (&rsa, json!({ "key_ops": ["encrypt", "sign"] })),
        (&rsa, json!({ "key_ops": "verify" })),
        (&rsa, json!({ "kty": "rsa" })),
        (&rsa, json!({ "kty": "oct" })),
        (&rsa, json!({ "d": "AAAA" })),
        (&rsa, json!({ "k": "AAAA" })),
        (&rsa, json!({ "kid": 1 })),
        (&ec, json!({ "crv": "P-384" })),
        (&ec, json!({ "crv": "secp256k1" })),
        (&ec, json!({ "kty": "OKP" })),
        (&ec, json!({ "alg": "ES384" })),
        (&ec, json!({ "d": "AAAA" })),
        (&ed, json!({ "crv": "Ed448" })),
        (&ed, json!({ "crv": "X25519" })),
        (&ed, json!({ "alg": "Ed25519" })),
        (&ed, json!({ "d": "AAAA" })),
        (&ed, json!({ "use": "enc" })),
    ] {
        let unfit = with(key.published("unfit"), members.clone());
        let authenticator = authenticator_of(&[unfit, json!("not a key"), other.published("other")]).await;
        assert_eq!(outcome(&authenticator, &key.good_token("unfit")).await, rejected("kid"), "{members}");
        assert_eq!(outcome(&authenticator, &other.good_token("other")).await, Ok(good_principal()), "{members}");
    }
}

#[tokio::test]
async fn numbers_that_are_no_key_are_left_out() {
    let (rsa, ec, ed) = (SigningKey::rsa().jwk(), SigningKey::p256().jwk(), SigningKey::ed25519().jwk());
    let modulus = |bytes: usize, first: u8, last: u8| {
        let mut number = vec![0xa5; bytes];
        (number[0], number[bytes - 1]) = (first, last);
        json!({ "n": encode(number) })
    };
    let unusable = [
        with(rsa.clone(), modulus(128, 0x80, 1)),
        with(rsa.clone(), modulus(256, 0x7f, 1)),
        with(rsa.clone(), modulus(257, 0, 0)),
        with(rsa.clone(), modulus(1025, 1, 1)),
        with(rsa.clone(), modulus(256, 0x80, 2)),
        with(rsa.clone(), json!({ "n": "" })),
        with(rsa.clone(), json!({ "n": 5 })),
        with(rsa.clone(), json!({ "n": format!("{}=", rsa["n"].as_str().unwrap()) })),
        with(rsa.clone(), json!({ "e": "" })),
        with(rsa.clone(), json!({ "e": encode([1]) })),
        with(rsa.clone(), json!({ "e": encode([2]) })),
        with(rsa.clone(), json!({ "e": encode([1, 0, 0, 0, 1]) })),
        without(rsa.clone(), "e"),
        with(ec.clone(), json!({ "x": encode([1; 31]) })),
        with(ec.clone(), json!({ "y": encode([1; 33]) })),
        without(ec, "y"),
        with(ed.clone(), json!({ "x": encode([1; 31]) })),
        without(ed, "x"),
    ];
    for key in unusable {
        let error = file_error(file_with(&jwks(std::slice::from_ref(&key)))).await;
        assert!(matches!(error, JwksError::KeySet(KeySetError::NoUsableKey)), "{key}: {error:?}");
    }
    // The smallest legal modulus, to show that the bounds above are where they should be.
    let smallest = with(rsa.clone(), modulus(256, 0x80, 1));
    authenticator_of(&[smallest]).await;
    authenticator_of(&[with(rsa, modulus(1024, 0x80, 1))]).await;
}

#[tokio::test]
async fn a_file_without_usable_keys_is_refused_at_start() {
    let good = SigningKey::ed25519().published("ed");
    for (content, expected) in [
        (String::new(), KeySetError::Malformed),
        ("[]".to_owned(), KeySetError::Malformed),
        ("{}".to_owned(), KeySetError::Malformed),
        (good.to_string(), KeySetError::Malformed),
        (json!({ "keys": { "ed": good } }).to_string(), KeySetError::Malformed),
        (format!("{} x", jwks(std::slice::from_ref(&good))), KeySetError::Malformed),
        (format!(r#"{{"keys":[],"keys":[{good}]}}"#), KeySetError::DuplicateMember),
        (format!(r#"{{"keys":[{{"kid":"a",{}]}}"#, &good.to_string()[1..]), KeySetError::DuplicateMember),
        (jwks(&[]), KeySetError::NoUsableKey),
        (jwks(&[Value::Null, json!({ "kty": "oct", "k": "AAAA" })]), KeySetError::NoUsableKey),
    ] {
        match file_error(file_with(&content)).await {
            JwksError::KeySet(error) => assert_eq!(error, expected, "{content}"),
            other => panic!("{content}: {other}"),
        }
    }
    assert!(matches!(file_error("/nonexistent/jwks.json".into()).await, JwksError::Read(_)));

    let document = jwks(std::slice::from_ref(&good));
    let padded = |length: usize| format!("{document}{}", " ".repeat(length - document.len()));
    let largest = settings(JwksSource::File(file_with(&padded(1024 * 1024))));
    assert!(JwtAuthenticator::start(&largest, pidgr::CATALOGUE, Stopped).await.is_ok());
    assert!(matches!(file_error(file_with(&padded(1024 * 1024 + 1))).await, JwksError::TooLarge));
}

#[tokio::test]
async fn settings_out_of_their_bounds_are_refused_by_name() {
    let good = settings(JwksSource::File(file_with(&jwks(&[SigningKey::ed25519().jwk()]))));
    let changed = |change: fn(&mut JwtSettings)| {
        let mut settings = good.clone();
        change(&mut settings);
        settings
    };
    for (settings, expected) in [
        (changed(|s| s.issuer.clear()), "issuer"),
        (changed(|s| s.issuer = "https://issuer.test/a b".to_owned()), "issuer"),
        (changed(|s| s.issuer = "i".repeat(256)), "issuer"),
        (changed(|s| s.audiences.clear()), "audience"),
        (changed(|s| s.audiences.push(String::new())), "audience"),
        (changed(|s| s.organization_claim.clear()), "organization claim"),
        (changed(|s| s.permissions_claim.clear()), "permissions claim"),
        (changed(|s| s.leeway = Duration::from_secs(301)), "the leeway must be 0 to 300 seconds"),
        (changed(|s| s.refresh_interval = Duration::from_millis(999)), "the refresh interval must be 1 to 86400"),
        (changed(|s| s.refresh_interval = Duration::from_secs(86_401)), "the refresh interval must be 1 to 86400"),
        (changed(|s| s.cool_down = Duration::from_secs(3_601)), "the cool-down must be 0 to 3600 seconds"),
    ] {
        let error = setup_error(&settings).await.to_string();
        assert!(error.contains(expected), "{error}");
    }
}
