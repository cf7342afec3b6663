//! Algorithms, keys, their ids, signatures, and the rest of the header.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256,
    },
};
use serde_json::{Value, json};

use super::{Issuer, SYMMETRIC_SECRET, named};
use crate::{
    authenticator_of,
    issuer::{SigningKey, assemble, encode, good_claims, hs256},
    outcome, rejected,
};

#[tokio::test]
async fn algorithm() {
    let issuer = Issuer::new().await;
    let claims = good_claims().to_string();
    let header = |algorithm: Value, key_id: &str| json!({ "alg": algorithm, "kid": key_id, "typ": "JWT" }).to_string();
    let mut tokens = Vec::new();
    for name in ["none", "None", "NONE", "nOnE", ""] {
        for key_id in ["rsa", "ec", "ed"] {
            tokens.push(named(name, assemble(header(json!(name), key_id), &claims, |_| Vec::new())));
        }
    }
    // The classic: what is public about a key, taken for a shared secret.
    let modulus = match &issuer.rsa {
        SigningKey::Rsa(pair) => pair.public_key().as_ref().to_vec(),
        _ => panic!("an RSA key"),
    };
    let jwk = issuer.rsa.published("rsa").to_string().into_bytes();
    for secret in [modulus.as_slice(), &jwk, b"", SYMMETRIC_SECRET] {
        for (name, key_id) in [("HS256", "rsa"), ("HS384", "rsa"), ("HS512", "ed"), ("HS256", "symmetric")] {
            tokens.push(named(name, assemble(header(json!(name), key_id), &claims, |message| hs256(secret, message))));
        }
    }
    // Good signatures of other algorithms.
    for (name, encoding) in [("RS512", &RSA_PKCS1_SHA512), ("PS256", &RSA_PSS_SHA256)] {
        let sign = |message: &[u8]| issuer.rsa.sign_rsa(encoding, message);
        tokens.push(named(name, assemble(header(json!(name), "rsa"), &claims, sign)));
    }
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let sign = |message: &[u8]| p384.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    tokens.push(named("ES384", assemble(header(json!("ES384"), "ec"), &claims, sign)));
    // Good signatures of the right one, wrongly named.
    for name in [
        json!("eddsa"),
        json!("EDDSA"),
        json!("EdDSA "),
        json!("EdDSA\u{0}"),
        json!("Ed25519"),
        json!("rs256"),
        json!("ES256K"),
        json!(["EdDSA"]),
        json!({ "EdDSA": "EdDSA" }),
        json!(1),
        json!(true),
        json!(null),
    ] {
        tokens.push(named(&name.to_string(), issuer.ed.token_of(header(name, "ed"), &claims)));
    }
    tokens.push(named("no alg", issuer.ed.token_of(r#"{"kid":"ed"}"#, &claims)));
    issuer.rejects("algorithm", tokens).await;
}

#[tokio::test]
async fn key() {
    let issuer = Issuer::new().await;
    let mut tokens = Vec::new();
    for key in [&issuer.rsa, &issuer.ec, &issuer.ed] {
        for key_id in ["rsa", "ec", "ed"] {
            tokens.push((
                format!("{} under {key_id}", key.algorithm()),
                key.good_token(key_id),
                key.algorithm(),
                key_id,
            ));
        }
    }
    tokens.retain(|(_, _, algorithm, key_id)| {
        !matches!((*algorithm, *key_id), ("RS256", "rsa") | ("ES256", "ec") | ("EdDSA", "ed"))
    });
    assert_eq!(tokens.len(), 6);
    issuer.rejects("key", tokens.into_iter().map(|(name, token, ..)| (name, token))).await;

    // Without an id, and no key of that algorithm in the set.
    let authenticator = authenticator_of(&[issuer.rsa.jwk()]).await;
    let token = issuer.ed.token_of(r#"{"alg":"EdDSA"}"#, good_claims().to_string());
    assert_eq!(outcome(&authenticator, &token).await, rejected("key"));
}

#[tokio::test]
async fn signature() {
    let issuer = Issuer::new().await;
    let mut tokens = Vec::new();
    for (key, key_id, stranger) in [
        (&issuer.rsa, "rsa", &issuer.stranger[0]),
        (&issuer.ec, "ec", &issuer.stranger[1]),
        (&issuer.ed, "ed", &issuer.stranger[2]),
    ] {
        let good = key.good_token(key_id);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let (_, signature_bytes) = signed_parts(&good);
        let other = key.token(key_id, json!({}), json!({ "custom:org_id": "org_2" }));
        let (other_message, _) = other.rsplit_once('.').unwrap();
        let length = signature_bytes.len();
        tokens.extend([
            (format!("{key_id}: by a stranger"), stranger.good_token(key_id)),
            (
                format!("{key_id}: by a stranger who brings the key along"),
                stranger.token(key_id, json!({ "jwk": stranger.published(key_id) }), json!({})),
            ),
            (
                format!("{key_id}: by a stranger who says where the key is"),
                stranger.token(
                    key_id,
                    json!({ "jku": "https://stranger.test/jwks", "x5u": "https://stranger.test/x5u", "x5c": ["AAAA"] }),
                    json!({}),
                ),
            ),
            (format!("{key_id}: of another message"), format!("{other_message}.{signature}")),
            (format!("{key_id}: empty"), format!("{message}.")),
            (format!("{key_id}: zero"), format!("{message}.{}", encode(vec![0; length]))),
            (format!("{key_id}: cut"), format!("{message}.{}", encode(&signature_bytes[..length - 1]))),
            (format!("{key_id}: extended"), format!("{message}.{}", encode([&*signature_bytes, &[0]].concat()))),
            (format!("{key_id}: extended in front"), format!("{message}.AAAA{signature}")),
        ]);
    }
    // By the other twin's key under an id of its own: each key is for its own id.
    tokens.push(named("by another key of the set", issuer.twins[0].good_token("ec")));

    let (message, signature) = signed_parts(&issuer.ed.good_token("ed"));
    tokens.push(named("EdDSA: S + L", format!("{message}.{}", encode(with_order_added(&signature)))));

    let der = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let point = der.public_key().as_ref().to_vec();
    let published = json!({
        "kty": "EC", "crv": "P-256", "kid": "ec", "x": encode(&point[1..33]), "y": encode(&point[33..]),
    });
    let authenticator = authenticator_of(&[published]).await;
    let token = assemble(issuer.ec.header("ec").to_string(), good_claims().to_string(), |message| {
        der.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    });
    assert_eq!(outcome(&authenticator, &token).await, rejected("signature"), "ES256 as ASN.1");

    issuer.rejects("signature", tokens).await;
}

fn signed_parts(token: &str) -> (String, Vec<u8>) {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let (message, signature) = token.rsplit_once('.').unwrap();
    (message.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
}

/// An Ed25519 signature with the group's order added to S, little-endian: the same value, another spelling (RFC 8032 section 5.1.7).
fn with_order_added(signature: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut signature = signature.to_vec();
    let mut carry = 0;
    for (byte, order) in signature.iter_mut().skip(32).zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    assert_eq!(carry, 0);
    signature
}

#[tokio::test]
async fn key_id() {
    let issuer = Issuer::new().await;
    let header = |key_id: Value| json!({ "kid": key_id });
    issuer
        .rejects_headers(
            "kid",
            [
                json!("unknown"),
                json!(""),
                json!("ED"),
                json!("ed "),
                json!("ed\u{0}"),
                json!("../ed"),
                json!("symmetric"),
                json!(0),
                json!(null),
                json!(["ed"]),
            ]
            .map(header),
        )
        .await;
    // Which twin? Their issuer does not know either. And without an id, three keys fit ES256.
    let nameless = issuer.ec.token_of(r#"{"alg":"ES256"}"#, good_claims().to_string());
    issuer
        .rejects(
            "kid",
            [
                named("twin", issuer.twins[0].good_token("twin")),
                named("other twin", issuer.twins[1].good_token("twin")),
                named("without kid", nameless),
            ],
        )
        .await;
}

#[tokio::test]
async fn header() {
    let issuer = Issuer::new().await;
    issuer
        .rejects_headers(
            "header",
            [
                json!({ "crit": ["exp"] }),
                json!({ "crit": [] }),
                json!({ "crit": null }),
                json!({ "crit": ["b64"], "b64": true }),
                json!({ "b64": false }),
                json!({ "typ": "dpop+jwt" }),
                json!({ "typ": "secevent+jwt" }),
                json!({ "typ": "logout+jwt" }),
                json!({ "typ": "JWE" }),
                json!({ "typ": "" }),
                json!({ "typ": "text/jwt" }),
                json!({ "typ": "application/application/jwt" }),
                json!({ "typ": 1 }),
                json!({ "typ": null }),
            ],
        )
        .await;
}
