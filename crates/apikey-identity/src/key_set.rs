//! An issuer's public keys (JWK Set, RFC 7517): which of them can be used, and which one a token means. Does no I/O.

use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use crate::{
    rejection::Rejection,
    strict_json::{StrictJsonError, parse_object},
    token::{Algorithm, UnverifiedToken, decode},
};

/// The length of an RSA modulus in bits: at least what RFC 7518 section 3.3 asks for, at most what the verifier takes.
const RSA_MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The longest RSA exponent in bytes; 65537, which nearly everyone has, takes three.
const RSA_EXPONENT_MAX_BYTES: usize = 4;
/// The length of a coordinate on P-256, and of an Ed25519 key, in bytes (RFC 7518 section 6.2.1.2, RFC 8032 section 5.1.5).
const CURVE_BYTES: usize = 32;
/// The members that only private and symmetric keys have (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The document holds no set of keys that tokens could be checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is not a JSON object with an array `keys`.
    #[error("not a JSON object with an array `keys`")]
    Malformed,
    /// A member occurs twice in it.
    #[error("a member of the JSON occurs twice")]
    DuplicateMember,
    /// None of the keys can be used.
    #[error("none of the keys can be used")]
    NoUsableKey,
}

/// The keys that can be used; never empty.
pub(crate) struct KeySet {
    keys: Vec<VerificationKey>,
}

/// A public key and the one algorithm that it is for.
pub(crate) struct VerificationKey {
    key_id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// No key of the set is the one that a token means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The set holds no key of that id; a newer set may.
    UnknownKeyId,
    /// There is a key of that id, for another algorithm; or the token names no key and none is for its algorithm.
    Unfit,
    /// Several keys fit, and the token does not say which one.
    Ambiguous,
}

impl KeySet {
    /// Reads a set. Keys that cannot be used are left out, each with a line in the log.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let document = parse_object(document).map_err(|error| match error {
            StrictJsonError::Malformed => KeySetError::Malformed,
            StrictJsonError::DuplicateMember => KeySetError::DuplicateMember,
        })?;
        let Some(Value::Array(entries)) = document.get("keys") else { return Err(KeySetError::Malformed) };
        let mut keys = Vec::with_capacity(entries.len());
        for entry in entries {
            match VerificationKey::from_jwk(entry) {
                Ok(key) => keys.push(key),
                Err(reason) => {
                    let key_id = entry.get("kid").and_then(Value::as_str);
                    tracing::warn!(key_id, reason, "a key of the issuer is not used");
                }
            }
        }
        if keys.is_empty() { Err(KeySetError::NoUsableKey) } else { Ok(Self { keys }) }
    }

    /// The one key that a token means.
    pub(crate) fn find(&self, token: &UnverifiedToken<'_>) -> Result<&VerificationKey, NoKey> {
        let named = |key: &&VerificationKey| token.key_id.is_none() || token.key_id == key.key_id;
        if !self.keys.iter().any(|key| named(&key)) {
            return Err(NoKey::UnknownKeyId);
        }
        let mut fitting = self.keys.iter().filter(named).filter(|key| key.algorithm == token.algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(NoKey::Unfit),
            (Some(_), Some(_)) => Err(NoKey::Ambiguous),
        }
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }
}

impl VerificationKey {
    /// Checks a token's signature.
    pub(crate) fn verify(&self, token: &UnverifiedToken<'_>) -> Result<(), Rejection> {
        // The key's own algorithm, never the token's word.
        let algorithm = match self.algorithm {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        };
        match jsonwebtoken::crypto::verify(token.signature, token.message.as_bytes(), &self.key, algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Rejection::Signature),
        }
    }

    /// A key from a JWK, or why it cannot be used.
    fn from_jwk(jwk: &Value) -> Result<Self, &'static str> {
        let Value::Object(jwk) = jwk else { return Err("it is not an object") };
        if SECRET_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
            return Err("it is symmetric, or its private part was published");
        }
        let (algorithm, key) = match (text(jwk, "kty"), text(jwk, "crv")) {
            (Some("RSA"), _) => (Algorithm::Rs256, rsa_key(jwk)?),
            (Some("EC"), Some("P-256")) => (Algorithm::Es256, p256_key(jwk)?),
            (Some("OKP"), Some("Ed25519")) => (Algorithm::EdDsa, ed25519_key(jwk)?),
            _ => return Err("its type or curve is not one of RSA, P-256 and Ed25519"),
        };
        if jwk.contains_key("alg") && text(jwk, "alg").and_then(Algorithm::from_name) != Some(algorithm) {
            return Err("its algorithm is not one of RS256, ES256 and EdDSA, or does not fit its type");
        }
        if jwk.contains_key("use") && text(jwk, "use") != Some("sig") {
            return Err("it is not for signatures");
        }
        let verifies = |operations: &Value| {
            operations.as_array().is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
        };
        if !jwk.get("key_ops").is_none_or(verifies) {
            return Err("it is not for checking signatures");
        }
        let key_id = match jwk.get("kid") {
            None => None,
            Some(Value::String(key_id)) => Some(key_id.clone()),
            Some(_) => return Err("its id is not a string"),
        };
        Ok(Self { key_id, algorithm, key })
    }
}

fn rsa_key(jwk: &Map<String, Value>) -> Result<DecodingKey, &'static str> {
    let (modulus, exponent) = (unsigned(jwk, "n")?, unsigned(jwk, "e")?);
    let leading_zeros = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_MODULUS_BITS.contains(&(modulus.len() * 8 - leading_zeros)) {
        return Err("its RSA modulus is shorter than 2048 bits, or longer than 8192");
    }
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    if !odd(&modulus) || !odd(&exponent) || exponent == [1] || exponent.len() > RSA_EXPONENT_MAX_BYTES {
        return Err("it is not an RSA key");
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn p256_key(jwk: &Map<String, Value>) -> Result<DecodingKey, &'static str> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != CURVE_BYTES || y.len() != CURVE_BYTES {
        return Err("a coordinate is not of 32 bytes");
    }
    // The uncompressed point of SEC 1 section 2.3.3.
    Ok(DecodingKey::from_ec_der(&[&[0x04], &*x, &*y].concat()))
}

fn ed25519_key(jwk: &Map<String, Value>) -> Result<DecodingKey, &'static str> {
    let x = bytes(jwk, "x")?;
    if x.len() != CURVE_BYTES {
        return Err("it is not of 32 bytes");
    }
    Ok(DecodingKey::from_ed_der(&x))
}

fn text<'jwk>(jwk: &'jwk Map<String, Value>, member: &str) -> Option<&'jwk str> {
    jwk.get(member).and_then(Value::as_str)
}

fn bytes(jwk: &Map<String, Value>, member: &str) -> Result<Vec<u8>, &'static str> {
    text(jwk, member).and_then(|text| decode(text).ok()).ok_or("a number is missing, or is not base64url")
}

/// A number without the leading zeros that some issuers write.
fn unsigned(jwk: &Map<String, Value>, member: &str) -> Result<Vec<u8>, &'static str> {
    bytes(jwk, member).map(|bytes| bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}
