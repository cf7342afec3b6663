//! TLS for a listener: one certificate chain and its key, TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1.
//!
//! Knows nothing of files: it is handed what stands in them.

use std::{fmt, io, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What a client may speak, in our order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate or its key cannot be used. Nothing of the key is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificates are not PEM.
    #[error("the certificate chain is not PEM")]
    Certificates,
    /// There is none.
    #[error("there is no certificate in the chain")]
    NoCertificate,
    /// The key is not PEM, or there is none.
    #[error("there is no private key in PEM (PKCS #8, PKCS #1 or SEC 1)")]
    Key,
    /// They do not belong together, or are of a kind that cannot be used.
    #[error("the certificate and the key cannot be used together")]
    Unusable(#[source] rustls::Error),
}

/// What a listener presents to its clients.
/// Copies share what they present.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ArcSwap<ServerConfig>>);

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// The identity of this certificate chain, the listener's own first, and its private key; both in PEM.
    ///
    /// # Errors
    /// [`TlsError`] where they cannot be read or used.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::Certificates)?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Key)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(TlsError::Unusable)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(Self(Arc::new(ArcSwap::from_pointee(config))))
    }

    /// Presents what `other` presents, from the next connection on.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.0.load_full()).accept(stream).await
    }
}
