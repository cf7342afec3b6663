//! A PostgreSQL that is not there yet, that another process migrates, or that gives the service no more than it needs.

use std::{
    fs::{self, File},
    io,
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    thread,
};

use apikey_testing::postgres::{PASSWORD, TestDatabase, TestServer};

use crate::harness::{Database, Done, Folder, Server, apikeys, eventually, run};

/// `serve` before it serves.
struct Starting {
    child: Child,
    folder: Folder,
}

impl Starting {
    fn of(variables: &[(&str, &str)]) -> Self {
        let folder = Folder::new();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = apikeys(variables, &["serve"]);
        for variable in ["APIKEYS_LISTEN", "APIKEYS_VERIFY_LISTEN", "APIKEYS_ADMIN_LISTEN"] {
            command.env(variable, "127.0.0.1:0");
        }
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn until_it_says(&mut self, text: &str) {
        eventually(text, || {
            assert_eq!(self.child.try_wait().unwrap(), None, "{}", self.log());
            self.log().contains(text).then_some(())
        });
    }

    /// Ends it as an operator does; returns the exit code and what it logged.
    fn terminate(mut self) -> (Option<i32>, String) {
        let status = std::process::Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        let status = eventually("it ends", || self.child.try_wait().unwrap());
        (status.code(), self.log())
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An address where nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Passes every connection to `address` on to `to`, until the test process ends.
fn pass_on(address: &str, to: &str) {
    let listener = TcpListener::bind(address).unwrap();
    let to = to.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (near, far) = (stream.unwrap(), TcpStream::connect(&to).unwrap());
            for (mut from, mut into) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                thread::spawn(move || io::copy(&mut from, &mut into).ok());
            }
        }
    });
}

fn address_of(database: &TestDatabase) -> &str {
    let (_, address) = database.url().split_once('@').unwrap();
    address.split_once('/').unwrap().0
}

#[test]
fn a_start_waits_for_the_database_and_says_so() {
    let database = TestDatabase::create();
    let address = nobody();
    let url = database.url().replace(address_of(&database), &address);
    let mut starting = Starting::of(&[("APIKEYS_DATABASE_URL", &url)]);
    starting.until_it_says("the database does not accept connections yet: waiting");
    pass_on(&address, address_of(&database));
    starting.until_it_says("\"serving\"");
    let (code, log) = starting.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("Connection refused"), "the cause is told: {log}");
}

#[test]
fn a_start_that_waits_for_the_database_ends_when_it_is_told_to() {
    let url = format!("postgres://apikeys@{}/keys", nobody());
    let mut starting = Starting::of(&[("APIKEYS_DATABASE_URL", &url)]);
    starting.until_it_says("the database does not accept connections yet: waiting");
    let (code, log) = starting.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped before the service was ready"), "{log}");
}

#[test]
fn a_start_waits_no_longer_than_it_is_told_to() {
    let url = format!("postgres://apikeys@{}/keys", nobody());
    for command in [&["serve"][..], &["migrate"], &["bootstrap", "--organization", "acme"]] {
        let variables = [("APIKEYS_DATABASE_URL", &*url), ("APIKEYS_DATABASE_START_TIMEOUT", "0s")];
        let done = run(apikeys(&variables, command), "");
        assert_eq!(done.code, 3, "{done:?}");
        assert!(done.stderr.contains("PostgreSQL cannot be reached"), "{done:?}");
    }
}

#[test]
fn a_start_that_waits_for_a_migration_says_for_whom_and_ends_when_it_is_told_to() {
    let database = TestDatabase::create();
    let url = database.url();
    assert_eq!(run(apikeys(&[("APIKEYS_DATABASE_URL", url)], &["migrate"]), "").code, 0);
    let server = TestServer::shared();
    server.psql(database.name(), "DELETE FROM __diesel_schema_migrations WHERE version = '0007'");
    let name = database.name().to_owned();
    // Ends when the test does, with its server.
    thread::spawn(move || {
        server.psql(&name, "BEGIN; LOCK TABLE __diesel_schema_migrations IN ROW EXCLUSIVE MODE; SELECT pg_sleep(600)")
    });
    eventually("the table is locked", || {
        let locks = "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock' AND granted \
             AND relation = '__diesel_schema_migrations'::regclass";
        (server.psql(database.name(), locks) == "1").then_some(())
    });
    let mut starting = Starting::of(&[("APIKEYS_DATABASE_URL", url)]);
    starting.until_it_says("the schema is to be migrated, and is locked: waiting");
    assert!(starting.log().contains("application_name \\\"psql\\\""), "{}", starting.log());
    let (code, log) = starting.terminate();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_role_that_migrate_was_told_of_serves_with_no_more_than_it_needs() {
    let database = TestDatabase::create();
    let role = format!("service_{}", database.name());
    TestServer::shared().psql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'"));
    let migrate = |arguments: &[&str]| -> Done {
        let variables = [("APIKEYS_DATABASE_URL", database.url()), ("APIKEYS_DATABASE_SCHEMA", "keys")];
        run(apikeys(&variables, &[&["migrate"], arguments].concat()), "")
    };
    let unknown = migrate(&["--grant", "nobody"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    assert!(unknown.stderr.contains("there is no role \"nobody\""), "{unknown:?}");
    assert_eq!(migrate(&["--grant", &role]).code, 0);
    let url = database.url().replace("//apikeys:", &format!("//{role}:"));
    let settings = [("APIKEYS_DATABASE_URL", &*url), ("APIKEYS_DATABASE_SCHEMA", "keys")];
    let server = Server::start_with_key(&Database::Elsewhere, &settings);
    let key = server.first_key();
    assert_eq!(server.verify(&key, &[]).code, 0);
}

#[test]
fn another_machine_s_database_is_not_trusted_without_a_word() {
    for parameters in ["?sslmode=disable", "?sslmode=prefer", "?sslmode=require"] {
        let url = format!("postgres://apikeys:hidden@db.example/keys{parameters}");
        for command in [&["serve"][..], &["migrate"], &["bootstrap", "--organization", "acme"], &["config"]] {
            let done = run(apikeys(&[("APIKEYS_DATABASE_URL", &url), ("HOME", "/home/somebody")], command), "");
            assert_eq!(done.code, 2, "{done:?}");
            assert!(done.stderr.contains("database_url: sslmode=") && !done.stderr.contains("hidden"), "{done:?}");
            assert!(done.stderr.contains("database_allow_unverified"), "{done:?}");
        }
    }
}

#[test]
fn a_database_that_is_not_verified_is_warned_of_and_shows_in_the_metrics() {
    let database = TestDatabase::create();
    let trusted = [("APIKEYS_DATABASE_URL", database.url()), ("PGSSLMODE", "verify-full"), ("PGHOST", "h")];
    let server = Server::start(&Database::Elsewhere, &trusted);
    assert!(server.get("/metrics").1.contains("\napikeys_database_verified 1\n"));
    let log = server.stop().stderr;
    assert!(!log.contains("CERTIFICATE IS NOT CHECKED"), "{log}");
    assert!(
        log.contains("\"ignored\":\"PGHOST PGSSLMODE\"") || log.contains("\"ignored\":\"PGSSLMODE PGHOST\""),
        "{log}"
    );
    // Linux takes 0.0.0.0 for itself; for the service it is another machine.
    let url = format!("{}?sslmode=prefer", database.url().replace("127.0.0.1", "0.0.0.0"));
    let settings = [("APIKEYS_DATABASE_URL", &*url), ("APIKEYS_DATABASE_ALLOW_UNVERIFIED", "true")];
    let server = Server::start(&Database::Elsewhere, &settings);
    assert!(server.get("/metrics").1.contains("\napikeys_database_verified 0\n"));
    let log = server.stop().stderr;
    assert!(log.contains("POSTGRESQL'S CERTIFICATE IS NOT CHECKED"), "{log}");
}

#[test]
fn a_password_that_was_changed_in_its_file_is_read_again() {
    let database = TestDatabase::create();
    let role = format!("rotated_{}", database.name());
    let admin = TestServer::shared();
    admin.psql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'"));
    let grant = run(apikeys(&[("APIKEYS_DATABASE_URL", database.url())], &["migrate", "--grant", &role]), "");
    assert_eq!(grant.code, 0, "{grant:?}");
    let folder = Folder::new();
    let url = database.url().replace("//apikeys:", &format!("//{role}:"));
    let file = folder.file("url", &format!("{url}\n"));
    let server = Server::start_with_key(&Database::Elsewhere, &[("APIKEYS_DATABASE_URL_FILE", &file)]);
    let key = server.first_key();
    admin.psql("postgres", &format!("ALTER ROLE {role} PASSWORD 'another'"));
    folder.file("url", &format!("{}\n", url.replace(PASSWORD, "another")));
    admin.psql(
        "postgres",
        &format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'"),
    );
    eventually("keys are created again", || {
        (server.client(&key, &["create", "--name", "after"]).code == 0).then_some(())
    });
    assert!(server.log().iter().any(|line| line.contains("the database's URL has changed")));
}

#[test]
fn sqlite_has_no_roles() {
    let folder = Folder::new();
    let done = run(apikeys(&[("APIKEYS_DATA_DIR", &folder.text())], &["migrate", "--grant", "somebody"]), "");
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("--grant needs database_url"), "{done:?}");
}
