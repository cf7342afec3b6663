//! Two processes on one PostgreSQL.

use std::thread;

use serde_json::Value;

use apikey_testing::postgres::TestServer;

use crate::harness::{Database, Server, eventually};

#[test]
fn two_processes_see_each_others_keys() {
    let database = Database::postgres();
    let one = Server::start_with_key(&database, &[]);
    let manager = one.first_key();
    let two = Server::start(&database, &[]);
    let created = one.client(&manager, &["create", "--name", "shared", "--json"]).json();
    let (id, raw_key) = (created["api_key"]["id"].as_str().unwrap(), created["raw_key"].as_str().unwrap());
    assert_eq!(two.verify(raw_key, &[]).json()["valid"]["api_key_id"], id);
    assert_eq!(two.client(&manager, &["list", "--json"]).json()["api_keys"][0]["id"], id);
    assert_eq!(two.client(&manager, &["revoke", id]).code, 0);
    for replica in [&one, &two] {
        let rejected = replica.verify(raw_key, &[]);
        assert!(rejected.code == 1 && rejected.stdout.contains("REVOKED"), "{rejected:?}");
    }
    // A page's token works on the other one.
    let page = one.client(&manager, &["list", "--json", "--page-size", "1"]).json();
    let token = page["pagination"]["next_page_token"].as_str().unwrap();
    let rest = two.client(&manager, &["list", "--json", "--page-token", token]).json();
    assert_eq!(rest["api_keys"][0]["name"], "bootstrap");
    assert_eq!(rest["api_keys"].as_array().unwrap().len(), 1);
}

#[test]
fn processes_that_start_together_migrate_once_and_issue_one_first_key() {
    let database = Database::postgres();
    let servers: Vec<Server> = thread::scope(|scope| {
        let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| Server::start_on_terminal(&database))).collect();
        starting.into_iter().map(|server| server.join().unwrap()).collect()
    });
    let shown = || servers.iter().flat_map(Server::stdout).collect::<Vec<String>>();
    let keys = eventually("a key is printed", || Some(shown()).filter(|keys| !keys.is_empty()));
    assert_eq!(keys.len(), 1, "one process shows the one first key");
    for server in &servers {
        let listed: Value = server.client(&keys[0], &["list", "--json"]).json();
        assert_eq!(listed["pagination"]["total_count"], 1);
    }
}

/// How many replicas were counted as confirmed in that way.
fn confirmed(server: &Server, how: &str) -> u64 {
    let name = format!("apikeys_revocation_confirmations_total{{how=\"{how}\"}} ");
    let metrics = server.get("/metrics").1;
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

/// Issues a key by `server`, has every one of `everybody` hold it in memory, and returns its id and itself.
fn a_key_in_memory(server: &Server, manager: &str, everybody: &[&Server]) -> (String, String) {
    let created = server.client(manager, &["create", "--name", "shared", "--json"]).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (id, raw_key) = (text(&created["api_key"]["id"]), text(&created["raw_key"]));
    for replica in everybody {
        assert_eq!(replica.verify(&raw_key, &[]).code, 0);
    }
    (id, raw_key)
}

#[track_caller]
fn is_revoked(server: &Server, raw_key: &str) {
    let rejected = server.verify(raw_key, &[]);
    assert!(rejected.code == 1 && rejected.stdout.contains("REVOKED"), "{rejected:?}");
}

#[test]
fn a_silent_replica_is_waited_out_once_and_refuses_the_key_when_it_wakes() {
    let database = Database::postgres();
    let lease = [("APIKEYS_LEASE", "1s")];
    let one = Server::start_with_key(&database, &lease);
    let manager = one.first_key();
    let two = Server::start(&database, &lease);
    let keys: Vec<_> = (0..3).map(|_| a_key_in_memory(&one, &manager, &[&one, &two])).collect();

    let revoke = |index: usize| assert_eq!(one.client(&manager, &["revoke", &keys[index].0]).code, 0);
    revoke(0);
    assert_eq!((confirmed(&one, "acknowledged"), confirmed(&one, "waited_out")), (2, 0));
    is_revoked(&two, &keys[0].1);

    two.signal("STOP");
    revoke(1);
    // It may also have been taken for dead before the wait for its lease was over.
    let waited_out = confirmed(&one, "waited_out");
    assert!(confirmed(&one, "acknowledged") == 3 && waited_out <= 1);
    eventually("the silent replica is taken for dead", || {
        one.get("/metrics").1.contains("apikeys_replicas_reaped_total 1").then_some(())
    });
    revoke(2);
    assert_eq!(confirmed(&one, "acknowledged"), 4);
    assert_eq!(confirmed(&one, "waited_out"), waited_out, "only the first one waits");
    two.signal("CONT");
    for (_, raw_key) in &keys {
        is_revoked(&two, raw_key);
    }
    eventually("it has joined again", || one.get("/metrics").1.contains("apikeys_replicas 2").then_some(()));
}

#[test]
fn nobody_waits_for_a_replica_that_has_left() {
    let database = Database::postgres();
    let lease = [("APIKEYS_LEASE", "60s")];
    let one = Server::start_with_key(&database, &lease);
    let manager = one.first_key();
    let two = Server::start(&database, &lease);
    let (id, _) = a_key_in_memory(&one, &manager, &[&one, &two]);
    assert_eq!(two.stop().code, 0);
    assert_eq!(one.client(&manager, &["revoke", &id]).code, 0);
    assert_eq!((confirmed(&one, "acknowledged"), confirmed(&one, "waited_out")), (1, 0));
}

#[test]
fn a_stop_does_not_wait_for_a_confirmation_and_a_repeated_revocation_confirms_the_first() {
    let database = Database::postgres();
    let lease = [("APIKEYS_LEASE", "60s")];
    let one = Server::start_with_key(&database, &lease);
    let manager = one.first_key();
    let two = Server::start(&database, &lease);
    let (id, raw_key) = a_key_in_memory(&one, &manager, &[&one, &two]);
    two.signal("STOP");
    let revoking = thread::scope(|scope| {
        let revoking = scope.spawn(|| one.client(&manager, &["revoke", &id]));
        eventually("the revocation is committed", || {
            one.verify(&raw_key, &[]).stdout.contains("REVOKED").then_some(())
        });
        one.signal("TERM");
        revoking.join().unwrap()
    });
    assert!(revoking.code == 3 && revoking.stderr.contains("REVOCATION_NOT_CONFIRMED"), "{revoking:?}");
    assert_eq!(one.wait().code, 0);
    two.signal("CONT");
    assert_eq!(two.client(&manager, &["revoke", &id]).code, 0);
    assert_eq!((confirmed(&two, "acknowledged"), confirmed(&two, "waited_out")), (1, 0));
    is_revoked(&two, &raw_key);
}

#[test]
fn keys_in_memory_are_answered_while_the_database_stands_still_and_nothing_else_is() {
    let postgres = TestServer::start(&["-c", "fsync=off"]);
    let database = Database::Postgres(postgres.database());
    let server =
        Server::start_with_key(&database, &[("APIKEYS_LEASE", "60s"), ("APIKEYS_DATABASE_STATEMENT_TIMEOUT", "500ms")]);
    let manager = server.first_key();
    let (_, live) = a_key_in_memory(&server, &manager, &[&server]);
    let (id, revoked) = a_key_in_memory(&server, &manager, &[&server]);
    assert_eq!(server.client(&manager, &["revoke", &id]).code, 0);
    is_revoked(&server, &revoked);
    let unread = server.client(&manager, &["create", "--name", "unread", "--json"]).json();
    {
        let _paused = postgres.pause();
        for _ in 0..3 {
            assert_eq!(server.verify(&live, &[]).code, 0);
            is_revoked(&server, &revoked);
        }
        assert_eq!(server.get("/readyz"), (200, "ready\n".to_owned()));
        for (key, arguments) in [(unread["raw_key"].as_str().unwrap(), &[][..]), (&live, &["--strict"][..])] {
            let done = server.verify(key, arguments);
            assert_eq!((done.code, done.stdout.as_str()), (3, ""), "an outage is no verdict: {done:?}");
            assert!(done.stderr.contains("UNAVAILABLE") || done.stderr.contains("DEADLINE_EXCEEDED"), "{done:?}");
        }
    }
    eventually("it answers again", || (server.verify(&live, &["--strict"]).code == 0).then_some(()));
}
