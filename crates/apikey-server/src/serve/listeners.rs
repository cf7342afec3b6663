//! The three listeners: where they are bound, and how many connections each takes on.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use apikey_grpc::listener::ConnectionLimits;
use tokio::net::TcpListener;

use crate::config::ServerSettings;

/// How long requests in flight may take to finish. With what else a stop waits for it stays within 10 s.
pub(super) const DRAIN: Duration = Duration::from_millis(5_500);
/// How long the store may take to close.
pub(super) const CLOSE: Duration = Duration::from_millis(500);
/// Connections to the admin listener: enough for scrapers and probes.
const ADMIN_CONNECTIONS: usize = 64;
/// How long a request there may take to arrive.
const ADMIN_HEADERS: Duration = Duration::from_secs(1);

/// The listeners, bound and not yet served.
pub(super) struct Listeners {
    pub(super) public: TcpListener,
    pub(super) verification: TcpListener,
    pub(super) admin: TcpListener,
}

/// Where they really listen.
pub(super) struct Addresses {
    pub(super) public: SocketAddr,
    pub(super) verification: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Listeners {
    /// Binds all.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub(super) async fn bind(settings: &ServerSettings) -> anyhow::Result<Self> {
        Ok(Self {
            public: bind("listen", settings.listen).await?,
            verification: bind("verify_listen", settings.verify_listen).await?,
            admin: bind("admin_listen", settings.admin_listen).await?,
        })
    }

    /// Where they listen, also where the system chose the port.
    ///
    /// # Errors
    /// The system does not tell.
    pub(super) fn addresses(&self) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            public: self.public.local_addr()?,
            verification: self.verification.local_addr()?,
            admin: self.admin.local_addr()?,
        })
    }
}

async fn bind(setting: &'static str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{setting}: {address} cannot be listened on"))
}

/// How many connections each listener takes on: the admin one, the public one and the one for verifications.
pub(super) fn connection_limits(settings: &ServerSettings) -> (ConnectionLimits, ConnectionLimits, ConnectionLimits) {
    let admin = ConnectionLimits {
        name: "admin",
        connections: ADMIN_CONNECTIONS,
        connections_per_peer: ADMIN_CONNECTIONS,
        header_timeout: ADMIN_HEADERS,
        drain: CLOSE,
        ..ConnectionLimits::default()
    };
    let public = ConnectionLimits {
        name: "public",
        connections: settings.max_connections,
        connections_per_peer: settings.max_connections_per_peer,
        idle_timeout: settings.idle_timeout,
        drain: DRAIN,
        ..ConnectionLimits::default()
    };
    // Its callers are one party, which may well come from one address.
    let verification =
        ConnectionLimits { name: "verification", connections_per_peer: settings.max_connections, ..public };
    (admin, public, verification)
}
