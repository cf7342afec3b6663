//! What a killed process leaves behind is all there after the next start.

use crate::harness::{Database, Server, eventually, on_both_databases};

on_both_databases! {
    fn nothing_that_was_answered_is_lost_when_the_process_is_killed(database: &Database) {
        let server = Server::start_with_key(database, &[("APIKEYS_USAGE_FLUSH_INTERVAL", "1s")]);
        let manager = server.first_key();
        let keep = server.client(&manager, &["create", "--name", "keep", "--json"]).json();
        let lose = server.client(&manager, &["create", "--name", "lose", "--json"]).json();
        let raw = |created: &serde_json::Value| created["raw_key"].as_str().unwrap().to_owned();
        assert_eq!(server.verify(&raw(&keep), &[]).code, 0);
        let list = |server: &Server| server.client(&manager, &["list", "--json"]).json();
        eventually("the use is recorded", || {
            list(&server)["api_keys"][1]["last_used_at"].is_string().then_some(())
        });
        assert_eq!(server.client(&manager, &["revoke", lose["api_key"]["id"].as_str().unwrap()]).code, 0);
        server.kill();

        let server = Server::start(database, &[]);
        assert_eq!(server.verify(&raw(&keep), &[]).code, 0);
        let rejected = server.verify(&raw(&lose), &[]);
        assert!(rejected.code == 1 && rejected.stdout.contains("REVOKED"), "{rejected:?}");
        let after = list(&server);
        assert_eq!(after["pagination"]["total_count"], 3);
        assert_eq!(after["api_keys"][1]["name"], "keep");
        assert!(after["api_keys"][1]["last_used_at"].is_string(), "{after}");
        assert!(server.stdout().is_empty(), "a store that is not new gets no further key");
    }
}
