//! SIGTERM: what is in flight is finished, usage is written down, and the exit code is 0.

use std::process::Stdio;

use apikey_testing::postgres::TestServer;
use serde_json::Value;

use crate::harness::{Database, Done, Server, eventually, on_both_databases};

on_both_databases! {
    fn the_last_uses_are_written_down(database: &Database) {
        let settings = [("APIKEYS_USAGE_FLUSH_INTERVAL", "60s")];
        let mut server = Server::start(database, &settings);
        let key = server.first_key();
        let mut before = Value::Null;
        for signal in ["TERM", "INT"] {
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

/// A request that waits for PostgreSQL, which stands still, is in flight when the signal comes.
#[test]
fn a_request_in_flight_is_finished() {
    let postgres = TestServer::start(&["-c", "fsync=off"]);
    let database = Database::Postgres(postgres.database());
    let server = Server::start(&database, &[("APIKEYS_DATABASE_STATEMENT_TIMEOUT", "30s")]);
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
    let server = Server::start(&Database::Postgres(postgres.database()), &settings);
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
    assert!(human.code == 1 && human.stderr.contains("listen: 192.0.2.1:1 cannot be listened on"), "{human:?}");
}
