//! `create` when its answer is lost: no key is left behind that nobody knows.

use std::process::Stdio;

use crate::{
    harness::{Database, Done, Server, eventually, on_both_databases},
    proxy::Proxy,
};

on_both_databases! {
    fn a_key_whose_answer_was_lost_is_revoked_and_replaced(database: &Database) {
        let server = Server::start_with_key(database, &[]);
        let manager = server.first_key();
        let proxy = Proxy::before(&server.listen);
        let arguments = ["create", "--name", "CI Integration", "--json"];
        let mut command = server.client_command(&format!("http://{}", proxy.address), &manager, &arguments);
        let client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let keys = || server.client(&manager, &["list", "--json"]).json()["api_keys"].as_array().unwrap().clone();
        eventually("the request is carried out", || (keys().len() == 2).then_some(()));
        proxy.cut();
        let done = Done::from(client.wait_with_output().unwrap());
        let created = done.json();

        let keys = keys();
        assert_eq!(keys.len(), 3, "{done:?}");
        assert_eq!(keys[0]["id"], created["api_key"]["id"]);
        assert!(keys[0]["revoked_at"].is_null());
        assert!(keys[1]["revoked_at"].is_string(), "the lost one is revoked: {keys:?}");
        assert!(done.stderr.contains(keys[1]["id"].as_str().unwrap()), "{done:?}");
        assert_eq!(server.verify(created["raw_key"].as_str().unwrap(), &[]).code, 0);
    }
}

#[test]
fn where_nobody_listens_nothing_is_repeated_and_one_line_says_so() {
    let database = Database::sqlite();
    let server = Server::start_with_key(&database, &[]);
    let key = server.first_key();
    let address = format!("http://{}", server.listen);
    let command = server.client_command(&address, &key, &["create", "--name", "x"]);
    server.stop();
    let done = crate::harness::run(command, "");
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.lines().count()), (3, "", 1), "{done:?}");
    assert!(done.stderr.contains(&address) && done.stderr.contains("cannot be reached"), "{done:?}");
}
