//! Bad tokens by class: none is accepted, and each is rejected for what is wrong with it.

mod claims;
mod encoding;
mod keys;

use apikey_identity::JwtAuthenticator;
use serde_json::{Value, json};

use crate::{
    Stopped, authenticator_of,
    issuer::{SigningKey, encode, good_claims, good_principal, without},
    outcome, rejected,
};

/// An issuer with a key for each algorithm, two more that share an id, and one that nobody should use.
struct Issuer {
    rsa: SigningKey,
    ec: SigningKey,
    ed: SigningKey,
    twins: [SigningKey; 2],
    stranger: [SigningKey; 3],
    authenticator: JwtAuthenticator<Stopped>,
}

const SYMMETRIC_SECRET: &[u8] = b"a key that the issuer should have kept for itself";

impl Issuer {
    async fn new() -> Self {
        let (rsa, ec, ed) = (SigningKey::rsa(), SigningKey::p256(), SigningKey::ed25519());
        let twins = [SigningKey::p256(), SigningKey::p256()];
        let symmetric = json!({ "kty": "oct", "kid": "symmetric", "alg": "HS256", "k": encode(SYMMETRIC_SECRET) });
        let authenticator = authenticator_of(&[
            rsa.published("rsa"),
            ec.published("ec"),
            ed.published("ed"),
            twins[0].published("twin"),
            twins[1].published("twin"),
            symmetric,
        ])
        .await;
        let stranger = [SigningKey::rsa(), SigningKey::p256(), SigningKey::ed25519()];
        Self { rsa, ec, ed, twins, stranger, authenticator }
    }

    /// Each token is rejected for that class, while good tokens pass before and after.
    async fn rejects(&self, class: &str, tokens: impl IntoIterator<Item = (String, String)>) {
        let good = || async { outcome(&self.authenticator, &self.ed.good_token("ed")).await };
        assert_eq!(good().await, Ok(good_principal()));
        let mut count = 0;
        for (name, token) in tokens {
            assert_eq!(outcome(&self.authenticator, &token).await, rejected(class), "{name}");
            count += 1;
        }
        assert_ne!(count, 0);
        assert_eq!(good().await, Ok(good_principal()));
    }

    /// As [`Issuer::rejects`], for good tokens with these changes of the claims.
    async fn rejects_claims(&self, class: &str, changes: impl IntoIterator<Item = Value>) {
        let token = |claims: Value| (claims.to_string(), self.ed.token("ed", json!({}), claims));
        self.rejects(class, changes.into_iter().map(token)).await;
    }

    /// As [`Issuer::rejects`], for good tokens with these changes of the header.
    async fn rejects_headers(&self, class: &str, changes: impl IntoIterator<Item = Value>) {
        let token = |header: Value| (header.to_string(), self.ed.token("ed", header, json!({})));
        self.rejects(class, changes.into_iter().map(token)).await;
    }

    /// A good token without that claim.
    fn token_without(&self, claim: &str) -> (String, String) {
        let claims = without(good_claims(), claim).to_string();
        (format!("without {claim}"), self.ed.token_of(self.ed.header("ed").to_string(), claims))
    }

    /// A token with these texts for header and claims, well signed.
    fn text(&self, header: &str, claims: &str) -> (String, String) {
        (format!("{header} {claims}"), self.ed.token_of(header, claims))
    }
}

fn named(name: &str, token: String) -> (String, String) {
    (name.to_owned(), token)
}
