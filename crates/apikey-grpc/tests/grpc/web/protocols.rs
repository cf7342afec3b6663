//! One service, several ways in: whichever way a call comes, it means the same.

use ::http::Method;
use apikey_proto::pidgr::v1 as pb;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use serde_json::json;
use tonic_health::pb as health;

use super::http::{Answer, VERSIONS, Version, full, request, send};
use crate::{
    service::{Running, start},
    wire::{CREATE, LIST, REVOKE, VERIFY, frame},
};

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A way to call, beside gRPC itself.
#[derive(Clone, Copy, Debug)]
enum Way {
    Json,
    Proto,
    Web,
    WebText,
}

const WAYS: [Way; 4] = [Way::Json, Way::Proto, Way::Web, Way::WebText];

impl Way {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Proto => "application/proto",
            Self::Web => "application/grpc-web+proto",
            Self::WebText => "application/grpc-web-text",
        }
    }

    fn body(self, message: &impl Message, json: &serde_json::Value) -> Vec<u8> {
        match self {
            Self::Json => json.to_string().into_bytes(),
            Self::Proto => message.encode_to_vec(),
            Self::Web => frame(&message.encode_to_vec()).to_vec(),
            Self::WebText => STANDARD.encode(frame(&message.encode_to_vec())).into_bytes(),
        }
    }
}

async fn call(
    running: &Running,
    (way, version): (Way, Version),
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Answer {
    let headers = [&[("content-type", way.content_type()), ("accept", way.content_type())], headers].concat();
    let answer = send(running.public.address, version, request(Method::POST, path, &headers, full(body))).await;
    assert!(answer.headers.contains_key("x-request-id"), "{answer:?}");
    answer
}

/// The one message of an answer by gRPC-Web, and its trailers.
fn web_parts(way: Way, answer: &Answer) -> (Bytes, String) {
    let mut body = answer.body.clone();
    if let Way::WebText = way {
        // Each piece is base64 of its own, with its padding.
        let mut decoded = BytesMut::new();
        for piece in answer.body.chunks(4) {
            decoded.extend(STANDARD.decode(piece).unwrap());
        }
        body = decoded.freeze();
    }
    let (mut message, mut trailers) = (Bytes::new(), String::new());
    while body.has_remaining() {
        let flag = body.get_u8();
        let length = usize::try_from(body.get_u32()).unwrap();
        let part = body.split_to(length);
        if flag == 0x80 { trailers = String::from_utf8(part.to_vec()).unwrap() } else { message = part }
    }
    (message, trailers)
}

fn decode<M: Message + Default>(way: Way, answer: &Answer) -> M {
    assert_eq!(answer.status, 200, "{way:?} {answer:?}");
    match way {
        Way::Json => panic!("JSON is read by itself"),
        Way::Proto => M::decode(answer.body.clone()).unwrap(),
        Way::Web | Way::WebText => {
            let (message, trailers) = web_parts(way, answer);
            assert!(trailers.contains("grpc-status:0") || trailers.contains("grpc-status: 0"), "{trailers}");
            M::decode(message).unwrap()
        }
    }
}

#[tokio::test]
async fn grpc_over_http_1_has_its_status_behind_the_message_on_both_listeners() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let (raw_key, _) = running.manager(2);
    let verify = pb::VerifyApiKeyRequest { raw_key, ..pb::VerifyApiKeyRequest::default() };
    for (address, path, message) in [
        (running.public.address, LIST, pb::ListApiKeysRequest::default().encode_to_vec()),
        (running.verification.address, VERIFY, verify.encode_to_vec()),
    ] {
        let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("x-api-key", &manager)];
        let body = full(frame(&message));
        let answer = send(address, Version::Http1, request(Method::POST, path, &headers, body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0", "{answer:?}");
        // What fails has its status in the head, since there is no message.
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = send(address, Version::Http1, request(Method::POST, path, &headers, full("no message"))).await;
        assert!(answer.header("grpc-status").is_some_and(|status| status != "0"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_key_is_created_listed_and_revoked_in_every_way() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let credential = [("x-api-key", manager.as_str())];
    for way in WAYS {
        for version in VERSIONS {
            let how = (way, version);
            let name = format!("{how:?}");
            let permissions = vec![pb::Permission::OrgRead as i32];
            let create = pb::CreateApiKeyRequest { name: name.clone(), permissions, ..Default::default() };
            let json = json!({ "name": name, "permissions": ["PERMISSION_ORG_READ"] });
            let answer = call(&running, how, CREATE, &credential, way.body(&create, &json)).await;
            let (id, raw_key) = if let Way::Json = way {
                let created = answer.json();
                assert_eq!(created["apiKey"]["permissions"], json!(["PERMISSION_ORG_READ"]));
                assert_eq!(created["apiKey"]["keyType"], "KEY_TYPE_API_KEY");
                assert!(created["apiKey"]["createdAt"].as_str().unwrap().ends_with('Z'));
                assert_eq!(created["apiKey"].get("revokedAt"), None);
                let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                (text(&created["apiKey"]["id"]), text(&created["rawKey"]))
            } else {
                let created: pb::CreateApiKeyResponse = decode(way, &answer);
                (created.api_key.unwrap().id, created.raw_key)
            };
            assert!(raw_key.starts_with("pidgr_k_"));

            // The new key is a credential, of one who may not list.
            let list = pb::ListApiKeysRequest {
                pagination: Some(pb::Pagination { page_size: 20, ..Default::default() }),
                ..Default::default()
            };
            let list = way.body(&list, &json!({ "pagination": { "pageSize": 20 } }));
            let headers = [("authorization", format!("Bearer {raw_key}"))];
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            let answer = call(&running, how, LIST, &headers, list.clone()).await;
            if let Way::Json | Way::Proto = way {
                assert_eq!(answer.error(), (403, "permission_denied".to_owned(), "PERMISSION_MISSING".to_owned()));
            } else {
                assert_eq!(answer.header("grpc-status"), Some("7"), "{answer:?}");
                assert!(answer.headers.contains_key("grpc-status-details-bin"));
            }

            let answer = call(&running, how, LIST, &credential, list).await;
            if let Way::Json = way {
                let listed = answer.json();
                let mut keys = listed["apiKeys"].as_array().unwrap().iter();
                assert!(keys.any(|key| key["id"] == id.as_str() && key["name"] == name.as_str()));
                assert!(listed["pagination"]["totalCount"].as_i64().unwrap() > 1);
            } else {
                let listed: pb::ListApiKeysResponse = decode(way, &answer);
                assert!(listed.api_keys.iter().any(|key| key.id == id && key.name == name));
            }

            let revoke = pb::RevokeApiKeyRequest { id: id.clone() };
            let answer = call(&running, how, REVOKE, &credential, way.body(&revoke, &json!({ "id": id }))).await;
            if let Way::Json = way {
                assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, &b"{}"[..]));
            } else {
                let _: pb::RevokeApiKeyResponse = decode(way, &answer);
            }
            assert!(
                running.store.keys().iter().any(|key| key.id().to_string() == id && key.parts().revoked_at.is_some())
            );
        }
    }
}

#[tokio::test]
async fn an_error_has_the_same_details_in_every_way() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let wire = running.public.wire().await;
    let revoke = pb::RevokeApiKeyRequest { id: "not-a-uuid".to_owned() };
    let headers = [("x-api-key", manager.as_str()), ("x-request-id", "the-same")];
    let by_grpc = wire.call(REVOKE, &headers, &revoke).await;
    for version in VERSIONS {
        for way in [Way::Json, Way::Proto] {
            let body = way.body(&revoke, &json!({ "id": "not-a-uuid" }));
            let answer = call(&running, (way, version), REVOKE, &headers, body).await;
            assert_eq!(answer.error(), (400, "invalid_argument".to_owned(), "INVALID_FIELDS".to_owned()));
            assert_eq!(answer.violated_fields(), ["id"]);
            assert_eq!(answer.json()["message"], by_grpc.status().message());
            assert_eq!(format!("{:?}", answer.details()), format!("{:?}", by_grpc.details()));
            assert_eq!(answer.header("x-request-id"), Some("the-same"));
        }
        for way in [Way::Web, Way::WebText] {
            let answer = call(&running, (way, version), REVOKE, &headers, way.body(&revoke, &json!({}))).await;
            let same = |name: &str| {
                let by_grpc = by_grpc.headers.get(name).or_else(|| by_grpc.trailers.get(name));
                assert_eq!(answer.headers.get(name), by_grpc, "{way:?} {name}");
            };
            same("grpc-status");
            same("grpc-message");
            same("grpc-status-details-bin");
            assert_eq!(answer.header("x-request-id"), Some("the-same"));
        }
    }
}

#[tokio::test]
async fn who_has_no_credential_is_challenged_in_every_way() {
    let running = start().await;
    let before = running.state();
    for version in VERSIONS {
        for way in WAYS {
            let body = way.body(&pb::ListApiKeysRequest::default(), &json!({}));
            let answer = call(&running, (way, version), LIST, &[("x-api-key", "pidgr_k_garbage")], body).await;
            if let Way::Json | Way::Proto = way {
                assert_eq!(answer.error(), (401, "unauthenticated".to_owned(), "UNAUTHENTICATED".to_owned()));
            } else {
                assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, Some("16")));
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            }
        }
    }
    assert_eq!(running.state(), before);
}

#[tokio::test]
async fn health_is_there_for_whoever_has_only_curl() {
    let running = start().await;
    for version in VERSIONS {
        for way in WAYS {
            let body = way.body(&health::HealthCheckRequest::default(), &json!({}));
            let answer = call(&running, (way, version), HEALTH, &[], body).await;
            if let Way::Json = way {
                assert_eq!(answer.json(), json!({ "status": "SERVING" }));
            } else {
                let serving: health::HealthCheckResponse = decode(way, &answer);
                assert_eq!(serving.status, 1);
            }
        }
    }
}
