//! Who may call: keys of this service, and tokens of the configured issuer.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::{Database, Folder, Server, on_both_databases};

/// 2100-01-01T00:00:00Z.
const FAR_AWAY: u64 = 4_102_444_800;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with one Ed25519 key.
pub(crate) struct Issuer(Ed25519KeyPair);

impl Issuer {
    pub(crate) fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn jwks(&self) -> String {
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(self.0.public_key()), "kid": "1", "use": "sig" });
        json!({ "keys": [key] }).to_string()
    }

    pub(crate) fn token(&self, organization: &str, permissions: &[&str]) -> String {
        let claims = json!({
            "iss": "https://issuer.example", "aud": "apikeys", "sub": "somebody", "exp": FAR_AWAY,
            "custom:org_id": organization, "permissions": permissions,
        });
        let header = json!({ "alg": "EdDSA", "kid": "1", "typ": "JWT" });
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        format!("{message}.{}", encode(self.0.sign(message.as_bytes())))
    }

    /// The settings under which a service believes this issuer.
    pub(crate) fn settings(jwks: &str) -> [(&str, &str); 3] {
        [
            ("APIKEYS_JWT_ISSUER", "https://issuer.example"),
            ("APIKEYS_JWT_AUDIENCE", "apikeys"),
            ("APIKEYS_JWT_JWKS", jwks),
        ]
    }
}

on_both_databases! {
    fn tokens_of_the_issuer_may_call_for_their_organization(database: &Database) {
        let folder = Folder::new();
        let issuer = Issuer::new();
        let jwks = folder.file("jwks.json", &issuer.jwks());
        let server = Server::start(database, &Issuer::settings(&jwks));
        let token = issuer.token("acme", &["MANAGE_API_KEYS", "ORG_READ"]);

        let created = server.client(&token, &["create", "--name", "of a token", "--permission", "ORG_READ", "--json"]).json();
        let raw_key = created["raw_key"].as_str().unwrap();
        assert_eq!(server.verify(raw_key, &[]).json()["valid"]["organization_id"], "acme");
        assert_eq!(server.client(&token, &["list", "--json"]).json()["pagination"]["total_count"], 1);

        let too_much = server.client(&token, &["create", "--name", "x", "--permission", "ORG_WRITE"]);
        assert!(too_much.code == 1 && too_much.stderr.contains("missing permissions: PERMISSION_ORG_WRITE"), "{too_much:?}");
        let reader = server.client(&issuer.token("acme", &["ORG_READ"]), &["list"]);
        assert!(reader.code == 1 && reader.stderr.contains("PERMISSION_MANAGE_API_KEYS"), "{reader:?}");
        let other = issuer.token("globex", &["MANAGE_API_KEYS"]);
        let foreign = server.client(&other, &["revoke", created["api_key"]["id"].as_str().unwrap()]);
        assert!(foreign.code == 1 && foreign.stderr.contains("NOT_FOUND"), "{foreign:?}");

        let forged = Issuer::new().token("acme", &["MANAGE_API_KEYS"]);
        let forged = server.client(&forged, &["list"]);
        assert!(forged.code == 1 && forged.stderr.contains("UNAUTHENTICATED"), "{forged:?}");
    }

    fn a_key_authenticates_calls_until_it_is_revoked(database: &Database) {
        let server = Server::start_with_key(database, &[]);
        let first = server.first_key();
        let create = |name: &str, arguments: &[&str]| -> Value {
            let arguments: Vec<&str> = ["create", "--json", "--name", name].iter().chain(arguments).copied().collect();
            server.client(&first, &arguments).json()
        };
        let second = create("second", &["--permission", "MANAGE_API_KEYS"]);
        let raw_key = second["raw_key"].as_str().unwrap();
        assert_eq!(server.client(raw_key, &["list"]).code, 0);
        let scim = create("scim", &["--permission", "MANAGE_API_KEYS", "--key-type", "scim-token"]);
        let scim_key = scim["raw_key"].as_str().unwrap();
        assert!(scim_key.starts_with("pidgr_scim_"));
        let refused = server.client(scim_key, &["list"]);
        assert!(refused.code == 1 && refused.stderr.contains("UNAUTHENTICATED"), "{refused:?}");
        assert_eq!(server.verify(scim_key, &[]).code, 1);
        assert_eq!(server.verify(scim_key, &["--key-type", "scim-token"]).code, 0);

        // A key may revoke itself.
        let id = second["api_key"]["id"].as_str().unwrap();
        assert_eq!(server.client(raw_key, &["revoke", id]).code, 0);
        for arguments in [&["list"][..], &["revoke", id][..], &["create", "--name", "x"][..]] {
            let refused = server.client(raw_key, arguments);
            assert!(refused.code == 1 && refused.stderr.contains("UNAUTHENTICATED"), "{refused:?}");
        }
        let garbage = server.client("garbage", &["list"]);
        assert!(garbage.code == 1 && garbage.stderr.contains("UNAUTHENTICATED"), "{garbage:?}");
    }
}

/// Answers every request with that key set, as a proxy that is asked for an `http` address could.
fn serve_key_set(jwks: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut line = String::new();
            let mut request = BufReader::new(connection.try_clone().unwrap());
            while request.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            let length = jwks.len();
            write!(connection, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{jwks}").ok();
        }
    });
    address
}

#[test]
fn a_key_set_on_loopback_is_never_fetched_through_a_proxy() {
    let (issuer, impostor) = (Issuer::new(), Issuer::new());
    let jwks = format!("http://{}/jwks", serve_key_set(issuer.jwks()));
    let proxy = format!("http://{}", serve_key_set(impostor.jwks()));
    for variable in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "APIKEYS_HTTP_PROXY"] {
        let settings = [&Issuer::settings(&jwks)[..], &[(variable, proxy.as_str())]].concat();
        let server = Server::start(&Database::sqlite(), &settings);
        let listed = server.client(&issuer.token("acme", &["MANAGE_API_KEYS"]), &["list"]);
        assert_eq!(listed.code, 0, "{variable}: {listed:?}");
        let refused = server.client(&impostor.token("acme", &["MANAGE_API_KEYS"]), &["list"]);
        assert!(refused.stderr.contains("UNAUTHENTICATED"), "{variable}: {refused:?}");
    }
}

#[test]
fn a_key_set_that_cannot_be_used_stops_the_start() {
    let folder = Folder::new();
    let jwks = folder.file("jwks.json", "{\"keys\": []}");
    let done = Server::try_start(&Database::sqlite(), &Issuer::settings(&jwks)).err().expect("there is no key");
    assert!(done.code == 3 && done.stderr.contains("jwt") && done.stderr.contains("jwks.json"), "{done:?}");
}
