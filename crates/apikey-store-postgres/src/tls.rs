//! Encryption by rustls: which certificates are accepted, and what to do about those that are not. Knows no socket.

use std::{error::Error, io, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
    },
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
        pem::{self, PemObject as _},
    },
};
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
};

use crate::url::{ClientCertificate, Encryption};

/// Encryption was asked for and cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of `sslrootcert` cannot be read, or holds no certificate.
    #[error("sslrootcert cannot be read, or holds no certificate")]
    Roots(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// The operating system trusts no certificate.
    #[error("the operating system trusts no root certificate; name a file by sslrootcert")]
    NoSystemRoots,
    /// The file of `sslcert` or of `sslkey` cannot be read.
    #[error("{parameter} cannot be read")]
    Client {
        /// Which of the two.
        parameter: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// The files of `sslcert` and `sslkey` cannot be used together.
    #[error("sslcert and sslkey cannot be used")]
    ClientKey(#[source] rustls::Error),
    /// The cryptography refuses to work.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// How to encrypt; `None` where nothing is to be encrypted.
pub(crate) fn connector(
    encryption: &Encryption,
    client: Option<&ClientCertificate>,
) -> Result<Option<MakeRustlsConnect>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match encryption {
        Encryption::Disabled => return Ok(None),
        Encryption::Preferred | Encryption::Required => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        Encryption::OfAuthority { roots } => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots_of(roots)?), provider).build();
            let verifier = verifier.map_err(|error| TlsError::Roots(Some(error.into())))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
        }
        Encryption::Verified { roots } => builder.with_root_certificates(match roots {
            Some(file) => roots_of(file)?,
            None => system_roots()?,
        }),
    };
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { chain, key }) => {
            let unreadable = |parameter| move |source| TlsError::Client { parameter, source };
            let chain = CertificateDer::pem_file_iter(chain)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(unreadable("sslcert"))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable("sslkey"))?;
            builder.with_client_auth_cert(chain, key).map_err(TlsError::ClientKey)?
        }
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

/// What to do about a certificate that was not accepted, where that was why the connection failed.
pub(crate) fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    // An `io::Error` does not name what it was made of as its source.
    let refused = causes
        .filter_map(|cause| match cause.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref()?.downcast_ref::<rustls::Error>(),
            None => cause.downcast_ref::<rustls::Error>(),
        })
        .find_map(|error| match error {
            rustls::Error::InvalidCertificate(error) => Some(error),
            _ => None,
        })?;
    Some(match refused {
        // A CA of the same name with another key leads to the second.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no root certificate that is trusted vouches for the server's: name the file of its CA by sslrootcert"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for other names than the URL's host: use a name of its subjectAltName, or \
             sslmode=verify-ca where the CA of sslrootcert is your own"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the server's certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet"
        }
        // The library's own errors have no type of their own here.
        CertificateError::Other(error) => match format!("{error:?}") {
            text if text.contains("CaUsedAsEndEntity") => {
                "the server's certificate is a CA's (a self-signed one as openssl makes it): make one for the server with \
                 basicConstraints=CA:FALSE and a subjectAltName, signed by that CA, and name the CA's file by sslrootcert"
            }
            text if text.contains("UnsupportedCertVersion") => {
                "the server's certificate is of X.509 version 1, which has no names: make one of version 3 with a \
                 subjectAltName (openssl x509 -req … -extfile)"
            }
            _ => return None,
        },
        _ => return None,
    })
}

/// Accepts whatever certificate the server shows, as libpq does in the modes `prefer` and `require`: they protect from
/// listeners, not from impostors. The server must still own the certificate's key, since the password is bound to the
/// certificate where the server supports that (SCRAM-SHA-256-PLUS).
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

    /// By the key alone where the certificate is none that rustls reads, such as one of X.509 version 1.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms).or_else(|error| {
            let key = Certificate::from_der(certificate)
                .and_then(|certificate| certificate.tbs_certificate.subject_public_key_info.to_der());
            let key = SubjectPublicKeyInfoDer::from(key.map_err(|_| error)?);
            verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts a certificate that a root vouches for, whatever its names: `verify-ca`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last, once the chain is found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
