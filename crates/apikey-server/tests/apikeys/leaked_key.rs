//! Revoking by what is at hand in an incident: the prefix, or the leaked key itself, which is never sent.

use crate::harness::{Database, Server, on_both_databases};

on_both_databases! {
    fn a_leaked_key_is_revoked_by_itself_or_by_its_prefix(database: &Database) {
        let server = Server::start_with_key(database, &[("APIKEYS_LOG_LEVEL", "trace")]);
        let manager = server.first_key();
        let create = || {
            let created = server.client(&manager, &["create", "--name", "leaked", "--json"]).json();
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            (text(&created["api_key"]["id"]), text(&created["api_key"]["prefix"]), text(&created["raw_key"]))
        };
        let is_revoked = |raw_key: &str| server.verify(raw_key, &[]).stdout.contains("REJECTION_REASON_REVOKED");

        let (id, _, leaked) = create();
        assert!(!is_revoked(&leaked));
        let done = server.client_with_input(&manager, &["revoke", "--json"], &format!("{leaked}\n"));
        assert_eq!(done.json()["id"], *id);
        assert!(is_revoked(&leaked));

        let (_, prefix, by_prefix) = create();
        assert_eq!(server.client(&manager, &["revoke", &prefix]).code, 0);
        assert!(is_revoked(&by_prefix));

        // Both at the prompt: one's own key first, then the leaked one.
        let (_, _, typed) = create();
        let mut command = crate::harness::apikeys(&[], &["revoke"]);
        command.env("APIKEYS_ENDPOINT", format!("http://{}", server.listen));
        let done = crate::harness::run(command, &format!("{manager}\n{typed}\n"));
        assert_eq!(done.code, 0, "{done:?}");
        assert!(is_revoked(&typed));

        let unknown = server.client(&manager, &["revoke", "pidgr_k_00000000"]);
        assert!(unknown.code == 1 && unknown.stderr.contains("no key with the prefix pidgr_k_00000000"), "{unknown:?}");
        let nonsense = server.client_with_input(&manager, &["revoke"], "CI Integration\n");
        assert!(nonsense.code == 2 && !nonsense.stderr.contains("CI Integration"), "{nonsense:?}");
        let nothing = server.client(&manager, &["revoke"]);
        assert!(nothing.code == 2 && nothing.stderr.contains("standard input ended"), "{nothing:?}");
        let absent = server.client(&manager, &["revoke", "0198c5f0-7a3b-7cde-8f01-23456789abcd"]);
        assert!(absent.code == 1 && absent.stderr.contains("NOT_FOUND"), "{absent:?}");
    }
}
