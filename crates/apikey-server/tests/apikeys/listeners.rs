//! What each listener serves, and what it does not.

use crate::harness::{Database, Server, ask, eventually, get, on_both_databases};

on_both_databases! {
    fn the_admin_listener_tells_life_readiness_and_figures(database: &Database) {
        let server = Server::start_with_key(database, &[("APIKEYS_USAGE_FLUSH_INTERVAL", "1s")]);
        let key = server.first_key();
        assert_eq!(server.get("/livez"), (200, "alive\n".to_owned()));
        assert_eq!(server.get("/readyz"), (200, "ready\n".to_owned()));
        assert_eq!(server.get("/").0, 404);
        assert_eq!(server.verify(&key, &[]).code, 0);
        let (status, metrics) = server.get("/metrics");
        assert_eq!(status, 200);
        assert!(metrics.contains("VerifyApiKey"), "{metrics}");
        assert!(!metrics.contains(&key), "no key in a metric");
        eventually("uses are counted", || server.get("/metrics").1.contains("apikeys_uses_recorded_total 1").then_some(()));
    }

    fn verification_is_never_on_the_public_listener_nor_management_on_the_other(database: &Database) {
        let server = Server::start_with_key(database, &[]);
        let key = server.first_key();
        let verify = ["verify", "--verify-endpoint", &format!("http://{}", server.listen)];
        let done = server.client_with_input("unused", &verify, &format!("{key}\n"));
        assert!(done.code == 3 && done.stderr.contains("UNIMPLEMENTED"), "{done:?}");
        let list = ["list", "--endpoint", &format!("http://{}", server.verify_listen)];
        let done = server.client(&key, &list);
        assert!(done.code == 3 && done.stderr.contains("UNIMPLEMENTED"), "{done:?}");
        assert_eq!(get(&server.listen, "/metrics").0 / 100, 4);
    }
}

#[test]
fn a_web_page_whose_name_was_rebound_to_loopback_is_told_nothing() {
    let server = Server::start(&Database::sqlite(), &[]);
    for (address, path) in [(&server.admin_listen, "/metrics"), (&server.verify_listen, "/")] {
        let answer = ask(address, "GET", path, &[("Host", "rebound.example")], b"");
        assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("a listener on loopback answers"), "{answer}");
        assert!(!ask(address, "GET", path, &[], b"").starts_with("HTTP/1.1 421 "));
    }
}

#[test]
fn without_a_database_it_is_alive_and_not_ready_and_an_outage_is_no_verdict() {
    let postgres = apikey_testing::postgres::TestServer::start(&["-c", "fsync=off"]);
    let database = Database::Postgres(postgres.database());
    let settings = [("APIKEYS_DATABASE_STATEMENT_TIMEOUT", "500ms"), ("APIKEYS_DATABASE_CONNECT_TIMEOUT", "500ms")];
    let server = Server::start_with_key(&database, &settings);
    let key = server.first_key();
    assert_eq!(server.get("/readyz").0, 200);
    {
        let _paused = postgres.pause();
        assert_eq!(server.get("/livez").0, 200);
        eventually("the lease has ended", || (server.get("/readyz").0 == 503).then_some(()));
        let done = server.verify(&key, &[]);
        assert_eq!((done.code, done.stdout.as_str()), (3, ""), "an outage is no verdict: {done:?}");
        assert!(done.stderr.contains("UNAVAILABLE") || done.stderr.contains("DEADLINE_EXCEEDED"), "{done:?}");
    }
    eventually("it is ready again", || (server.get("/readyz").0 == 200).then_some(()));
    assert_eq!(server.verify(&key, &[]).code, 0);
}
