//! What scripts decide by: exit codes tell a verdict from an outage, and name a key that nobody has seen. Also instants and clocks.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    clock::faketime,
    harness::{Database, Done, Folder, Server, apikeys, on_both_databases, run},
};

/// A shell's redirection of a client's command.
fn redirected(command: &Command, to: &str) -> Done {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$@\" > {to}"), "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(shell, "")
}

#[test]
fn verify_exits_with_1_for_rejected_keys_alone() {
    let database = Database::sqlite();
    let server = Server::start_with_key(&database, &[("APIKEYS_VERIFY_TOKEN", "0123456789abcdef")]);
    let key = server.first_key();
    let (verification, public, admin) = (
        format!("http://{}", server.verify_listen),
        format!("http://{}", server.listen),
        format!("http://{}", server.admin_listen),
    );
    let verify = |key: &str, more: &[(&str, &str)], arguments: &[&str]| {
        let settings = [("APIKEYS_VERIFY_ENDPOINT", &*verification), ("APIKEYS_VERIFY_TOKEN", "0123456789abcdef")];
        let variables: Vec<_> = settings.iter().chain(more).copied().collect();
        run(apikeys(&variables, &[&["verify"], arguments].concat()), &format!("{key}\n")).code
    };
    assert_eq!(verify(&key, &[], &[]), 0);
    assert_eq!(verify("garbage", &[], &[]), 1);
    assert_eq!(verify(&key, &[], &["--key-type", "scim-token"]), 1);
    assert_eq!(verify(&key, &[], &["--permission", "NOTHING"]), 2);
    assert_eq!(verify(&key, &[], &["--no-such-flag"]), 2);
    assert_eq!(run(apikeys(&[], &["verify"]), "").code, 2, "nothing was given");
    for wrong in [
        ("APIKEYS_VERIFY_TOKEN", "another-token-0000"),
        ("APIKEYS_VERIFY_ENDPOINT", &*public),
        ("APIKEYS_VERIFY_ENDPOINT", &*admin),
    ] {
        assert_eq!(verify(&key, &[wrong], &[]), 3, "{wrong:?}");
    }
    let mut full = server.client_command(&public, "unused", &["verify"]);
    full.envs([("APIKEYS_VERIFY_KEY", &*key), ("APIKEYS_VERIFY_TOKEN", "0123456789abcdef")]);
    assert_eq!(redirected(&full, "/dev/full").code, 3, "the verdict could not be written");
    server.stop();
    assert_eq!(verify(&key, &[], &[]), 3);

    let help = run(apikeys(&[], &["verify", "--help"]), "");
    assert!(help.stdout.contains("Exit codes:") && help.stdout.contains("4  a key was created"), "{help:?}");
}

on_both_databases! {
    fn a_key_that_could_not_be_shown_is_named(database: &Database) {
        let server = Server::start_with_key(database, &[]);
        let manager = server.first_key();
        for format in [&[][..], &["--json"]] {
            let arguments = [&["create", "--name", "lost"], format].concat();
            let command = server.client_command(&format!("http://{}", server.listen), &manager, &arguments);
            let done = redirected(&command, "/dev/full");
            let newest = server.client(&manager, &["list", "--json", "--page-size", "1"]).json()["api_keys"][0].clone();
            let id = newest["id"].as_str().unwrap();
            assert!(done.code == 4 && newest["name"] == "lost", "{done:?} {newest}");
            assert!(done.stderr.contains(&format!("the key {id} was created and could not be shown: revoke it")), "{done:?}");
        }
        let listing = redirected(&server.client_command(&format!("http://{}", server.listen), &manager, &["list"]), "/dev/full");
        assert_eq!(listing.code, 3, "{listing:?}");
    }

    fn the_last_instants_of_the_year_9999_are_taken_and_shown(database: &Database) {
        let server = Server::start_with_key(database, &[]);
        let manager = server.first_key();
        for (at, shown, short) in [
            ("9999-12-30T22:00:01Z", "9999-12-30T22:00:01Z", "9999-12-30T22:00:01Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59Z"),
        ] {
            let created = server.client(&manager, &["create", "--name", "never", "--expires-at", at, "--json"]).json();
            assert_eq!(created["api_key"]["expires_at"], shown);
            let raw_key = created["raw_key"].as_str().unwrap();
            assert_eq!(server.verify(raw_key, &[]).json()["valid"]["expires_at"], shown);
            let listed = server.client(&manager, &["list", "--json", "--page-size", "1"]).json();
            assert_eq!(listed["api_keys"][0]["expires_at"], shown);
            let table = server.client(&manager, &["list", "--page-size", "1"]);
            assert!(table.stdout.contains(short), "{table:?}");
        }
        let first = server.client(&manager, &["create", "--name", "first", "--expires-at", "0001-01-01T00:00:00Z"]);
        assert!(first.code == 1 && first.stderr.contains("expires_at"), "{first:?}");
        let beyond = server.client(&manager, &["create", "--name", "beyond", "--expires-at", "10000-01-01T00:00:00Z"]);
        assert!(beyond.code == 2 && beyond.stderr.contains("--expires-at must be"), "{beyond:?}");
        let far = server.client(&manager, &["create", "--name", "far", "--expires-in", "99999999d"]);
        assert!(far.code == 2 && far.stderr.contains("--expires-in ends after the year 9999"), "{far:?}");
    }
}

#[test]
fn a_lifetime_is_counted_by_the_services_clock() {
    let folder = Folder::new();
    let database = Database::sqlite();
    let server = Server::start_with_key(&database, &[]);
    let manager = server.first_key();
    for wrong in ["-90d", "+90d"] {
        let clock = folder.file("clock", wrong);
        let arguments = ["create", "--name", "a", "--expires-in", "30d", "--json"];
        let mut command = server.client_command(&format!("http://{}", server.listen), &manager, &arguments);
        command.envs([
            ("LD_PRELOAD", &*faketime()),
            ("FAKETIME_TIMESTAMP_FILE", &clock),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]);
        let key = run(command, "").json()["api_key"].clone();
        let instant = |name: &str| key[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let days = instant("expires_at").duration_since(instant("created_at")).as_hours() / 24;
        assert!((29..=30).contains(&days), "{wrong}: {key}");
    }
    fs::remove_file(folder.path().join("clock")).unwrap();
}

/// Flags of secrets, and what is named in their place.
#[test]
fn secrets_are_not_taken_from_the_command_line() {
    for (command, flag, instead) in [
        ("serve", "--verify-token", "set APIKEYS_VERIFY_TOKEN, or a file by --verify-token-file"),
        ("serve", "--database-url", "set APIKEYS_DATABASE_URL, or a file by --database-url-file"),
        ("config", "--database-url", "set APIKEYS_DATABASE_URL, or a file by --database-url-file"),
        ("serve", "--http-proxy", "set APIKEYS_HTTP_PROXY, or http_proxy in the file of settings"),
        ("verify", "--verify-token", "set APIKEYS_VERIFY_TOKEN, or a file by --verify-token-file"),
        ("verify", "--verify-key", "set APIKEYS_VERIFY_KEY, or leave it out to be asked"),
        ("list", "--key", "set APIKEYS_KEY, or leave it out to be asked"),
    ] {
        for arguments in
            [vec![command, flag, "hidden-hidden-hidden"], vec![command, &format!("{flag}=hidden-hidden-hidden")]]
        {
            let done = run(apikeys(&[("HOME", "/nowhere")], &arguments), "");
            assert!(done.code == 2 && done.stderr.contains(flag) && done.stderr.contains(instead), "{done:?}");
            assert!(!format!("{done:?}").contains("hidden"), "{done:?}");
        }
        let help = run(apikeys(&[], &[command, "--help"]), "");
        assert!(!help.stdout.contains(&format!("{flag} ")), "{help:?}");
    }
    let reference = run(apikeys(&[], &["config", "--reference"]), "");
    assert!(reference.stdout.contains("| `APIKEYS_VERIFY_TOKEN` | none | `verify_token` |"), "{reference:?}");
    let listed: Value = run(apikeys(&[("HOME", "/nowhere")], &["config", "--json"]), "").json();
    assert_eq!(listed["timeout"]["value"], "15s");
}
