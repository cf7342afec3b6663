//! Signals. SIGTERM, SIGINT and SIGQUIT: what is in flight is finished, usage is written down, and the exit code is 0. SIGHUP: files
//! are read again.

use std::{
    fs,
    process::{Command, Stdio},
};

use apikey_testing::postgres::TestServer;
use serde_json::Value;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::harness::{Database, Done, Folder, Server, apikeys, eventually, on_both_databases, signal};

on_both_databases! {
    fn the_last_uses_are_written_down(database: &Database) {
        let settings = [("APIKEYS_USAGE_FLUSH_INTERVAL", "60s")];
        let mut server = Server::start_with_key(database, &settings);
        let key = server.first_key();
        let mut before = Value::Null;
        for signal in ["TERM", "INT", "QUIT"] {
            assert_eq!(server.verify(&key, &[]).code, 0);
            server.signal(signal);
            let done = server.wait();
            assert_eq!(done.code, 0, "{done:?}");
            server = Server::start(database, &settings);
            let after = server.client(&key, &["list", "--json"]).json()["api_keys"][0]["last_used_at"].clone();
            assert!(after.is_string() && after != before, "{signal}: {after} after {before}");
            before = after;
        }
    }
}

/// The first process of a container is sent no signal that it does not handle, whatever the default action is. Here it cannot get
/// further than its configuration file, a pipe that nobody writes to.
#[test]
fn signals_are_handled_from_the_first_instruction_on() {
    let folder = Folder::new();
    let config = folder.path().join("config").to_str().unwrap().to_owned();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    for (command, name, code) in
        [("serve", "TERM", 143), ("serve", "QUIT", 131), ("migrate", "HUP", 129), ("list", "INT", 130)]
    {
        let mut process = apikeys(&[("APIKEYS_CONFIG", &config)], &[command]).spawn().unwrap();
        eventually("the signals are handled", || {
            let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
            // SIGHUP 1, SIGINT 2, SIGQUIT 3 and SIGTERM 15.
            let all = 1 | 1 << 1 | 1 << 2 | 1 << 14;
            (caught & all == all).then_some(())
        });
        signal(process.id(), name);
        let status = eventually("it ends", || process.try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{command}: it ended by itself: {status}");
    }
}

#[test]
fn a_hangup_ends_nothing_and_reads_the_files_of_secrets_again() {
    let (first, second) = ("0123456789abcdef-first", "0123456789abcdef-second");
    let folder = Folder::new();
    let file = folder.file("token", first);
    let server = Server::start(&Database::sqlite(), &[("APIKEYS_VERIFY_TOKEN_FILE", &file)]);
    let code = |token: &str| {
        let tokens = folder.file("presented", token);
        let done = server.verify("garbage", &["--verify-token-file", &tokens]);
        if done.stderr.contains("UNAUTHENTICATED") { "refused" } else { "admitted" }
    };
    let said = |text: &str| eventually(text, || server.log().iter().any(|line| line.contains(text)).then_some(()));
    assert_eq!((code(first), code(second)), ("admitted", "refused"));

    folder.file("token", &format!("{second}\n"));
    server.signal("HUP");
    said("\"read again\"");
    assert_eq!((code(first), code(second)), ("refused", "admitted"));

    folder.file("token", "short");
    server.signal("HUP");
    said("cannot be read again: what was read before stays in force");
    assert_eq!((code(first), code(second)), ("refused", "admitted"));
    let done = server.stop();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!done.stderr.contains(second) && !done.stderr.contains("short\""), "{done:?}");
}

/// A core dump would hold every key in memory.
#[test]
fn there_are_no_core_dumps_unless_they_are_asked_for() {
    // What the system lets this process allow; children inherit it.
    let mut own = getrlimit(Resource::Core);
    own.current = own.maximum;
    setrlimit(Resource::Core, own).unwrap();
    let limit = |settings: &[(&str, &str)]| {
        let server = Server::start(&Database::sqlite(), settings);
        let limits = fs::read_to_string(format!("/proc/{}/limits", server.process_id())).unwrap();
        let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        core.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit(&[]), "0");
    let allowed = own.current.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
    assert_eq!(limit(&[("APIKEYS_ALLOW_CORE_DUMPS", "true")]), allowed);
}

/// A request that waits for PostgreSQL, which stands still, is in flight when the signal comes.
#[test]
fn a_request_in_flight_is_finished() {
    let postgres = TestServer::start(&["-c", "fsync=off"]);
    let database = Database::Postgres(postgres.database());
    let server = Server::start_with_key(&database, &[("APIKEYS_DATABASE_STATEMENT_TIMEOUT", "30s")]);
    let manager = server.first_key();
    let endpoint = format!("http://{}", server.listen);
    let mut command = server.client_command(&endpoint, &manager, &["create", "--name", "in flight", "--json"]);

    let paused = postgres.pause();
    let client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the request is in flight", || {
        server.get("/metrics").1.contains("apikeys_grpc_requests_in_flight 1").then_some(())
    });
    server.signal("TERM");
    eventually("it is not ready any more", || {
        (server.get("/readyz") == (503, "shutting down\n".to_owned())).then_some(())
    });
    drop(paused);

    let done = Done::from(client.wait_with_output().unwrap());
    let raw_key = done.json()["raw_key"].as_str().unwrap().to_owned();
    assert_eq!(done.stderr, "", "it was answered at once, not repeated");
    let ended = server.wait();
    assert_eq!(ended.code, 0, "{ended:?}");
    let server = Server::start(&database, &[]);
    assert_eq!(server.verify(&raw_key, &[]).code, 0);
}

/// PostgreSQL stands still in the middle of a flush: the stop does not wait until the statement's own time is over.
#[test]
fn a_database_that_stands_still_does_not_hold_up_the_stop() {
    let postgres = TestServer::start(&["-c", "fsync=off"]);
    let settings = [
        ("APIKEYS_DATABASE_CONNECT_TIMEOUT", "60s"),
        ("APIKEYS_DATABASE_STATEMENT_TIMEOUT", "60s"),
        ("APIKEYS_USAGE_FLUSH_INTERVAL", "1s"),
    ];
    let server = Server::start_with_key(&Database::Postgres(postgres.database()), &settings);
    let key = server.first_key();
    assert_eq!(server.verify(&key, &[]).code, 0);
    eventually("a flush has just been", || {
        server.get("/metrics").1.contains("apikeys_uses_recorded_total 1").then_some(())
    });
    assert_eq!(server.verify(&key, &[]).code, 0);
    let _paused = postgres.pause();
    // It answers so when the lease has ended, which takes longer than the next flush takes to begin.
    eventually("it is not ready", || (server.get("/readyz").0 == 503).then_some(()));
    server.signal("TERM");
    let done = server.wait();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("the last uses could not be recorded in time"), "{done:?}");
    assert!(!done.stderr.contains("they are kept"), "it waited until the statement was given up: {done:?}");
}

#[test]
fn a_log_line_is_json_and_names_the_request() {
    let server = Server::start(&Database::sqlite(), &[]);
    let refused = server.client("garbage", &["list"]);
    let request = refused.stderr.split("request ").last().unwrap().trim().to_owned();
    eventually("the refusal is logged under its request's id", || {
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let events: Vec<Value> = server.log().iter().map(parse).collect();
        events.iter().any(|event| event["span"]["request_id"] == *request).then_some(())
    });
    let human = Server::try_start(
        &Database::sqlite(),
        &[("APIKEYS_LOG_FORMAT", "human"), ("APIKEYS_LISTEN", "192.0.2.1:1"), ("APIKEYS_ALLOW_PLAINTEXT", "true")],
    );
    let human = human.err().expect("that address is nobody's");
    assert!(human.code == 3 && human.stderr.contains("listen: 192.0.2.1:1 cannot be listened on"), "{human:?}");
}
