//! What an operator sees of a call: its id, its metrics, its log.

use std::{
    io,
    sync::{Arc, Mutex},
};

use apikey_application::ports::StoreError;
use apikey_proto::pidgr::v1 as pb;
use apikey_testing::StoreCall;
use tonic::Code;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    service::start,
    wire::{LIST, VERIFY},
};

#[tokio::test]
async fn a_well_formed_request_id_comes_back_and_every_other_one_is_replaced() {
    let running = start().await;
    let wire = running.public.wire().await;
    let longest = "x".repeat(128);
    let id_for = async |ids: &[&str]| {
        let headers: Vec<_> = ids.iter().map(|id| ("x-request-id", *id)).collect();
        wire.call(LIST, &headers, &pb::ListApiKeysRequest::default()).await.request_id()
    };
    for id in ["a", "0198c5f0-7a3b-7cde-8f01-23456789abcd", &longest] {
        assert_eq!(id_for(&[id]).await, id);
    }
    let mut made = Vec::new();
    for ids in [&[][..], &[""], &["a b"], &["é"], &["a", "b"], &["x".repeat(129).as_str()]] {
        made.push(id_for(ids).await);
    }
    assert!(made.iter().all(|id| id.len() >= 18 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')));
    made.dedup();
    assert_eq!(made.len(), 6, "{made:?}");
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code_and_unknown_paths_invent_no_labels() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let running = start().await;
    let wire = running.verification.wire().await;
    let public = running.public.wire().await;
    wire.call(VERIFY, &[], &pb::VerifyApiKeyRequest::default()).await;
    public.call("/invented.by.a.Caller/Method", &[], &pb::ListApiKeysRequest::default()).await;
    let text = handle.render();
    let value = |series: &str| {
        let line =
            text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series}\n{text}"));
        line.trim().parse::<f64>().unwrap()
    };
    // Other tests of this binary are counted too.
    for series in [
        r#"apikeys_grpc_requests_total{method="pidgr.v1.ApiKeyVerificationService/VerifyApiKey",code="OK"}"#,
        r#"apikeys_grpc_requests_total{method="unknown",code="UNIMPLEMENTED"}"#,
        r#"apikeys_grpc_request_duration_seconds_count{method="pidgr.v1.ApiKeyVerificationService/VerifyApiKey"}"#,
    ] {
        assert!(value(series) >= 1.0, "{series}");
    }
    assert!(value("apikeys_grpc_requests_in_flight") >= 0.0);
    assert!(!text.contains("invented"));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_log_has_the_cause_under_the_request_id_and_no_secret() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .finish();
    // For the whole binary: the other tests' calls are in the log too, and no secret of theirs may be.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let running = start().await;
    let (manager, _) = running.manager(1);
    let (revoked, _) = running.key(2, |parts| parts.revoked_at = Some(parts.created_at));
    let wire = running.public.wire().await;
    let verification = running.verification.wire().await;
    let list = pb::ListApiKeysRequest::default();

    running.store.fail_next(StoreCall::Page, StoreError::Unavailable("connection refused".into()));
    let headers = [("x-api-key", manager.as_str()), ("x-request-id", "outage-1")];
    assert_eq!(wire.call(LIST, &headers, &list).await.code(), Code::Unavailable);
    let bearer = format!("Bearer {revoked}");
    let headers = [("authorization", bearer.as_str()), ("x-request-id", "refused-1")];
    assert_eq!(wire.call(LIST, &headers, &list).await.code(), Code::Unauthenticated);
    let create = pb::CreateApiKeyRequest { name: "a".to_owned(), ..Default::default() };
    let created: pb::CreateApiKeyResponse = wire.call_as(&manager, crate::wire::CREATE, &create).await.message();
    let question = pb::VerifyApiKeyRequest { raw_key: manager.clone(), ..Default::default() };
    assert_eq!(verification.call(VERIFY, &[], &question).await.code(), Code::Ok);

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = |id: &str, what: &str| text.lines().any(|line| line.contains(id) && line.contains(what));
    assert!(line("outage-1", "connection refused"));
    assert!(
        line("outage-1", "code=\"UNAVAILABLE\"") && line("outage-1", "method=\"pidgr.v1.ApiKeyService/ListApiKeys\"")
    );
    assert!(line("refused-1", "the key is revoked"));
    for secret in [&manager, &revoked, &created.raw_key] {
        assert!(!text.contains(&secret[16..]), "a key is in the log");
    }
}
