//! Pages of other origins: none by default, and what those that are named may send and see.

use ::http::Method;

use super::http::{Answer, VERSIONS, Version, full, request, send};
use crate::{
    service::{Running, Setup, start, start_with},
    wire::LIST,
};

const PAGE: &str = "https://app.pidgr.com";
const DEVELOPMENT: &str = "http://localhost:5173";

async fn with_origins() -> Running {
    let origins = format!("{PAGE}, {DEVELOPMENT}").parse().unwrap();
    start_with(Setup { origins, ..Setup::default() }).await
}

async fn preflight(running: &Running, version: Version, origin: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,connect-protocol-version,content-type"),
    ];
    send(running.public.address, version, request(Method::OPTIONS, LIST, &headers, full(""))).await
}

async fn call(running: &Running, version: Version, origin: &str) -> Answer {
    let headers = [("content-type", "application/json"), ("origin", origin)];
    send(running.public.address, version, request(Method::POST, LIST, &headers, full("{}"))).await
}

#[tokio::test]
async fn without_a_list_no_page_is_told_that_it_may() {
    let running = start().await;
    for version in VERSIONS {
        for answer in [preflight(&running, version, PAGE).await, call(&running, version, PAGE).await] {
            assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_page_of_a_named_origin_may_call_and_its_browser_remembers_so() {
    let running = with_origins().await;
    for version in VERSIONS {
        for origin in [PAGE, DEVELOPMENT] {
            let answer = preflight(&running, version, origin).await;
            assert_eq!(answer.status, 204);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST"));
            assert_eq!(answer.header("access-control-max-age"), Some("7200"));
            assert!(answer.header("vary").unwrap().contains("origin"));
            assert_eq!(answer.headers.get("access-control-allow-credentials"), None);
            let allowed: Vec<_> = answer.header("access-control-allow-headers").unwrap().split(", ").collect();
            for needed in [
                "authorization",
                "connect-protocol-version",
                "connect-timeout-ms",
                "content-type",
                "grpc-timeout",
                "idempotency-key",
                "x-api-key",
                "x-grpc-web",
                "x-request-id",
                "x-user-agent",
            ] {
                assert!(allowed.contains(&needed), "{needed}");
            }

            let answer = call(&running, version, origin).await;
            assert_eq!(answer.status, 401);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert_eq!(answer.header("vary"), Some("origin"));
            let exposed: Vec<_> = answer.header("access-control-expose-headers").unwrap().split(", ").collect();
            for needed in [
                "grpc-status",
                "grpc-message",
                "grpc-status-details-bin",
                "www-authenticate",
                "x-request-id",
                "apikeys-revocation-confirmed",
            ] {
                assert!(exposed.contains(&needed), "{needed}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_of_any_other_origin_is_told_nothing_and_caches_are_kept_apart() {
    let running = with_origins().await;
    for version in VERSIONS {
        for origin in [
            "https://evil.com",
            "null",
            "http://app.pidgr.com",
            "https://app.pidgr.com.evil.com",
            "https://app.pidgr.com:444",
            "http://localhost:5174",
        ] {
            for answer in [preflight(&running, version, origin).await, call(&running, version, origin).await] {
                assert!(
                    answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")),
                    "{origin} {answer:?}"
                );
                assert!(answer.header("vary").unwrap().contains("origin"));
            }
        }
    }
}
