//! What is accepted, and as whom.

use apikey_domain::PermissionSet;
use apikey_identity::JwksSource;
use serde_json::{Value, json};

use crate::{
    AUDIENCE, NOW, authenticator_of, file_with,
    issuer::{SigningKey, good_claims, good_principal, jwks, permissions, without},
    outcome, rejected, settings, start,
};

#[tokio::test]
async fn each_of_the_three_algorithms_is_accepted() {
    let keys = [SigningKey::rsa(), SigningKey::p256(), SigningKey::ed25519()];
    let published: Vec<_> = keys.iter().map(|key| key.published(key.algorithm())).collect();
    let authenticator = authenticator_of(&published).await;
    for key in &keys {
        let token = key.good_token(key.algorithm());
        assert_eq!(outcome(&authenticator, &token).await, Ok(good_principal()), "{}", key.algorithm());
    }
}

#[tokio::test]
async fn what_says_nothing_about_validity_changes_nothing() {
    let key = SigningKey::ed25519();
    let stranger = SigningKey::ed25519();
    let authenticator = authenticator_of(&[key.published("ed")]).await;
    for header in [
        json!({ "typ": "jwt" }),
        json!({ "typ": "at+jwt" }),
        json!({ "typ": "AT+JWT" }),
        json!({ "typ": "application/at+jwt" }),
        json!({ "jku": "https://elsewhere.test/jwks", "x5u": "https://elsewhere.test/x5u", "jwk": stranger.jwk() }),
        json!({ "x5t": "AAAA", "anything": [1, { "nested": null }] }),
    ] {
        let token = key.token("ed", header.clone(), json!({}));
        assert_eq!(outcome(&authenticator, &token).await, Ok(good_principal()), "{header}");
    }
    for claims in [
        json!({ "aud": [AUDIENCE] }),
        json!({ "aud": ["unknown", "another-service"] }),
        json!({ "jti": "1", "scope": "admin", "org_id": "org_2", "cnf": { "x5t#S256": "AAAA" } }),
        json!({ "iat": 0 }),
        json!({ "iat": NOW + 1_000_000 }),
        json!({ "nbf": -1.5 }),
    ] {
        let token = key.token("ed", json!({}), claims.clone());
        assert_eq!(outcome(&authenticator, &token).await, Ok(good_principal()), "{claims}");
    }
    for claim in ["nbf", "iat"] {
        let token = key.token_of(key.header("ed").to_string(), without(good_claims(), claim).to_string());
        assert_eq!(outcome(&authenticator, &token).await, Ok(good_principal()), "without {claim}");
    }
    let token = key.token_of(without(key.header("ed"), "typ").to_string(), good_claims().to_string());
    assert_eq!(outcome(&authenticator, &token).await, Ok(good_principal()), "without typ");
}

/// The bounds of `exp` and `nbf` to the microsecond, with the default leeway of 30 s; their outer sides are among the bad tokens.
#[tokio::test]
async fn the_leeway_is_granted_to_its_last_microsecond() {
    let key = SigningKey::ed25519();
    let authenticator = authenticator_of(&[key.published("ed")]).await;
    for claims in ["\"exp\":1799999970.000001", "\"exp\":1799999971", "\"nbf\":1800000030", "\"nbf\":1800000030.0"] {
        let (name, _) = claims.split_once(':').unwrap();
        let rest = without(good_claims(), name.trim_matches('"')).to_string();
        let token = key.token_of(key.header("ed").to_string(), format!("{{{claims},{}", &rest[1..]));
        assert_eq!(outcome(&authenticator, &token).await, Ok(good_principal()), "{claims}");
    }
    let path = file_with(&jwks(&[key.published("ed")]));
    let mut without_leeway = settings(JwksSource::File(path));
    without_leeway.leeway = std::time::Duration::ZERO;
    let authenticator = start(&without_leeway).await;
    let expires_at = |exp: Value| key.token("ed", json!({}), json!({ "exp": exp }));
    assert_eq!(outcome(&authenticator, &expires_at(json!(NOW + 1))).await, Ok(good_principal()));
    assert_eq!(outcome(&authenticator, &expires_at(json!(1_800_000_000.5))).await, Ok(good_principal()));
    assert_eq!(outcome(&authenticator, &expires_at(json!(NOW))).await, rejected("expiry"));
}

#[tokio::test]
async fn permissions_are_normalized_and_unknown_ones_left_out() {
    let key = SigningKey::ed25519();
    let authenticator = authenticator_of(&[key.published("ed")]).await;
    let both = permissions(&["PERMISSION_MANAGE_API_KEYS", "PERMISSION_ORG_READ"]);
    for (claim, expected) in [
        (json!(["MANAGE_API_KEYS", "PERMISSION_ORG_READ"]), both.clone()),
        (json!("MANAGE_API_KEYS PERMISSION_ORG_READ"), both.clone()),
        (json!("  ORG_READ  ORG_READ PERMISSION_ORG_READ MANAGE_API_KEYS "), both),
        (json!(["org_read", "PERMISSION_PERMISSION_ORG_READ", "ORG_READ ", "", "*"]), PermissionSet::empty()),
        (json!("PERMISSION_ openid\tORG_READ"), PermissionSet::empty()),
        (json!([]), PermissionSet::empty()),
        (json!(""), PermissionSet::empty()),
    ] {
        let token = key.token("ed", json!({}), json!({ "permissions": claim }));
        let principal = outcome(&authenticator, &token).await.unwrap();
        assert_eq!(principal.permissions, expected, "{claim}");
    }
    let token = key.token_of(key.header("ed").to_string(), without(good_claims(), "permissions").to_string());
    assert_eq!(outcome(&authenticator, &token).await.unwrap().permissions, PermissionSet::empty());
}

#[tokio::test]
async fn the_names_of_the_claims_are_the_deployments_own() {
    let key = SigningKey::p256();
    let mut settings = settings(JwksSource::File(file_with(&jwks(&[key.published("ec")]))));
    settings.organization_claim = "https://claims.test/org.id".to_owned();
    settings.permissions_claim = "scope".to_owned();
    let authenticator = start(&settings).await;

    let token = key.token("ec", json!({}), json!({ "https://claims.test/org.id": "org_2", "scope": "ORG_WRITE" }));
    let principal = outcome(&authenticator, &token).await.unwrap();
    assert_eq!(principal.organization_id.as_str(), "org_2");
    assert_eq!(principal.permissions, permissions(&["PERMISSION_ORG_WRITE"]));

    assert_eq!(outcome(&authenticator, &key.good_token("ec")).await, rejected("organization"));
}

#[tokio::test]
async fn a_token_without_kid_is_accepted_where_one_key_alone_fits() {
    let (rsa, ec, ed) = (SigningKey::rsa(), SigningKey::p256(), SigningKey::ed25519());
    let authenticator = authenticator_of(&[rsa.published("rsa"), ec.jwk(), ed.published("ed")]).await;
    for key in [&rsa, &ec, &ed] {
        let token = key.token_of(without(key.header("x"), "kid").to_string(), good_claims().to_string());
        assert_eq!(outcome(&authenticator, &token).await, Ok(good_principal()), "{}", key.algorithm());
    }
    // A key without an id is nobody's who names one.
    assert_eq!(outcome(&authenticator, &ec.good_token("ec")).await, rejected("kid"));
}

#[tokio::test]
async fn a_token_of_the_largest_size_is_accepted() {
    let key = SigningKey::ed25519();
    let authenticator = authenticator_of(&[key.published("ed")]).await;
    // Base64 makes four characters of three bytes, so some lengths need a byte in the header too.
    let padded = |header: usize, claims: usize| {
        key.token("ed", json!({ "x": "p".repeat(header) }), json!({ "x": "p".repeat(claims) }))
    };
    let lengths = (0..3).flat_map(|header| (5_500..6_000).map(move |claims| (header, claims)));
    let token = lengths.map(|(header, claims)| padded(header, claims)).find(|token| token.len() == 8_192).unwrap();
    assert_eq!(outcome(&authenticator, &token).await, Ok(good_principal()));
}
