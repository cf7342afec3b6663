//! A raw key exists in one answer and nowhere else. Everything that is written while keys are made, used and revoked, at trace
//! level and with PostgreSQL's statement log on, is searched for each of them in every form in which it could hide.

use std::{fs, path::Path};

use apikey_testing::postgres::TestServer;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use crate::{
    callers::Issuer,
    harness::{Database, Done, Folder, Server, ask},
};

/// Finds any of many needles in one pass.
struct Searcher {
    /// Whether a needle begins with these two bytes.
    begins: Vec<bool>,
    needles: Vec<Vec<u8>>,
}

impl Searcher {
    /// Looks for each key and its secret part: plain, in hexadecimal, and in base64 of either alphabet at each alignment.
    fn of(raw_keys: &[String]) -> Self {
        let mut needles = Vec::new();
        for key in raw_keys {
            let brand = if key.starts_with("pidgr_scim_") { "pidgr_scim_" } else { "pidgr_k_" };
            let secret = &key[brand.len() + 8..brand.len() + 40];
            for text in [key.as_str(), secret] {
                needles.push(text.as_bytes().to_vec());
                let hex = hexadecimal(text);
                needles.push(hex.to_uppercase().into_bytes());
                needles.push(hex.into_bytes());
                for offset in 0..3 {
                    let bytes = [&[0; 2][..offset], text.as_bytes()].concat();
                    for encoded in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
                        // The first and the last digits also depend on what stands before and after.
                        let start = [0, 2, 3][offset];
                        let end = encoded.len() - usize::from(bytes.len() % 3 != 0);
                        needles.push(encoded.as_bytes()[start..end].to_vec());
                    }
                }
            }
        }
        needles.sort();
        needles.dedup();
        let mut begins = vec![false; 1 << 16];
        for needle in &needles {
            begins[usize::from(u16::from_be_bytes([needle[0], needle[1]]))] = true;
        }
        Self { begins, needles }
    }

    /// What was found.
    fn find<'a>(&'a self, hay: &[u8]) -> Vec<&'a [u8]> {
        let mut found = Vec::new();
        for (at, pair) in hay.windows(2).enumerate() {
            if self.begins[usize::from(u16::from_be_bytes([pair[0], pair[1]]))] {
                found.extend(self.needles.iter().filter(|needle| hay[at..].starts_with(needle)).map(Vec::as_slice));
            }
        }
        found
    }

    fn must_not_find(&self, hay: &[u8], place: &str) {
        let found: Vec<_> = self.find(hay).into_iter().map(String::from_utf8_lossy).collect();
        assert!(found.is_empty(), "{place} holds {found:?}");
    }
}

fn hexadecimal(text: &str) -> String {
    let digits: Vec<String> = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

/// Everything a run left behind.
struct Remains {
    raw_keys: Vec<String>,
    /// Logs, error texts and answers that should hold no key, each under its name.
    texts: Vec<(String, String)>,
}

impl Remains {
    fn keep(&mut self, name: &str, done: &Done, answer_holds_a_key: bool) {
        self.texts.push((format!("the errors of {name}"), done.stderr.clone()));
        if !answer_holds_a_key {
            self.texts.push((format!("the answer of {name}"), done.stdout.clone()));
        }
    }
}

/// Does everything that can be done with keys, right and wrong, and ends.
fn exercise(database: &Database) -> Remains {
    let folder = Folder::new();
    let issuer = Issuer::new();
    let jwks = folder.file("jwks.json", &issuer.jwks());
    let settings =
        [&Issuer::settings(&jwks)[..], &[("APIKEYS_LOG_LEVEL", "trace"), ("APIKEYS_USAGE_FLUSH_INTERVAL", "1s")]];
    let server = Server::start_with_key(database, &settings.concat());
    let manager = server.first_key();
    let mut remains = Remains { raw_keys: vec![manager.clone()], texts: Vec::new() };
    let token = issuer.token("default", &["MANAGE_API_KEYS"]);

    let mut created = Vec::new();
    for (credential, arguments) in [
        (&manager, &["create", "--json", "--name", "a", "--permission", "MANAGE_API_KEYS"][..]),
        (&manager, &["create", "--json", "--name", "b", "--expires-in", "1h"][..]),
        (&manager, &["create", "--json", "--name", "c", "--key-type", "scim-token"][..]),
        (&token, &["create", "--json", "--name", "d"][..]),
    ] {
        let done = server.client(credential, arguments);
        remains.keep("create", &done, true);
        let answer = done.json();
        remains.raw_keys.push(answer["raw_key"].as_str().unwrap().to_owned());
        created.push(answer["api_key"]["id"].as_str().unwrap().to_owned());
    }
    let keys = remains.raw_keys.clone();
    for key in &keys {
        for arguments in [&[][..], &["--strict"], &["--permission", "ORG_READ"], &["--key-type", "scim-token"]] {
            remains.keep("verify", &server.verify(key, arguments), false);
        }
        // Almost a key: cut, extended, re-cased, surrounded by white space, as somebody's permission, name or id.
        let nearly = [format!("{key}0"), key[..key.len() - 1].to_owned(), key.to_lowercase(), format!(" {key} ")];
        for text in &nearly {
            remains.keep("verify", &server.verify(text, &[]), false);
            remains.keep("list", &server.client(text.trim(), &["list"]), false);
        }
        remains.keep("list", &server.client(key, &["list", "--json"]), false);
        remains.keep("create", &server.client(key, &["create", "--name", " "]), false);
        remains.keep("admin", &Done { code: 0, stdout: server.get("/metrics").1, stderr: String::new() }, false);
    }
    exercise_web(&server, &manager, &mut remains);
    let on_the_wrong_port = ["verify", "--verify-endpoint", &format!("http://{}", server.listen)];
    remains.keep("verify", &server.client_with_input("x", &on_the_wrong_port, &format!("{manager}\n")), false);

    let leaked = &keys[2];
    remains.keep("revoke", &server.client_with_input(&manager, &["revoke"], &format!("{leaked}\n")), false);
    for (id, key) in created.iter().zip(&keys[1..]) {
        remains.keep("revoke", &server.client(&manager, &["revoke", id]), false);
        remains.keep("verify", &server.verify(key, &[]), false);
        remains.keep("list", &server.client(key, &["list"]), false);
    }
    let done = server.stop();
    assert_eq!(done.stdout, "", "nothing is printed where nobody sees it");
    assert!(done.stderr.contains("\"level\":\"DEBUG\""), "the log says all that the service can say");
    remains.texts.push(("the service's log".to_owned(), done.stderr));
    remains
}

const CREATE: &str = "/pidgr.v1.ApiKeyService/CreateApiKey";
const LIST: &str = "/pidgr.v1.ApiKeyService/ListApiKeys";
const JSON: (&str, &str) = ("content-type", "application/json");

/// The protocols of the web: a key that they create, and every key where it belongs and where it does not.
fn exercise_web(server: &Server, manager: &str, remains: &mut Remains) {
    let created = ask(&server.listen, "POST", CREATE, &[JSON, ("x-api-key", manager)], br#"{"name":"web"}"#);
    let (_, raw_key) = created.split_once("\"rawKey\":\"").unwrap_or_else(|| panic!("{created}"));
    remains.raw_keys.push(raw_key.split('"').next().unwrap().to_owned());

    for key in remains.raw_keys.clone() {
        let credential = ("x-api-key", key.as_str());
        let bearer = format!("Bearer {key}");
        let in_json = |template: &str| template.replace('#', &key).into_bytes();
        let framed = [&[0, 0, 0, 0, 54], key.as_bytes()].concat();
        let requests = [
            ("POST", LIST.to_owned(), &[JSON, credential][..], in_json("{}")),
            ("POST", LIST.to_owned(), &[JSON, ("authorization", &bearer)], in_json("{}")),
            ("POST", LIST.to_owned(), &[JSON, credential, ("authorization", &bearer)], in_json("{}")),
            ("POST", format!("{LIST}?api_key={key}"), &[JSON], in_json("{}")),
            ("GET", format!("{LIST}?connect=v1&encoding=json&message={key}"), &[credential], Vec::new()),
            ("GET", format!("/{key}"), &[], Vec::new()),
            ("POST", format!("/pidgr.v1.ApiKeyService/{key}"), &[JSON, credential], in_json("{}")),
            ("POST", CREATE.to_owned(), &[JSON, credential], in_json(r##"{"name":"#"##)),
            ("POST", CREATE.to_owned(), &[JSON, credential], in_json(r##"{"permissions":["#"]}"##)),
            ("POST", LIST.to_owned(), &[JSON, credential], in_json(r##"{"pagination":{"pageToken":"#"}}"##)),
            ("POST", CREATE.to_owned(), &[JSON, credential, ("idempotency-key", &key)], in_json("{}")),
            ("POST", CREATE.to_owned(), &[JSON, credential, ("x-request-id", &key)], in_json(r#"{"name":"web"}"#)),
            ("POST", LIST.to_owned(), &[JSON, credential, ("connect-timeout-ms", &key)], in_json("{}")),
            ("POST", LIST.to_owned(), &[("content-type", &*format!("application/{key}")), credential], Vec::new()),
            ("POST", LIST.to_owned(), &[("content-type", "application/proto"), credential], key.clone().into()),
            ("POST", LIST.to_owned(), &[("content-type", "application/grpc-web"), credential], framed),
        ];
        for (number, (method, target, headers, body)) in requests.into_iter().enumerate() {
            let mut answer = ask(&server.listen, method, &target, headers, &body);
            // The one answer that shows a key; it is one more that must be nowhere else.
            if let Some((before, shown)) = answer.split_once("\"rawKey\":\"") {
                let (raw_key, after) = shown.split_once('"').unwrap();
                remains.raw_keys.push(raw_key.to_owned());
                answer = format!("{before}{after}");
            }
            remains.texts.push((format!("the answer to request {number} by HTTP/1.1"), answer));
        }
    }
}

fn search_texts(remains: &Remains) -> Searcher {
    let searcher = Searcher::of(&remains.raw_keys);
    for (place, text) in &remains.texts {
        searcher.must_not_find(text.as_bytes(), place);
    }
    searcher
}

#[test]
fn sqlite_and_its_logs_hold_no_key() {
    let folder = std::sync::Arc::new(Folder::new());
    let database = Database::Sqlite(std::sync::Arc::clone(&folder));
    let remains = exercise(&database);
    let searcher = search_texts(&remains);
    search_files(&searcher, folder.path());

    // And while it runs and after a crash, with the write-ahead log still there.
    let server = Server::start(&database, &[]);
    let created = server.client(&remains.raw_keys[0], &["create", "--json", "--name", "in the log"]).json();
    let raw_key = created["raw_key"].as_str().unwrap().to_owned();
    server.kill();
    let files = search_files(&Searcher::of(&[raw_key]), folder.path());
    assert!(files.iter().any(|name| name.ends_with("-wal")), "{files:?}");
}

fn search_files(searcher: &Searcher, folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        searcher.must_not_find(&fs::read(&path).unwrap(), &path.display().to_string());
        files.push(path.display().to_string());
    }
    assert!(!files.is_empty());
    files
}

#[test]
fn postgres_its_statement_log_and_its_files_hold_no_key() {
    let postgres = TestServer::start(&[
        "-c",
        "log_statement=all",
        "-c",
        "log_min_duration_statement=0",
        "-c",
        "log_min_messages=debug1",
    ]);
    let test_database = postgres.database();
    let remains = exercise(&Database::Postgres(test_database.clone()));
    let searcher = search_texts(&remains);

    let log = postgres.log();
    assert!(
        log.contains("api_keys") && log.to_lowercase().contains("parameters:"),
        "statements and parameters are logged"
    );
    searcher.must_not_find(log.as_bytes(), "PostgreSQL's log");

    postgres.psql("postgres", "CHECKPOINT");
    let read = "CREATE TEMP TABLE files (content text); \
                COPY files FROM PROGRAM 'cd \"$PGDATA\" && tar -cf - base pg_wal pg_xact | base64 -w0'; \
                SELECT content FROM files";
    let directory = postgres.psql("postgres", "SHOW data_directory");
    let content = postgres.psql(test_database.name(), &read.replace("\"$PGDATA\"", &directory));
    let files = STANDARD.decode(content.trim()).unwrap();
    let prefix = &remains.raw_keys[0][..16];
    let holds_prefix = files.windows(prefix.len()).any(|window| window == prefix.as_bytes());
    assert!(holds_prefix, "what was searched is where the keys' records are");
    searcher.must_not_find(&files, "PostgreSQL's files");
}

#[test]
fn the_searcher_finds_what_is_planted() {
    let key = "pidgr_k_Ab3dE6gH0123456789ABCDEFGHIJKLMNOPQRSTUV3z4Fwk".to_owned();
    let secret = &key[16..48];
    let searcher = Searcher::of(std::slice::from_ref(&key));
    for text in [key.as_str(), secret] {
        let hex = hexadecimal(text);
        let mut plants = vec![text.to_owned(), hex.clone(), hex.to_uppercase()];
        for before in ["", "k", "ke", "key", "key="] {
            for after in ["", "\n", "\"}", "x y"] {
                plants.push(STANDARD.encode(format!("{before}{text}{after}")));
                plants.push(URL_SAFE_NO_PAD.encode(format!("{before}{text}{after}")));
            }
        }
        for plant in plants {
            let line = format!("{{\"level\":\"INFO\",\"message\":\"{plant}\"}}");
            assert!(!searcher.find(line.as_bytes()).is_empty(), "{plant}");
        }
    }
    let others = "pidgr_k_Ab3dE6gH 0123456789ABCDEFGHIJKLMNOPQRSTUv pidgr_k_";
    assert_eq!(searcher.find(others.as_bytes()), Vec::<&[u8]>::new());
}

#[test]
fn a_key_that_reaches_a_log_is_found() {
    let remains = exercise(&Database::sqlite());
    let searcher = search_texts(&remains);
    let (_, log) = remains.texts.last().unwrap();
    let planted = log.replacen("\"message\":\"serving\"", &format!("\"message\":\"{}\"", remains.raw_keys[1]), 1);
    assert_ne!(*log, planted);
    assert!(!searcher.find(planted.as_bytes()).is_empty());
}
