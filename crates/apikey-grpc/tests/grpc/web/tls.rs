//! TLS on the public listener: both versions of HTTP by ALPN, and nothing in clear text.

use std::{sync::Arc, time::Duration};

use ::http::Method;
use apikey_grpc::{TlsError, TlsIdentity, listener::ConnectionLimits};
use rcgen::CertifiedKey;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::http::{Version, full, request, send_over};
use crate::{
    service::{Running, Setup, start_with},
    wire::LIST,
};

async fn with_tls() -> (Running, CertificateDer<'static>) {
    with_tls_and(ConnectionLimits::default()).await
}

async fn with_tls_and(connections: ConnectionLimits) -> (Running, CertificateDer<'static>) {
    let (tls, certificate) = identity();
    let running = start_with(Setup { tls: Some(tls), connections, ..Setup::default() }).await;
    (running, certificate)
}

fn identity() -> (TlsIdentity, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["service.test".to_owned()]).unwrap();
    let tls = TlsIdentity::from_pem(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes()).unwrap();
    (tls, cert.der().clone())
}

fn connector(certificate: CertificateDer<'static>, protocols: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_as_the_client_asks() {
    let (running, certificate) = with_tls().await;
    let (manager, _) = running.manager(1);
    for (protocols, chosen, version) in [
        (&[&b"h2"[..], b"http/1.1"][..], &b"h2"[..], Version::Http2),
        (&[b"http/1.1", b"h2"], b"h2", Version::Http2),
        (&[b"http/1.1"], b"http/1.1", Version::Http1),
    ] {
        let stream = TcpStream::connect(running.public.address).await.unwrap();
        let name = ServerName::try_from("service.test").unwrap();
        let stream = connector(certificate.clone(), protocols).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen));
        let headers = [("content-type", "application/json"), ("x-api-key", manager.as_str())];
        let answer = send_over(stream, version, request(Method::POST, LIST, &headers, full("{}"))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["apiKeys"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn clear_text_and_garbage_end_the_connection_and_nothing_else() {
    let (running, certificate) = with_tls().await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 100]] {
        let mut stream = TcpStream::connect(running.public.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        assert!(!received.starts_with(b"HTTP/"), "{received:?}");
    }
    // A handshake that is never begun holds nobody up.
    let _silent = TcpStream::connect(running.public.address).await.unwrap();
    let stream = TcpStream::connect(running.public.address).await.unwrap();
    let name = ServerName::try_from("service.test").unwrap();
    connector(certificate, &[b"h2"]).connect(name, stream).await.unwrap();
}

#[tokio::test]
async fn another_certificate_is_presented_from_the_next_connection_on() {
    let ((tls, first), (other, second)) = (identity(), identity());
    let running = start_with(Setup { tls: Some(tls.clone()), ..Setup::default() }).await;
    let connect = async |certificate: &CertificateDer<'static>| {
        let stream = TcpStream::connect(running.public.address).await.unwrap();
        let name = ServerName::try_from("service.test").unwrap();
        connector(certificate.clone(), &[b"h2"]).connect(name, stream).await
    };
    assert!(connect(&first).await.is_ok() && connect(&second).await.is_err());
    tls.replace(&other);
    assert!(connect(&first).await.is_err() && connect(&second).await.is_ok());
}

#[tokio::test]
async fn a_handshake_that_is_never_begun_is_given_up() {
    let connections = ConnectionLimits { header_timeout: Duration::from_millis(50), ..ConnectionLimits::default() };
    let (running, _) = with_tls_and(connections).await;
    let mut stream = TcpStream::connect(running.public.address).await.unwrap();
    let mut received = Vec::new();
    // Ends only if the service ends it.
    let _ = stream.read_to_end(&mut received).await;
    assert_eq!(received, b"");
}

#[test]
fn an_identity_that_cannot_be_used_is_refused_by_name() {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().signing_key;
    let (cert, key) = (cert.pem(), signing_key.serialize_pem());
    let identity = |cert: &str, key: &str| TlsIdentity::from_pem(cert.as_bytes(), key.as_bytes());
    assert!(identity(&cert, &key).is_ok());
    assert!(matches!(identity("", &key), Err(TlsError::NoCertificate)));
    assert!(matches!(
        identity("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n", &key),
        Err(TlsError::Certificates)
    ));
    assert!(matches!(identity(&cert, ""), Err(TlsError::Key)));
    assert!(matches!(identity(&cert, &cert), Err(TlsError::Key)));
    assert!(matches!(identity(&cert, &other.serialize_pem()), Err(TlsError::Unusable(_))));
}
