//! Connections to one replica, over which everything is asked. They are made again when they break. Knows no key.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Result;
use apikey_proto::pidgr::v1::{
    api_key_service_client::ApiKeyServiceClient, api_key_verification_service_client::ApiKeyVerificationServiceClient,
};
use tonic::{
    Code, Request, Response, Status,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

/// A listener allows 100 calls at once on a connection: enough for what may be outstanding.
const CONNECTIONS: usize = 4;
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(1);

/// A replica's clients.
pub(crate) struct Clients {
    public: Vec<ApiKeyServiceClient<Channel>>,
    verification: Vec<ApiKeyVerificationServiceClient<Channel>>,
    next: AtomicUsize,
    /// Calls that are under way.
    pub(crate) outstanding: AtomicUsize,
}

impl Clients {
    /// Clients of those listeners; they connect when they are needed.
    pub(crate) fn new(public: SocketAddr, verification: SocketAddr) -> Result<Self> {
        let channels = |address: SocketAddr| -> Result<Vec<Channel>> {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT);
            Ok((0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect())
        };
        Ok(Self {
            public: channels(public)?.into_iter().map(ApiKeyServiceClient::new).collect(),
            verification: channels(verification)?.into_iter().map(ApiKeyVerificationServiceClient::new).collect(),
            next: AtomicUsize::new(0),
            outstanding: AtomicUsize::new(0),
        })
    }

    pub(crate) fn public(&self) -> Result<ApiKeyServiceClient<Channel>, Status> {
        self.pick(&self.public)
    }

    pub(crate) fn verification(&self) -> Result<ApiKeyVerificationServiceClient<Channel>, Status> {
        self.pick(&self.verification)
    }

    fn pick<T: Clone>(&self, clients: &[T]) -> Result<T, Status> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        clients.get(next).cloned().ok_or_else(|| Status::internal("there is no connection"))
    }

    /// Waits for a call, but not longer than that.
    pub(crate) async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        let _outstanding = Outstanding::among(&self.outstanding);
        tokio::time::timeout(limit, call)
            .await
            .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "the client waits no longer")))
    }
}

/// A call that is under way, until it is answered or given up.
struct Outstanding<'a>(&'a AtomicUsize);

impl<'a> Outstanding<'a> {
    fn among(calls: &'a AtomicUsize) -> Self {
        calls.fetch_add(1, Ordering::AcqRel);
        Self(calls)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request in the name of that key.
pub(crate) fn authorized<T>(message: T, raw_key: &str) -> Request<T> {
    let mut request = Request::new(message);
    // A key is visible ASCII.
    if let Ok(value) = AsciiMetadataValue::try_from(raw_key) {
        request.metadata_mut().insert("x-api-key", value);
    }
    request
}
