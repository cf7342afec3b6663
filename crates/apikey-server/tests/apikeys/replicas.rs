//! Two processes on one PostgreSQL.

use std::thread;

use serde_json::Value;

use crate::harness::{Database, Server};

#[test]
fn two_processes_see_each_others_keys() {
    let database = Database::postgres();
    let one = Server::start(&database, &[]);
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
        let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| Server::start(&database, &[]))).collect();
        starting.into_iter().map(|server| server.join().unwrap()).collect()
    });
    let keys: Vec<String> = servers.iter().flat_map(Server::stdout).collect();
    assert_eq!(keys.len(), 1, "one process shows the one first key");
    for server in &servers {
        let listed: Value = server.client(&keys[0], &["list", "--json"]).json();
        assert_eq!(listed["pagination"]["total_count"], 1);
    }
}
