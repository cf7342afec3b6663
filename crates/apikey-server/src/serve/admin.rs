//! What the admin listener serves: `/metrics`, `/livez`, `/readyz`. It knows no key and answers no question about one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use apikey_application::ports::KeyStore;
use apikey_grpc::listener;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::timeout;

use super::{pulse::Pulse, vitals::Vitals};

/// How long the database may take to answer while it counts as ready. Probes usually wait for 1 to 10 s.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Text in version 0.0.4 of Prometheus' exposition format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the admin listener can tell.
pub(super) struct Admin<S> {
    store: Arc<S>,
    vitals: Vitals,
    pulse: Pulse,
    metrics: PrometheusHandle,
    serving: AtomicBool,
    /// On loopback, where only names pass that [`listener::is_local`] knows.
    only_local_names: bool,
}

impl<S: KeyStore> Admin<S> {
    /// Tells of that store, those vital signs, threads and metrics, at that address; ready until told otherwise.
    pub(super) fn new(
        store: Arc<S>,
        vitals: Vitals,
        pulse: Pulse,
        metrics: PrometheusHandle,
        address: SocketAddr,
    ) -> Self {
        let only_local_names = address.ip().is_loopback();
        Self { store, vitals, pulse, metrics, serving: AtomicBool::new(true), only_local_names }
    }

    /// From now on `/readyz` says no.
    pub(super) fn stop_serving(&self) {
        self.serving.store(false, Ordering::Relaxed);
    }

    /// Answers one request.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if self.only_local_names && !listener::is_local(&request) {
            return text(StatusCode::MISDIRECTED_REQUEST, listener::MISDIRECTED);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/livez" if self.pulse.beats().await => closing(text(StatusCode::OK, "alive\n")),
            "/livez" => closing(text(StatusCode::SERVICE_UNAVAILABLE, "a thread that serves does not answer\n")),
            "/readyz" => closing(self.ready().await),
            "/metrics" => {
                self.vitals.publish();
                let mut response = text(StatusCode::OK, self.metrics.render());
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(EXPOSITION));
                response
            }
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n"),
        }
    }

    async fn ready(&self) -> Response<Full<Bytes>> {
        if !self.serving.load(Ordering::Relaxed) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
        }
        if self.vitals.holds_lease() {
            return text(StatusCode::OK, "ready\n");
        }
        match timeout(READY_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => text(StatusCode::OK, "ready\n"),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "not ready: the store does not answer");
                text(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n")
            }
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer in time\n"),
        }
    }
}

/// A probe needs no connection for the next one.
fn closing(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
