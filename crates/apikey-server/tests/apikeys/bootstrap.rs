//! The first key: printed once, alone, and only where nobody else can read along: on a terminal.

use crate::harness::{Database, Server, apikeys, eventually, on_both_databases, run};

/// Runs a command of the operator on that database.
fn operate(database: &Database, arguments: &[&str]) -> crate::harness::Done {
    let mut command = apikeys(&[], arguments);
    command.envs(database.settings());
    run(command, "")
}

on_both_databases! {
    fn the_first_start_prints_one_key_on_a_terminal_and_the_log_does_not_hold_it(database: &Database) {
        let server = Server::start_on_terminal(database);
        let key = eventually("the key is printed", || server.stdout().first().cloned());
        let all = server.client(&key, &["list", "--json"]).json();
        assert_eq!(all["api_keys"][0]["name"], "bootstrap");
        assert_eq!(all["api_keys"][0]["permissions"].as_array().unwrap().len(), 25, "all but PLATFORM_…");
        let done = server.stop();
        assert_eq!(done.stdout, key, "the key alone, and once");
        assert!(!done.stderr.contains(&key));
        assert_eq!(Server::start_on_terminal(database).stop().stdout, "");
    }

    fn where_nobody_sees_it_no_key_is_issued_and_the_log_says_how_to_get_one(database: &Database) {
        let done = Server::start(database, &[]).stop();
        assert_eq!(done.stdout, "");
        assert!(done.stderr.contains("apikeys bootstrap --organization NAME"), "{done:?}");
        assert!(!done.stderr.contains("pidgr_k_"), "{done:?}");
    }

    fn beyond_loopback_nothing_is_issued_but_bootstrap_is_recommended(database: &Database) {
        let settings = [("APIKEYS_LISTEN", "0.0.0.0:0"), ("APIKEYS_ALLOW_PLAINTEXT", "true")];
        let server = Server::start(database, &settings);
        let done = server.stop();
        assert_eq!(done.stdout, "");
        assert!(done.stderr.contains("apikeys bootstrap --organization NAME"), "{done:?}");
    }

    fn bootstrap_prints_the_key_alone(database: &Database) {
        let all = operate(database, &["bootstrap", "--organization", "acme"]);
        assert_eq!(all.code, 0, "{all:?}");
        let narrow = operate(
            database,
            &["bootstrap", "--organization", "acme", "--name", "ci", "--permission", "MANAGE_API_KEYS", "--permission", "PERMISSION_ORG_READ"],
        );
        let staff = operate(database, &["bootstrap", "--organization", "staff", "--permission", "PLATFORM_SUPPORT", "--expires-in", "90d"]);
        let server = Server::start(database, &[]);
        assert!(server.stdout().is_empty(), "the store is not new");
        let staff = server.verify(staff.stdout.trim_end(), &[]).json();
        assert_eq!(staff["valid"]["permissions"], serde_json::json!(["PERMISSION_PLATFORM_SUPPORT"]), "{staff}");
        assert!(staff["valid"]["expires_at"].is_string(), "{staff}");
        let narrow = narrow.stdout.strip_suffix('\n').unwrap();
        let listing = server.client(narrow, &["list", "--json"]).json();
        assert_eq!(listing["api_keys"][0]["name"], "ci");
        assert!(listing["api_keys"][0]["expires_at"].is_null());
        assert_eq!(listing["api_keys"][0]["permissions"], serde_json::json!(["PERMISSION_ORG_READ", "PERMISSION_MANAGE_API_KEYS"]));
        let verified = server.verify(all.stdout.trim_end(), &[]).json();
        assert_eq!(verified["valid"]["organization_id"], "acme");
        let permissions = verified["valid"]["permissions"].to_string();
        assert!(permissions.contains("MANAGE_API_KEYS") && !permissions.contains("PLATFORM_"), "{verified}");
    }

    fn bootstrap_refuses_what_is_none(database: &Database) {
        for (arguments, named) in [
            (&["bootstrap", "--organization", "a b"][..], "--organization"),
            (&["bootstrap", "--organization", "a", "--permission", "FLY"][..], "\"FLY\" is not a permission"),
            (&["bootstrap", "--organization", "a", "--name", " "][..], "--name"),
            (&["bootstrap", "--organization", "a", "--expires-in", "90"][..], "--expires-in"),
            (&["bootstrap"][..], "--organization"),
        ] {
            let done = operate(database, arguments);
            assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
            assert!(done.stderr.contains(named), "{done:?}");
        }
    }

    fn migrate_makes_the_schema_and_prints_nothing(database: &Database) {
        for said in ["applied", "the schema was up to date"] {
            let done = operate(database, &["migrate"]);
            assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{done:?}");
            assert!(done.stderr.contains(said), "{done:?}");
        }
    }
}

#[test]
fn a_sqlite_database_serves_one_process_and_the_second_is_refused_by_name() {
    let database = Database::sqlite();
    let server = Server::start(&database, &[]);
    let second = Server::try_start(&database, &[]).err().expect("the database is in use");
    assert_eq!(second.code, 3, "{second:?}");
    for done in [second, operate(&database, &["bootstrap", "--organization", "acme"]), operate(&database, &["migrate"])]
    {
        assert_eq!((done.code, done.stdout.as_str()), (3, ""), "{done:?}");
        assert!(
            done.stderr.contains("apikeys.db is in use") && done.stderr.contains("stop `apikeys serve`"),
            "{done:?}"
        );
    }
    server.stop();
    assert_eq!(operate(&database, &["bootstrap", "--organization", "acme"]).code, 0);
}
