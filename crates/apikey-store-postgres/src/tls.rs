//! Encryption by rustls: which certificates are accepted. Knows no socket.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::url::Encryption;

/// Encryption was asked for and cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of `sslrootcert` cannot be read, or holds no certificate.
    #[error("sslrootcert cannot be read, or holds no certificate")]
    Roots(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// The operating system trusts no certificate.
    #[error("the operating system trusts no root certificate; name a file by sslrootcert")]
    NoSystemRoots,
    /// The cryptography refuses to work.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// How to encrypt; `None` where nothing is to be encrypted.
pub(crate) fn connector(encryption: &Encryption) -> Result<Option<MakeRustlsConnect>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match encryption {
        Encryption::Disabled => return Ok(None),
        Encryption::Preferred | Encryption::Required => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
        Encryption::Verified { roots } => builder
            .with_root_certificates(match roots {
                Some(file) => roots_of(file)?,
                None => system_roots()?,
            })
            .with_no_client_auth(),
    };
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn roots_of(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| TlsError::Roots(Some(error.into())))? {
        let certificate = certificate.map_err(|error| TlsError::Roots(Some(error.into())))?;
        roots.add(certificate).map_err(|error| TlsError::Roots(Some(error.into())))?;
    }
    if roots.is_empty() { Err(TlsError::Roots(None)) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // Whatever cannot be read or used is passed over, as long as something is left.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(roots) }
}

/// Accepts whatever certificate the server shows, as libpq does in the modes `prefer` and `require`: they protect from
/// listeners, not from impostors. The server must still own the certificate's key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
