//! Each `sslmode` against servers that offer encryption and that do not.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use apikey_application::ports::{CommitError, KeyStore as _};
use apikey_store_postgres::{ConnectError, ConnectionError, Options, PostgresStore, TargetError, TlsError};
use apikey_testing::{
    fixtures::{a_key, issue},
    postgres::{PASSWORD, TestDatabase, TestServer},
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::contract::patient;

/// A certificate authority.
fn an_authority() -> CertifiedIssuer<'static, KeyPair> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut authority = CertificateParams::default();
    let name = format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed));
    authority.distinguished_name.push(rcgen::DnType::CommonName, name);
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate that the authority signed, and its key.
fn signed_by(authority: &CertifiedIssuer<'_, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    (parameters.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// Writes files of the server's own, and has it read its settings again.
fn configure(server: &TestServer, files: &[(&str, &str)]) {
    for (name, content) in files {
        // A row for each line; the file must be the server's alone, or it refuses the key.
        let program = format!("cat > \"$PGDATA/{name}\" && chmod 600 \"$PGDATA/{name}\"");
        let lines = content.trim_end();
        server
            .psql("postgres", &format!("COPY (SELECT regexp_split_to_table('{lines}', '\\n')) TO PROGRAM '{program}'"));
    }
    let before = server.psql("postgres", "SELECT pg_conf_load_time()");
    server.psql("postgres", "SELECT pg_reload_conf()");
    // Not before the server has read them.
    while server.psql("postgres", "SELECT pg_conf_load_time()") == before {}
}

/// Makes the server offer encryption, with a certificate for `localhost` alone. Returns the root that vouches for it.
fn offer_encryption(server: &TestServer) -> String {
    let authority = an_authority();
    let (certificate, key) = signed_by(&authority, "localhost");
    server.psql("postgres", "ALTER SYSTEM SET ssl = on");
    configure(server, &[("server.crt", &certificate), ("server.key", &key)]);
    authority.pem()
}

/// Whether the store's connections are encrypted, by the server's account.
fn encrypted(server: &TestServer, database: &TestDatabase) -> bool {
    let answer = server.psql(
        "postgres",
        &format!(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE datname = '{}' AND application_name = 'apikeys'",
            database.name()
        ),
    );
    match &*answer {
        "t" => true,
        "f" => false,
        other => panic!("{other:?}"),
    }
}

/// The same server as if it were on another machine: Linux takes 0.0.0.0 for itself.
fn elsewhere(url: &str) -> String {
    url.replace("127.0.0.1", "0.0.0.0")
}

async fn connect_by_agreement(url: &str) -> Result<PostgresStore, ConnectError> {
    PostgresStore::connect(url, Options { max_connections: 1, allow_unverified: true, ..patient() }).await
}

async fn connect(url: &str) -> Result<PostgresStore, ConnectError> {
    PostgresStore::connect(url, Options { max_connections: 1, ..patient() }).await
}

fn file(name: &str, content: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_insists_on_what_it_says() {
    let server = TestServer::start(&[]);
    let database = server.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    // Not before the server has read its new settings.
    let root = offer_encryption(&server);
    while server.psql("postgres", "SHOW ssl") != "on" {}
    let root = file("root.pem", &root);
    let other_root = file("other.pem", &an_authority().pem());
    let by_name = database.url().replace("127.0.0.1", "localhost");
    let by_address = database.url();

    for (url, expected) in [
        (format!("{by_address}?sslmode=disable"), false),
        (by_address.to_owned(), true),
        (format!("{by_address}?sslmode=prefer"), true),
        (format!("{by_address}?sslmode=require"), true),
        (format!("{by_address}?sslmode=require&channel_binding=require"), true),
        (format!("{by_address}?sslmode=verify-ca&sslrootcert={}", root.display()), true),
        (format!("{by_name}?sslmode=verify-full&sslrootcert={}", root.display()), true),
    ] {
        let store = connect(&url).await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
        store.ping().await.unwrap();
        assert_eq!(encrypted(&server, &database), expected, "{url}");
        // What the server says of an error is understood through the encryption, too.
        let _ = store.commit(issue(&a_key(1))).await;
        let error = store.commit(issue(&a_key(1))).await.unwrap_err();
        assert!(matches!(error, CommitError::DuplicateDigest), "{error:?}");
        store.close();
        drop(store);
        let leaving = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'", database.name());
        while server.psql("postgres", &leaving) != "0" {}
    }
    for url in [
        format!("{by_address}?sslmode=verify-full&sslrootcert={}", root.display()),
        format!("{by_name}?sslmode=verify-full&sslrootcert={}", other_root.display()),
        format!("{by_name}?sslmode=verify-full"),
        format!("{by_name}?sslmode=verify-ca&sslrootcert={}", other_root.display()),
        // No other machine is trusted by default, nor one whose password would be the attacker's.
        elsewhere(by_address),
        format!("{by_address}?sslmode=disable&channel_binding=require"),
    ] {
        match connect(&url).await {
            // A machine that trusts no root at all cannot verify anything.
            Err(ConnectError::Connection(_) | ConnectError::Target(TargetError::Tls(TlsError::NoSystemRoots))) => {}
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_encryption_is_refused_where_encryption_is_required() {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let root = file("unused.pem", &{
        let authority = CertificateParams::default();
        CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap().pem()
    });
    connect(&format!("{}?sslmode=prefer", database.url())).await.unwrap();
    connect(&format!("{}?sslmode=disable", database.url())).await.unwrap();
    for parameters in ["sslmode=require".to_owned(), format!("sslmode=verify-full&sslrootcert={}", root.display())] {
        let error = connect(&format!("{}?{parameters}", database.url())).await.unwrap_err();
        assert!(matches!(error, ConnectError::Connection(_)), "{error:?}");
    }
}

#[tokio::test]
async fn roots_that_are_none_are_refused() {
    let empty = file("empty.pem", "nothing");
    for path in [empty.display().to_string(), "/does/not/exist.pem".to_owned()] {
        let url = format!("postgres://localhost:1/keys?sslmode=verify-full&sslrootcert={path}");
        let error = connect(&url).await.unwrap_err();
        assert!(matches!(error, ConnectError::Target(TargetError::Tls(TlsError::Roots(_)))), "{error:?}");
    }
}

/// All that an error says.
fn told(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_given_as_it_is_only_to_who_has_proven_who_it_is() {
    let server = TestServer::start(&[]);
    let database = server.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let root = file("proven.pem", &offer_encryption(&server));
    let url = elsewhere(database.url());
    let proven = format!("{url}?sslmode=verify-ca&sslrootcert={}", root.display());
    for (method, encryption, form) in
        [("password", "scram-sha-256", "in clear text"), ("md5", "md5", "as an MD5 digest")]
    {
        server.psql(
            "postgres",
            &format!("SET password_encryption = '{encryption}'; ALTER ROLE apikeys PASSWORD '{PASSWORD}'"),
        );
        configure(&server, &[("pg_hba.conf", &format!("local all all trust\nhost all all all {method}"))]);
        for mode in ["disable", "prefer", "require"] {
            let error = connect_by_agreement(&format!("{url}?sslmode={mode}")).await.unwrap_err();
            assert!(told(&error).contains(&format!("asks for the password {form}")), "{mode}: {}", told(&error));
            assert!(!error.may_pass());
        }
        connect(&proven).await.unwrap();
        connect(database.url()).await.unwrap();
    }
    // By SCRAM nobody learns it.
    server.psql(
        "postgres",
        &format!("SET password_encryption = 'scram-sha-256'; ALTER ROLE apikeys PASSWORD '{PASSWORD}'"),
    );
    configure(&server, &[("pg_hba.conf", "local all all trust\nhost all all all scram-sha-256")]);
    for mode in ["disable", "prefer", "require"] {
        assert!(!connect_by_agreement(&format!("{url}?sslmode={mode}")).await.unwrap().is_verified());
    }
    assert!(connect(&proven).await.unwrap().is_verified());
    assert!(connect(database.url()).await.unwrap().is_verified(), "nobody stands in between on this machine");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_was_offered_and_failed_is_never_replaced_by_clear_text() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(b"S").await.unwrap();
            seen.push(request);
        }
        seen
    });
    let url = format!("postgres://apikeys:{PASSWORD}@{address}/keys?sslmode=prefer");
    for _ in 0..2 {
        let error = connect(&url).await.unwrap_err();
        assert!(matches!(error, ConnectError::Connection(_)), "{error:?}");
    }
    assert_eq!(seen.await.unwrap(), [SSL_REQUEST, SSL_REQUEST]);
}

/// PostgreSQL's manual, "Message Formats": `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_not_accepted_come_with_advice_and_require_accepts_all() {
    let server = TestServer::start(&[]);
    let database = server.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    server.psql("postgres", "ALTER SYSTEM SET ssl = on");
    let (version1, version1_key) = (include_str!("encryption/version1.crt"), include_str!("encryption/version1.key"));
    let its_own = an_authority();
    let (for_another, for_another_key) = signed_by(&its_own, "another.example");
    let stranger = an_authority();
    for (certificate, key, root, advice) in [
        (version1, version1_key, &*its_own.pem(), "X.509 version 1"),
        (&*its_own.pem(), &*its_own.key().serialize_pem(), &*its_own.pem(), "basicConstraints=CA:FALSE"),
        (&*for_another, &*for_another_key, &*its_own.pem(), "for other names than the URL's host"),
        (&*for_another, &*for_another_key, &*stranger.pem(), "by sslrootcert"),
    ] {
        configure(&server, &[("server.crt", certificate), ("server.key", key)]);
        let root = file("advice.pem", root);
        let url = database.url().replace("127.0.0.1", "localhost");
        let error = connect(&format!("{url}?sslmode=verify-full&sslrootcert={}", root.display())).await.unwrap_err();
        let certificate = matches!(error, ConnectError::Connection(ConnectionError::Certificate { .. }));
        assert!(certificate && told(&error).contains(advice), "{advice}: {}", told(&error));
        for mode in ["prefer", "require"] {
            let store = connect(&format!("{url}?sslmode={mode}&channel_binding=require")).await;
            let store = store.unwrap_or_else(|error| panic!("{advice}: {}", told(&error)));
            store.ping().await.unwrap();
            assert!(encrypted(&server, &database), "{advice}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_this_side_s_own_is_presented() {
    let server = TestServer::start(&[]);
    let database = server.database();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let authority = an_authority();
    let (certificate, key) = signed_by(&authority, "localhost");
    server.psql("postgres", "ALTER SYSTEM SET ssl = on");
    server.psql("postgres", "ALTER SYSTEM SET ssl_ca_file = 'root.crt'");
    configure(
        &server,
        &[
            ("root.crt", &authority.pem()),
            ("server.crt", &certificate),
            ("server.key", &key),
            ("pg_hba.conf", "local all all trust\nhostssl all all all cert"),
        ],
    );
    let root = file("both.pem", &authority.pem());
    let url = database.url().replace("127.0.0.1", "localhost");
    let url = format!("{url}?sslmode=verify-full&sslrootcert={}", root.display());
    assert!(matches!(connect(&url).await, Err(ConnectError::Connection(_))));
    let (certificate, key) = signed_by(&authority, "apikeys");
    let (certificate, key) = (file("client.pem", &certificate), file("client.key", &key));
    let with = |key: &Path| format!("{url}&sslcert={}&sslkey={}", certificate.display(), key.display());
    connect(&with(&key)).await.unwrap().ping().await.unwrap();
    let error = connect(&with(Path::new("/does/not/exist"))).await.unwrap_err();
    assert!(told(&error).contains("sslkey cannot be read"), "{}", told(&error));
}
