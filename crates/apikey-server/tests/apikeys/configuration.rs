//! Settings: which one wins, which are refused and how, and that no secret is shown.

use serde_json::Value;

use crate::harness::{Database, Done, Folder, Server, apikeys, run};

fn config(variables: &[(&str, &str)], arguments: &[&str]) -> Done {
    let arguments: Vec<&str> = ["config", "--json"].iter().chain(arguments).copied().collect();
    let variables: Vec<_> = [("HOME", "/home/somebody")].iter().chain(variables).copied().collect();
    run(apikeys(&variables, &arguments), "")
}

fn shown(done: &Done, setting: &str) -> (Value, String) {
    let setting = &done.json()[setting];
    (setting["value"].clone(), setting["origin"].as_str().unwrap().to_owned())
}

/// Variables, flags, and what the refusal says.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let folder = Folder::new();
    let file = folder.file(
        "apikeys.toml",
        "listen = \"127.0.0.1:1\"\nverify_listen = \"127.0.0.1:2\"\nmax_connections = 3\nallow_plaintext = true\n\
         jwt_audience = [\"a\", \"b\"]\njwt_issuer = \"i\"\njwt_jwks = \"j\"\n",
    );
    let variables =
        [("APIKEYS_CONFIG", &*file), ("APIKEYS_LISTEN", "127.0.0.1:4"), ("APIKEYS_VERIFY_LISTEN", "127.0.0.1:5")];
    let done = config(&variables, &["--listen", "127.0.0.1:6"]);
    assert_eq!(shown(&done, "listen"), ("127.0.0.1:6".into(), "--listen".to_owned()));
    assert_eq!(shown(&done, "verify_listen"), ("127.0.0.1:5".into(), "APIKEYS_VERIFY_LISTEN".to_owned()));
    assert_eq!(shown(&done, "max_connections"), ("3".into(), file.clone()));
    assert_eq!(shown(&done, "allow_plaintext"), ("true".into(), file.clone()));
    assert_eq!(shown(&done, "jwt_audience"), ("a,b".into(), file.clone()));
    assert_eq!(shown(&done, "admin_listen"), ("127.0.0.1:9090".into(), "default".to_owned()));
    assert_eq!(shown(&done, "data_dir"), ("/home/somebody/.local/share/apikeys".into(), "default".to_owned()));
    assert_eq!(shown(&done, "database_url"), (Value::Null, "not set".to_owned()));

    let other = folder.file("other.toml", "listen = \"127.0.0.1:7\"\n");
    let done = config(&variables[..1], &["--config", &other]);
    assert_eq!(shown(&done, "listen"), ("127.0.0.1:7".into(), other));
    let switch = config(&[("APIKEYS_ALLOW_PLAINTEXT", "false")], &["--allow-plaintext"]);
    assert_eq!(shown(&switch, "allow_plaintext"), ("true".into(), "--allow-plaintext".to_owned()));
}

#[test]
fn bad_settings_are_refused_with_their_name_and_what_is_accepted() {
    let folder = Folder::new();
    let unknown_key = folder.file("unknown.toml", "listne = \"127.0.0.1:1\"\n");
    let bad_key = folder.file("bad.toml", "usage_flush_interval = 5\n");
    let broken = folder.file("broken.toml", "listen = \"127.0.0.1:1\"\nverify_token = \"hidden-in-the-file\n");
    let in_file = folder.file("key.toml", "key = \"pidgr_k_x\"\n");
    let cases: [Case<'_>; 20] = [
        (&[("APIKEYS_LISTNE", "x")], &[], &["APIKEYS_LISTNE is not a setting"]),
        (
            &[("APIKEYS_LISTEN", "localhost")],
            &[],
            &["listen must be an IP address and port", "APIKEYS_LISTEN", "\"localhost\""],
        ),
        (&[("APIKEYS_USAGE_FLUSH_INTERVAL", "0s")], &[], &["usage_flush_interval must be a duration from 1s to 60s"]),
        (&[("APIKEYS_USAGE_FLUSH_INTERVAL", "61s")], &[], &["from 1s to 60s"]),
        (&[], &["--usage-flush-interval", "5"], &["usage_flush_interval", "--usage-flush-interval", "\"5\""]),
        (&[], &["--database-connections", "501"], &["database_connections must be a whole number from 2 to 500"]),
        (&[], &["--log-level", "loud"], &["log_level must be one of error, warn, info, debug, trace"]),
        (&[], &["--no-such-flag", "x"], &["--no-such-flag"]),
        (&[], &["--config", &unknown_key], &["unknown.toml", "listne is not a setting"]),
        (&[], &["--config", &bad_key], &["usage_flush_interval", "bad.toml", "\"5\""]),
        (&[], &["--config", &broken], &["broken.toml", "line 2"]),
        (&[], &["--config", &in_file], &["key is not a setting of a file"]),
        (&[], &["--config", "/nowhere/apikeys.toml"], &["config: /nowhere/apikeys.toml cannot be read"]),
        (&[("APIKEYS_VERIFY_TOKEN", "too-short")], &[], &["verify_token must be 16 to 512 visible ASCII characters"]),
        (
            &[("APIKEYS_DATABASE_URL", "mysql://u:hidden@h/d")],
            &[],
            &["database_url must be a URL that starts with postgres://"],
        ),
        (
            &[("APIKEYS_JWT_ISSUER", "https://issuer.example")],
            &[],
            &["jwt_issuer needs jwt_issuer, jwt_audience and jwt_jwks"],
        ),
        (
            &[("APIKEYS_JWT_ISSUER", "an issuer"), ("APIKEYS_JWT_AUDIENCE", "a"), ("APIKEYS_JWT_JWKS", "jwks.json")],
            &[],
            &["jwt_issuer must be 1 to 255 bytes without white space", "APIKEYS_JWT_ISSUER"],
        ),
        (&[("APIKEYS_TLS_CERTIFICATE", "chain.pem")], &[], &["tls_certificate needs tls_key"]),
        (&[("APIKEYS_TLS_KEY", "key.pem")], &[], &["tls_key needs tls_certificate"]),
        (&[("APIKEYS_CORS_ALLOWED_ORIGINS", "*")], &[], &["cors_allowed_origins must be origins", "no *"]),
    ];
    for (variables, arguments, expected) in cases {
        let done = config(variables, arguments);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
        for text in expected {
            assert!(done.stderr.contains(text), "{text:?} is not in {done:?}");
        }
        assert!(!done.stderr.contains("hidden") && !done.stderr.contains("too-short"), "{done:?}");
    }
    assert_eq!(config(&[("APIKEYS_TEST_ANYTHING", "x")], &[]).code, 0);
}

/// A Service named `apikeys`, and another one named `apikeys-verify`, are in the same namespace.
#[test]
fn service_links_of_kubernetes_are_passed_over_and_a_typo_is_still_refused() {
    let links = [
        ("APIKEYS_PORT", "tcp://10.0.0.1:8080"),
        ("APIKEYS_SERVICE_HOST", "10.0.0.1"),
        ("APIKEYS_SERVICE_PORT", "8080"),
        ("APIKEYS_SERVICE_PORT_GRPC", "8080"),
        ("APIKEYS_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("APIKEYS_PORT_8080_TCP_PROTO", "tcp"),
        ("APIKEYS_PORT_8080_TCP_PORT", "8080"),
        ("APIKEYS_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("APIKEYS_VERIFY_SERVICE_HOST", "fd00::1"),
        ("APIKEYS_VERIFY_PORT", "tcp://[fd00::1]:8081"),
    ];
    assert_eq!(config(&links, &[]).code, 0);
    let folder = Folder::new();
    let data = folder.text();
    let variables = [&links[..], &[("APIKEYS_DATA_DIR", &*data), ("APIKEYS_LOG_LEVEL", "debug")]].concat();
    let migrated = run(apikeys(&variables, &["migrate"]), "");
    assert!(migrated.code == 0 && migrated.stderr.contains("APIKEYS_PORT_8080_TCP_ADDR"), "{migrated:?}");
    for (name, value) in
        [("APIKEYS_PORT", "8080"), ("APIKEYS_LISTEN_PORT", "8080"), ("APIKEYS_LISTNE", "tcp://10.0.0.1:8080")]
    {
        let done = config(&[(name, value)], &[]);
        assert!(done.code == 2 && done.stderr.contains(&format!("{name} is not a setting")), "{done:?}");
    }
}

#[test]
fn what_delivery_adds_to_a_value_is_trimmed_or_named() {
    let folder = Folder::new();
    let url = "postgres://u:hidden@127.0.0.1/d";
    let masked = "postgres://u:********@127.0.0.1/d";
    for delivered in [format!("{url}\n"), format!(" {url}\r\n"), format!("\u{feff}{url}\r\n")] {
        let file = folder.file("url", &delivered);
        for variable in [("APIKEYS_DATABASE_URL", &*delivered), ("APIKEYS_DATABASE_URL_FILE", &*format!("{file}\n"))] {
            assert_eq!(config(&[variable], &[]).code, 0, "{variable:?}");
        }
        assert_eq!(shown(&config(&[("APIKEYS_DATABASE_URL", &delivered)], &[]), "database_url").0, masked);
    }
    for (text, named) in [
        (format!("\"{url}\""), "is in quotes"),
        (format!("'{url}'"), "is in quotes"),
        (format!("{url}\n{url}"), "line break"),
        ("postgres://u:hiddené@127.0.0.1/d".to_owned(), "percent-encode"),
    ] {
        let file = folder.file("url", &text);
        for (variable, origin) in [
            (("APIKEYS_DATABASE_URL", &*text), "APIKEYS_DATABASE_URL"),
            (("APIKEYS_DATABASE_URL_FILE", &*file), &*file),
        ] {
            let done = config(&[variable], &[]);
            assert!(done.code == 2 && done.stderr.contains(&format!("database_url: {origin} ")), "{done:?}");
            assert!(done.stderr.contains(named) && !done.stderr.contains("hidden"), "{done:?}");
        }
    }
    // An empty variable is none; an empty file is no secret.
    for empty in ["", " \n"] {
        let file = folder.file("toml", "log_level = \"warn\"\n");
        let done =
            config(&[("APIKEYS_DATABASE_URL", empty), ("APIKEYS_LOG_LEVEL", empty), ("APIKEYS_CONFIG", &*file)], &[]);
        assert_eq!(shown(&done, "database_url"), (Value::Null, "not set".to_owned()));
        assert_eq!(shown(&done, "log_level"), ("warn".into(), file.clone()));
        let file = folder.file("empty", empty);
        let done = config(&[("APIKEYS_DATABASE_URL_FILE", &*file)], &[]);
        assert!(done.code == 2 && done.stderr.contains("empty is empty"), "{done:?}");
    }
    std::fs::write(folder.path().join("wide"), b"\xff\xfep\0").unwrap();
    let wide = folder.path().join("wide").to_str().unwrap().to_owned();
    let done = config(&[("APIKEYS_DATABASE_URL_FILE", &*wide)], &[]);
    assert!(done.code == 2 && done.stderr.contains("it is UTF-16"), "{done:?}");
}

#[test]
fn commands_of_the_client_refuse_bad_settings_too() {
    for (variables, named) in [
        ([("APIKEYS_ENDPOINT", "127.0.0.1:8080")], "endpoint must be http://host[:port] or https://host[:port]"),
        ([("APIKEYS_ENDPIONT", "http://127.0.0.1:8080")], "APIKEYS_ENDPIONT is not a setting"),
    ] {
        let done = run(apikeys(&variables, &["list"]), "");
        assert!(done.code == 2 && done.stderr.contains(named), "{done:?}");
    }
}

#[test]
fn secrets_are_masked() {
    let variables = [
        ("APIKEYS_DATABASE_URL", "postgres://apikeys:hidden-1@h/db?password=hidden-2&sslmode=require"),
        ("APIKEYS_DATABASE_ALLOW_UNVERIFIED", "true"),
        ("APIKEYS_VERIFY_TOKEN", "hidden-3-hidden-3"),
        ("APIKEYS_KEY", "hidden-4"),
        ("APIKEYS_VERIFY_KEY", "hidden-5"),
    ];
    let done = config(&variables, &[]);
    let url = "postgres://apikeys:********@h/db?password=********&sslmode=require";
    assert_eq!(shown(&done, "database_url"), (url.into(), "APIKEYS_DATABASE_URL".to_owned()));
    assert_eq!(shown(&done, "verify_token").0, "********");
    assert!(!done.stdout.contains("hidden"), "{done:?}");
    let table = run(apikeys(&[&variables[..], &[("HOME", "/")]].concat(), &["config"]), "");
    assert!(table.code == 0 && !table.stdout.contains("hidden"), "{table:?}");
}

#[test]
fn secrets_can_stand_in_files() {
    let folder = Folder::new();
    let token = folder.file("token", "0123456789abcdef-token\n");
    let short = folder.file("short", "0123\n");
    let database = Database::sqlite();
    let server = Server::start_with_key(&database, &[("APIKEYS_VERIFY_TOKEN_FILE", &token)]);
    let key = server.first_key();
    let without = server.verify(&key, &[]);
    assert!(without.code == 3 && without.stderr.contains("UNAUTHENTICATED"), "{without:?}");
    assert_eq!(server.verify(&key, &["--verify-token-file", &token]).code, 0);

    let short = config(&[("APIKEYS_VERIFY_TOKEN_FILE", &short)], &[]);
    assert!(
        short.code == 2 && short.stderr.contains("verify_token must be") && !short.stderr.contains("0123"),
        "{short:?}"
    );
    let both = [("APIKEYS_VERIFY_TOKEN_FILE", &*token), ("APIKEYS_VERIFY_TOKEN", "0123456789abcdef")];
    let both = config(&both, &[]);
    assert!(both.code == 2 && both.stderr.contains("verify_token and verify_token_file are both set"), "{both:?}");
}

#[test]
fn the_reference_has_a_row_for_each_setting() {
    let reference = run(apikeys(&[], &["config", "--reference"]), "");
    let settings = config(&[], &[]).json();
    for name in settings.as_object().unwrap().keys() {
        let variable = format!("| `APIKEYS_{}` |", name.to_uppercase());
        assert!(reference.stdout.contains(&variable), "{variable} is not in {reference:?}");
    }
}

/// Asked of `config`, which refuses what `serve` refuses, and binds nothing.
#[test]
fn listening_beyond_loopback_is_refused_until_it_is_asked_for() {
    for listener in ["listen", "verify_listen", "admin_listen"] {
        let variable = format!("APIKEYS_{}", listener.to_uppercase());
        let done = config(&[(&variable, "0.0.0.0:0")], &[]);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
        assert!(done.stderr.contains(&format!("{listener} needs tls_certificate or allow_plaintext")), "{done:?}");
    }
    let encrypted = [("APIKEYS_TLS_CERTIFICATE", "chain.pem"), ("APIKEYS_TLS_KEY", "key.pem")];
    let with = |more: &[(&str, &str)]| config(&[&encrypted[..], more].concat(), &[]);
    assert_eq!(with(&[("APIKEYS_LISTEN", "0.0.0.0:0")]).code, 0);
    assert_eq!(with(&[("APIKEYS_ADMIN_LISTEN", "0.0.0.0:0")]).code, 2, "metrics are never encrypted");

    let done = with(&[("APIKEYS_VERIFY_LISTEN", "[::]:0")]);
    assert!(done.code == 2 && done.stderr.contains("verify_listen needs verify_token"), "{done:?}");
    let token = ("APIKEYS_VERIFY_TOKEN", "0123456789abcdef");
    let plain = [("APIKEYS_VERIFY_LISTEN", "[::]:0"), ("APIKEYS_ALLOW_PLAINTEXT", "true"), token];
    assert_eq!(config(&plain, &[]).code, 0);
}

#[test]
fn certificates_that_cannot_be_used_are_refused_by_name() {
    let folder = Folder::new();
    let garbage = folder.file("garbage.pem", "not a certificate\n");
    for (certificate, named) in [
        ("/nowhere/chain.pem", "tls_certificate: /nowhere/chain.pem"),
        (&*garbage, "there is no certificate in the chain"),
    ] {
        let data = folder.text();
        let variables = [
            ("APIKEYS_DATA_DIR", &*data),
            ("APIKEYS_TLS_CERTIFICATE", certificate),
            ("APIKEYS_TLS_KEY", &*garbage),
            ("APIKEYS_LISTEN", "127.0.0.1:0"),
            ("APIKEYS_VERIFY_LISTEN", "127.0.0.1:0"),
            ("APIKEYS_ADMIN_LISTEN", "127.0.0.1:0"),
        ];
        let done = run(apikeys(&variables, &["serve"]), "");
        assert!(done.code != 0 && done.stderr.contains(named), "{done:?}");
    }
}
