//! Who may call what: every method of the descriptors with every kind of credential, against a table for people to read.

use std::fmt::Write as _;

use apikey_domain::pidgr;
use apikey_proto::{FILE_DESCRIPTOR_SET, pidgr::v1 as pb};
use apikey_testing::fixtures;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::{
    service::{LISTENER_TOKEN, Listener, Running, Setup, start_with},
    wire::Answer,
};

const MATRIX: &str = include_str!("authorization_matrix.txt");

/// All methods that the protocol has, as `service/method`.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    let mut methods = Vec::new();
    for file in files {
        for service in &file.service {
            let name = |method: &str| format!("{}.{}/{method}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| name(method.name())));
        }
    }
    methods
}

/// A request that would succeed for a caller who may make it. A method that is added needs an entry here.
fn request_for(method: &str, victim: &str) -> Vec<u8> {
    match method {
        "pidgr.v1.ApiKeyService/CreateApiKey" => {
            pb::CreateApiKeyRequest { name: "a".to_owned(), permissions: vec![1], ..Default::default() }.encode_to_vec()
        }
        "pidgr.v1.ApiKeyService/ListApiKeys" => pb::ListApiKeysRequest::default().encode_to_vec(),
        "pidgr.v1.ApiKeyService/RevokeApiKey" => pb::RevokeApiKeyRequest { id: victim.to_owned() }.encode_to_vec(),
        "pidgr.v1.ApiKeyVerificationService/VerifyApiKey" => {
            pb::VerifyApiKeyRequest { raw_key: "garbage".to_owned(), ..Default::default() }.encode_to_vec()
        }
        _ => panic!("{method} has no entry in the authorization matrix"),
    }
}

fn listener_of<'a>(method: &str, running: &'a Running) -> &'a Listener {
    match method.split_once('/').map(|(service, _)| service) {
        Some("pidgr.v1.ApiKeyService") => &running.public,
        Some("pidgr.v1.ApiKeyVerificationService") => &running.verification,
        _ => panic!("{method} belongs to no listener"),
    }
}

/// Every kind of caller, with what it presents.
fn callers(running: &Running) -> Vec<(&'static str, Option<String>)> {
    let all = |parts: &mut apikey_domain::ApiKeyParts| parts.permissions = pidgr::CATALOGUE.all();
    let bearer = |(raw_key, _): (String, _)| Some(format!("Bearer {raw_key}"));
    let unknown = fixtures::a_raw_key_with(99, |_| ()).0;
    vec![
        ("no credential", None),
        ("garbage", Some("Bearer garbage".to_owned())),
        ("an unknown key", Some(format!("Bearer {}", unknown.expose()))),
        ("an expired key", {
            bearer(running.key(11, |parts| {
                all(parts);
                parts.expires_at = Some(fixtures::seconds_later(60));
            }))
        }),
        ("a revoked key", {
            bearer(running.key(12, |parts| {
                all(parts);
                parts.revoked_at = Some(parts.created_at);
            }))
        }),
        ("a SCIM token with every permission", bearer(running.scim_token(13))),
        ("a key without permissions", bearer(running.key(14, |parts| parts.permissions = [].into_iter().collect()))),
        ("a key with every permission but this one", {
            bearer(running.key(15, |parts| {
                parts.permissions = pidgr::CATALOGUE
                    .iter()
                    .filter(|permission| **permission != pidgr::MANAGE_API_KEYS)
                    .cloned()
                    .collect();
            }))
        }),
        ("a key with this permission alone", {
            bearer(running.key(16, |parts| parts.permissions = [pidgr::MANAGE_API_KEYS].into_iter().collect()))
        }),
        ("a key of another organization with every permission", {
            bearer(running.key(17, |parts| {
                all(parts);
                parts.organization_id = fixtures::another_organization();
            }))
        }),
        ("a key with every permission", bearer(running.key(18, all))),
        ("the verification listener's token", Some(format!("Bearer {LISTENER_TOKEN}"))),
    ]
}

fn told(answer: &Answer) -> String {
    let status = answer.status();
    if status.code() == Code::Ok {
        return "OK".to_owned();
    }
    let details = answer.details();
    let missing = details.error_info().and_then(|info| info.metadata.get("missing_permissions").cloned());
    let missing = missing.map(|names| format!(" {names}")).unwrap_or_default();
    format!("{:?} {}{missing}", status.code(), answer.reason())
}

/// What belongs to the organization that is attacked.
fn ours(running: &Running) -> String {
    let keys: Vec<_> =
        running.store.keys().into_iter().filter(|key| *key.organization_id() == fixtures::an_organization()).collect();
    format!("{keys:?}")
}

#[tokio::test]
async fn every_method_answers_every_kind_of_caller_as_the_matrix_says() {
    let mut matrix = String::new();
    for method in methods() {
        writeln!(matrix, "{method}").unwrap();
        // A world for each cell, so that no cell depends on another.
        for index in 0.. {
            let running = start_with(Setup { listener_token: true, ..Setup::default() }).await;
            let (_, victim) = running.key(1, |_| ());
            let callers = callers(&running);
            let Some((caller, credential)) = callers.get(index) else { break };
            let headers: Vec<_> = credential.iter().map(|credential| ("authorization", credential.as_str())).collect();
            let (all_before, ours_before) = (running.state(), ours(&running));
            let wire = listener_of(&method, &running).wire().await;
            let request = request_for(&method, &victim.id().to_string());
            let body = http_body_util::Full::new(crate::wire::frame(&request));
            let body = http_body_util::BodyExt::boxed(body);
            let answer = wire.try_call(&format!("/{method}"), &headers, body).await.unwrap();
            if answer.code() != Code::Ok {
                assert_eq!(running.state(), all_before, "{method} was refused to {caller} and changed something");
            }
            if caller.contains("another organization") {
                assert_eq!(ours(&running), ours_before, "{method} let {caller} change another organization's keys");
                let text = String::from_utf8_lossy(&answer.body);
                assert!(
                    !text.contains(&victim.id().to_string()),
                    "{method} showed {caller} another organization's key"
                );
            }
            writeln!(matrix, "  {caller:<52} {}", told(&answer)).unwrap();
        }
    }
    if matrix != MATRIX {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/authorization_matrix.txt");
        std::fs::write(path, &matrix).unwrap();
        panic!("the authorization matrix has changed; the new one is {path}:\n{matrix}");
    }
}

#[tokio::test]
async fn each_listener_serves_its_own_service_alone() {
    let running = start_with(Setup::default()).await;
    let (manager, _) = running.manager(1);
    let public = running.public.wire().await;
    let verification = running.verification.wire().await;
    let request = pb::VerifyApiKeyRequest::default();
    let answer = public.call_as(&manager, "/pidgr.v1.ApiKeyVerificationService/VerifyApiKey", &request).await;
    assert_eq!(answer.code(), Code::Unimplemented);
    let answer = verification.call_as(&manager, "/pidgr.v1.ApiKeyService/ListApiKeys", &request).await;
    assert_eq!(answer.code(), Code::Unimplemented);
}
