//! What a stranger does first: create, list, verify, revoke, verify, list.

use serde_json::Value;

use crate::harness::{Database, Server, eventually, on_both_databases};

/// The listed key of that id.
fn listed(server: &Server, key: &str, id: &str) -> Value {
    let listing = server.client(key, &["list", "--all", "--json"]).json();
    let keys = listing["api_keys"].as_array().unwrap();
    keys.iter().find(|listed| listed["id"] == id).cloned().unwrap_or_else(|| panic!("{id} is not listed: {listing}"))
}

on_both_databases! {
    fn a_key_is_created_listed_verified_and_revoked(database: &Database) {
        let server = Server::start_with_key(database, &[("APIKEYS_USAGE_FLUSH_INTERVAL", "1s")]);
        let manager = server.first_key();

        let created = server.client(&manager, &["create", "--name", "CI Integration", "--permission", "CAMPAIGNS_READ", "--json"]);
        let created = created.json();
        let (id, raw_key) = (created["api_key"]["id"].as_str().unwrap(), created["raw_key"].as_str().unwrap());
        assert_eq!(created["api_key"]["name"], "CI Integration");
        assert_eq!(created["api_key"]["permissions"], serde_json::json!(["PERMISSION_CAMPAIGNS_READ"]));
        assert!(raw_key.starts_with(created["api_key"]["prefix"].as_str().unwrap()));

        let before = listed(&server, &manager, id);
        assert_eq!((&before["revoked_at"], &before["last_used_at"]), (&Value::Null, &Value::Null));

        let valid = server.verify(raw_key, &["--permission", "CAMPAIGNS_READ"]).json();
        assert_eq!(valid["valid"]["api_key_id"], id);
        assert_eq!(valid["valid"]["organization_id"], "default");
        let missing = server.verify(raw_key, &["--permission", "ORG_READ"]);
        assert_eq!(missing.code, 1);
        assert!(missing.stdout.contains("REJECTION_REASON_PERMISSION_MISSING"), "{missing:?}");

        let revoked = server.client(&manager, &["revoke", id]);
        assert_eq!(revoked.code, 0, "{revoked:?}");
        let rejected = server.verify(raw_key, &[]);
        assert_eq!(rejected.code, 1);
        assert!(rejected.stdout.contains("REJECTION_REASON_REVOKED"), "{rejected:?}");

        eventually("the use is recorded", || {
            let after = listed(&server, &manager, id);
            assert!(after["revoked_at"].is_string(), "{after}");
            after["last_used_at"].is_string().then_some(())
        });
        let again = server.client(&manager, &["revoke", id]);
        assert_eq!(again.code, 0, "{again:?}");
    }

    fn tables_are_for_people(database: &Database) {
        let server = Server::start_with_key(database, &[]);
        let manager = server.first_key();
        let created = server.client(&manager, &["create", "--name", "Deploy", "--expires-in", "30d"]);
        assert_eq!(created.code, 0, "{created:?}");
        let field = |name: &str| {
            let line = created.stdout.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {created:?}"));
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        let (id, raw_key) = (field("id "), field("raw_key "));
        assert!(created.stderr.contains("not shown again"), "{created:?}");

        let list = server.client(&manager, &["list"]);
        let line = list.stdout.lines().find(|line| line.starts_with(&id)).unwrap_or_else(|| panic!("{list:?}"));
        assert!(line.contains("Deploy") && line.contains(&field("prefix ")), "{line}");
        assert!(list.stdout.starts_with("ID "), "{list:?}");

        let verified = server.client_with_input("unused", &["verify"], &format!("{raw_key}\n"));
        assert_eq!((verified.code, verified.stdout.lines().next()), (0, Some("verdict       valid")), "{verified:?}");
        let cut = server.client_with_input("unused", &["verify"], &format!("{}\n", &raw_key[..raw_key.len() - 1]));
        assert_eq!(cut.code, 1);
        assert!(cut.stdout.contains("rejected") && cut.stdout.contains("MALFORMED"), "{cut:?}");
    }

    fn pages_follow_each_other(database: &Database) {
        let server = Server::start_with_key(database, &[]);
        let manager = server.first_key();
        for number in 0..4 {
            assert_eq!(server.client(&manager, &["create", "--name", &format!("key {number}")]).code, 0);
        }
        let mut names = Vec::new();
        let mut token = String::new();
        for _ in 0..4 {
            let mut arguments = vec!["list", "--json", "--page-size", "2"];
            if !token.is_empty() {
                arguments.extend(["--page-token", &token]);
            }
            let page = server.client(&manager, &arguments).json();
            assert_eq!(page["pagination"]["total_count"], 5);
            names.extend(page["api_keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()));
            match page["pagination"]["next_page_token"].as_str() {
                Some(next) => next.clone_into(&mut token),
                None => break,
            }
        }
        assert_eq!(names, ["key 3", "key 2", "key 1", "key 0", "bootstrap"]);
    }
}
