//! An issuer: keys, their public halves as JWKs, and tokens of every form, legal or not. Signs by aws-lc-rs itself, so that
//! what is tested has no part in making what it is tested with.

use apikey_domain::{Actor, OrganizationId, Permission, PermissionSet, Principal};
use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaEncoding,
        RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::{AUDIENCE, ISSUER, NOW};

pub(crate) enum SigningKey {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    pub(crate) fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(crate) fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// The public half, without any optional member.
    pub(crate) fn jwk(&self) -> Value {
        match self {
            Self::Rsa(pair) => json!({
                "kty": "RSA",
                "n": encode(pair.public_key().modulus().big_endian_without_leading_zero()),
                "e": encode(pair.public_key().exponent().big_endian_without_leading_zero()),
            }),
            Self::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) })
            }
            Self::Ed25519(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key()) }),
        }
    }

    /// The public half under that id, as issuers publish it.
    pub(crate) fn published(&self, key_id: &str) -> Value {
        with(self.jwk(), json!({ "kid": key_id, "use": "sig", "alg": self.algorithm() }))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(_) => self.sign_rsa(&RSA_PKCS1_SHA256, message),
            Self::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// An RSA signature of another kind than RS256.
    pub(crate) fn sign_rsa(&self, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let Self::Rsa(pair) = self else { panic!("not an RSA key") };
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    /// A good token but for what is changed in the header and the claims.
    pub(crate) fn token(&self, key_id: &str, header: Value, claims: Value) -> String {
        self.token_of(with(self.header(key_id), header).to_string(), with(good_claims(), claims).to_string())
    }

    /// A token that is good.
    pub(crate) fn good_token(&self, key_id: &str) -> String {
        self.token(key_id, json!({}), json!({}))
    }

    /// A token of just these texts, signed.
    pub(crate) fn token_of(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        assemble(header, claims, |message| self.sign(message))
    }

    pub(crate) fn header(&self, key_id: &str) -> Value {
        json!({ "alg": self.algorithm(), "kid": key_id, "typ": "JWT" })
    }
}

/// A token of these texts with a signature by whatever signs.
pub(crate) fn assemble(
    header: impl AsRef<[u8]>,
    claims: impl AsRef<[u8]>,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

pub(crate) fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

pub(crate) fn good_claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "user 1",
        "exp": NOW + 300,
        "nbf": NOW - 60,
        "iat": NOW - 60,
        "custom:org_id": "org_1",
        "permissions": ["PERMISSION_MANAGE_API_KEYS", "ORG_READ", "NOT_IN_THE_CATALOGUE"],
    })
}

/// The principal of [`good_claims`].
pub(crate) fn good_principal() -> Principal {
    Principal {
        organization_id: OrganizationId::parse("org_1").unwrap(),
        permissions: permissions(&["PERMISSION_MANAGE_API_KEYS", "PERMISSION_ORG_READ"]),
        actor: Actor::token(ISSUER, "user 1").unwrap(),
    }
}

pub(crate) fn permissions(names: &[&str]) -> PermissionSet {
    names.iter().map(|name| Permission::parse(name).unwrap()).collect()
}

/// The object with these members set.
pub(crate) fn with(object: Value, changes: Value) -> Value {
    let (mut object, changes) = (members(object), members(changes));
    object.extend(changes);
    Value::Object(object)
}

/// The object without that member.
pub(crate) fn without(object: Value, member: &str) -> Value {
    let mut object = members(object);
    object.remove(member).unwrap();
    Value::Object(object)
}

fn members(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(members) => members,
        other => panic!("not an object: {other}"),
    }
}
