//! Each `sslmode` against servers that offer encryption and that do not.

use std::path::PathBuf;

use apikey_application::ports::{CommitError, KeyStore as _};
use apikey_store_postgres::{ConnectError, Options, PostgresStore, TargetError, TlsError};
use apikey_testing::{
    fixtures::{a_key, issue},
    postgres::{TestDatabase, TestServer},
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

use super::contract::patient;

/// Makes the server offer encryption, with a certificate for `localhost` alone. Returns the root that vouches for it.
fn offer_encryption(server: &TestServer) -> String {
    let mut authority = CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    for (name, pem) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
        // A row for each line; the file must be the server's alone, or it refuses the key.
        let program = format!("cat > \"$PGDATA/{name}\" && chmod 600 \"$PGDATA/{name}\"");
        server.psql("postgres", &format!("COPY (SELECT regexp_split_to_table('{pem}', '\\n')) TO PROGRAM '{program}'"));
    }
    server.psql("postgres", "ALTER SYSTEM SET ssl = on");
    server.psql("postgres", "SELECT pg_reload_conf()");
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
    let other_root = file("other.pem", &{
        let mut authority = CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap().pem()
    });
    let by_name = database.url().replace("127.0.0.1", "localhost");
    let by_address = database.url();

    for (url, expected) in [
        (format!("{by_address}?sslmode=disable"), false),
        (by_address.to_owned(), true),
        (format!("{by_address}?sslmode=prefer"), true),
        (format!("{by_address}?sslmode=require"), true),
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
