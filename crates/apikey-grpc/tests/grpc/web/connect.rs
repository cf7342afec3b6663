//! What is Connect's own: URLs, time limits, content types, and refusals that no inner service has seen.

use std::time::Duration;

use ::http::Method;
use apikey_grpc::CallLimits;
use apikey_testing::StoreCall;
use serde_json::json;

use super::http::{Answer, VERSIONS, full, post_json, request, send};
use crate::{
    service::{Setup, start, start_with},
    wire::{CREATE, LIST},
};

fn refused(status: u16, code: &str, reason: &str) -> (u16, String, String) {
    (status, code.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn a_credential_in_a_url_is_refused_whatever_the_method() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let before = running.state();
    for version in VERSIONS {
        for query in [
            format!("api_key={manager}"),
            format!("x-api-key={manager}&connect=v1"),
            format!("authorization=Bearer%20{manager}"),
            "access_token".to_owned(),
        ] {
            for (method, headers) in [
                (Method::GET, &[][..]),
                (Method::POST, &[("content-type", "application/json")]),
                (Method::POST, &[("content-type", "application/grpc-web")]),
            ] {
                let path = format!("{LIST}?{query}");
                let with_header = [headers, &[("x-api-key", manager.as_str())]].concat();
                for headers in [headers, &with_header] {
                    let answer =
                        send(running.public.address, version, request(method.clone(), &path, headers, full("{}")))
                            .await;
                    if headers.contains(&("content-type", "application/grpc-web")) {
                        assert_eq!(answer.header("grpc-status"), Some("3"), "{answer:?}");
                    } else {
                        assert_eq!(answer.error(), refused(400, "invalid_argument", "INVALID_FIELDS"));
                        assert_eq!(answer.violated_fields(), ["query"]);
                    }
                    assert!(!format!("{answer:?}").contains(&manager));
                }
            }
        }
    }
    assert_eq!(running.state(), before);
}

#[tokio::test]
async fn no_method_is_called_by_get_or_by_anything_but_post() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    for version in VERSIONS {
        for (method, query) in [
            (Method::GET, ""),
            (Method::GET, "?connect=v1&encoding=json&message=%7B%7D"),
            (Method::PUT, ""),
            (Method::DELETE, ""),
            (Method::OPTIONS, ""),
        ] {
            let path = format!("{LIST}{query}");
            let asked = request(method.clone(), &path, &[("x-api-key", manager.as_str())], full(""));
            let answer = send(running.public.address, version, asked).await;
            assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, Some("POST")), "{method} {query}");
            assert!(answer.headers.contains_key("x-request-id"));
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_refused_before_its_body_is_read() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    for version in VERSIONS {
        for path in
            ["/", "/pidgr.v1.ApiKeyService/Nothing", "/pidgr.v1.ApiKeyVerificationService/VerifyApiKey", "/favicon.ico"]
        {
            for method in [Method::GET, Method::POST] {
                let headers = [("x-api-key", manager.as_str()), ("content-type", "application/json")];
                let headers = if method == Method::GET { &headers[..1] } else { &headers };
                // The body never ends.
                let endless =
                    http_body_util::BodyExt::boxed(http_body_util::StreamBody::new(futures_util::stream::pending()));
                let body = if method == Method::GET { full("") } else { endless };
                let answer = send(running.public.address, version, request(method, path, headers, body)).await;
                assert_eq!(answer.error(), refused(404, "unimplemented", "METHOD_UNKNOWN"), "{path}");
            }
        }
        // Whoever has no credential does not learn which methods there are.
        let path = "/pidgr.v1.ApiKeyService/Nothing";
        let answer = send(running.public.address, version, request(Method::GET, path, &[], full(""))).await;
        assert_eq!(answer.error(), refused(401, "unauthenticated", "UNAUTHENTICATED"));
    }
}

#[tokio::test]
async fn an_unknown_content_type_is_refused_and_told_what_there_is() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    for version in VERSIONS {
        for content_type in [
            "text/plain",
            "application/jsonp",
            "application/grpc+json",
            "application/grpc-web+thrift",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "",
        ] {
            let headers = [("x-api-key", manager.as_str()), ("content-type", content_type)];
            let answer = send(running.public.address, version, request(Method::POST, LIST, &headers, full("{}"))).await;
            assert_eq!(answer.status, 415, "{content_type}");
            assert!(answer.header("accept-post").unwrap().starts_with("application/json, application/proto"));
        }
        for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
            let headers = [("x-api-key", manager.as_str()), ("content-type", content_type)];
            let answer = send(running.public.address, version, request(Method::POST, LIST, &headers, full("{}"))).await;
            assert_eq!(answer.status, 200, "{content_type} {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_credential_is_judged_before_the_message_is_read() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let address = running.public.address;
    let answer = post_json(address, CREATE, &[], "no JSON at all").await;
    assert_eq!(answer.error(), refused(401, "unauthenticated", "UNAUTHENTICATED"));
    let answer = post_json(address, CREATE, &[("x-api-key", &manager)], "no JSON at all").await;
    assert_eq!(answer.error(), refused(400, "invalid_argument", "MALFORMED_MESSAGE"));
    assert_eq!(answer.violated_fields(), ["message"]);
    assert!(!answer.json().to_string().contains("no JSON"));
    let two = [("x-api-key", manager.as_str()), ("authorization", &format!("Bearer {manager}"))];
    let answer = post_json(address, CREATE, &two, "{}").await;
    assert_eq!(answer.error(), refused(401, "unauthenticated", "UNAUTHENTICATED"));
}

#[tokio::test]
async fn a_field_that_cannot_be_taken_is_named_in_the_message_and_the_details_are_readable() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let before = running.state();
    for (json, field, sentence) in [
        (r#"{"name":"x","expiresIn":"30d"}"#, "expiresIn", "expiresIn is no field of pidgr.v1.CreateApiKeyRequest"),
        (
            r#"{"name":"x","expiresAt":"2027-01-01"}"#,
            "expires_at",
            r#"expires_at must be an instant of RFC 3339, such as "2027-01-31T00:00:00Z""#,
        ),
        (r#"{"name":"x","name":"y"}"#, "name", "name is given twice"),
    ] {
        let answer = post_json(running.public.address, CREATE, &[("x-api-key", &manager)], json).await;
        assert_eq!(answer.error(), refused(400, "invalid_argument", "MALFORMED_MESSAGE"));
        assert_eq!(answer.violated_fields(), [field]);
        let told = answer.json();
        assert_eq!(told["message"], format!("the message cannot be decoded: {sentence}"));
        let details = told["details"].as_array().unwrap();
        let bad_request = details.iter().find(|detail| detail["type"] == "google.rpc.BadRequest").unwrap();
        assert_eq!(bad_request["debug"]["fieldViolations"][0]["field"], field);
        assert!(details.iter().all(|detail| detail["debug"].is_object()), "{details:?}");
    }
    assert_eq!(running.state(), before);
    // What only reads keeps Connect's rule.
    let answer = post_json(running.public.address, LIST, &[("x-api-key", &manager)], r#"{"newer":1}"#).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_key_where_a_name_belongs_is_refused_and_not_stored() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let before = running.state();
    let credential = ("x-api-key", manager.as_str());
    let named = json!({ "name": format!("for CI: {manager}!") }).to_string();
    for (headers, body, field) in [
        (&[credential][..], named.as_str(), "name"),
        (&[credential, ("idempotency-key", manager.as_str())], r#"{"name":"CI"}"#, "idempotency-key"),
    ] {
        let answer = post_json(running.public.address, CREATE, headers, body).await;
        assert_eq!(answer.error(), refused(400, "invalid_argument", "INVALID_FIELDS"));
        assert_eq!(answer.violated_fields(), [field]);
        assert!(!format!("{answer:?}").contains(&manager));
    }
    assert_eq!(running.state(), before);
}

#[tokio::test]
async fn the_callers_time_limit_is_honoured_and_an_unreadable_one_refused() {
    let running = start().await;
    let (manager, _) = running.manager(1);
    let address = running.public.address;
    let call = async |limit: &str| -> Answer {
        post_json(address, LIST, &[("x-api-key", manager.as_str()), ("connect-timeout-ms", limit)], "{}").await
    };
    let held = running.store.hold(StoreCall::Page);
    let answer = call("100").await;
    assert_eq!(answer.error(), refused(504, "deadline_exceeded", "DEADLINE_EXCEEDED"));
    assert!(answer.details().retry_info().is_some());
    assert_eq!(call("0").await.error(), refused(504, "deadline_exceeded", "DEADLINE_EXCEEDED"));
    drop(held);
    for illegal in ["", "-1", "1.5", "1s", "soon", "12345678901"] {
        let answer = call(illegal).await;
        assert_eq!(answer.error(), refused(400, "invalid_argument", "INVALID_FIELDS"), "{illegal}");
        assert_eq!(answer.violated_fields(), ["connect-timeout-ms"]);
    }
    assert_eq!(call("9999999999").await.status, 200);
}

#[tokio::test]
async fn limits_and_faults_of_the_inner_service_show_through() {
    let calls = CallLimits { concurrent_calls: 0, ..CallLimits::default() };
    let running = start_with(Setup { calls, ..Setup::default() }).await;
    let (manager, _) = running.manager(1);
    let answer = post_json(running.public.address, LIST, &[("x-api-key", &manager)], "{}").await;
    assert_eq!(answer.error(), refused(429, "resource_exhausted", "OVERLOADED"));
    assert_eq!(answer.details().retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));

    let running = start().await;
    let (manager, _) = running.manager(1);
    running.entropy.panic_from_now_on(true);
    let answer = post_json(running.public.address, CREATE, &[("x-api-key", &manager)], r#"{"name":"a"}"#).await;
    assert_eq!(answer.error(), refused(500, "internal", "INTERNAL"));
    assert!(!answer.json().to_string().contains("the text of a panic"));
}

#[tokio::test]
async fn a_stream_by_connect_ends_with_its_error_and_its_details() {
    let running = start().await;
    let ask = |json: serde_json::Value| {
        let json = json.to_string().into_bytes();
        let mut body = vec![0];
        body.extend(u32::try_from(json.len()).unwrap().to_be_bytes());
        body.extend(json);
        let headers = [("content-type", "application/connect+json")];
        request(Method::POST, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &headers, full(body))
    };
    for version in VERSIONS {
        let answer = send(running.public.address, version, ask(json!({ "listServices": "" }))).await;
        assert_eq!(answer.status, 200);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(r#""name":"pidgr.v1.ApiKeyService""#), "{text}");
        assert!(!text.contains(r#""error""#), "{text}");
        let answer =
            send(running.public.address, version, ask(json!({ "fileContainingSymbol": "pidgr.v1.Nothing" }))).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(r#""code":"not_found""#) && text.contains("google.rpc.ErrorInfo"), "{text}");
    }
}
