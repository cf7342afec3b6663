//! Tokens good and bad, key sets good and bad, and issuers that rotate, hang and fail, against the real authenticator, with
//! keys made at run time.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod bad_tokens;
mod fuzz;
mod good_tokens;
mod issuer;
mod issuer_server;
mod key_sets;
mod mutations;
mod refreshing;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use apikey_application::{
    fence::Monotonic,
    ports::{Clock, TokenAuthenticator, TokenError},
};
use apikey_domain::{Principal, Timestamp, pidgr};
use apikey_identity::{JwksSource, JwtAuthenticator, JwtSettings};

/// The instant at which every token of these tests is judged, in seconds since the Unix epoch.
const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.test/pool";
const AUDIENCE: &str = "api-keys";

/// A clock that stands still.
#[derive(Clone, Copy)]
struct Stopped;

impl Clock for Stopped {
    fn monotonic(&self) -> Monotonic {
        Monotonic::ZERO
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(NOW * 1_000_000).unwrap()
    }
}

fn settings(jwks: JwksSource) -> JwtSettings {
    JwtSettings::new(ISSUER, vec!["another-service".to_owned(), AUDIENCE.to_owned()], jwks)
}

async fn start(settings: &JwtSettings) -> JwtAuthenticator<Stopped> {
    JwtAuthenticator::start(settings, pidgr::CATALOGUE, Stopped).await.unwrap()
}

/// A file of its own with that content, below the build directory.
fn file_with(content: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("jwks-{}-{}.json", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// An authenticator of these public keys.
async fn authenticator_of(jwks: &[serde_json::Value]) -> JwtAuthenticator<Stopped> {
    start(&settings(JwksSource::File(file_with(&issuer::jwks(jwks))))).await
}

/// An outcome that can be compared: the principal, or the class of the error.
async fn outcome(authenticator: &impl TokenAuthenticator, token: &str) -> Result<Principal, String> {
    authenticator.authenticate(token).await.map_err(|error| match error {
        TokenError::Rejected(class) => class.to_owned(),
        TokenError::Unavailable(_) => "unavailable".to_owned(),
    })
}

fn rejected(class: &str) -> Result<Principal, String> {
    Err(class.to_owned())
}

fn unavailable() -> Result<Principal, String> {
    rejected("unavailable")
}

type Shared = Arc<JwtAuthenticator<Stopped>>;
