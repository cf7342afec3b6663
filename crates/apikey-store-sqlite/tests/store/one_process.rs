//! One process at a time, and what it leaves when it is killed.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use apikey_application::ports::KeyStore;
use apikey_store_sqlite::{OpenError, SqliteStore};
use apikey_testing::fixtures::{a_key, an_organization, issue};

use super::scratch::Scratch;

/// Ends the child also where the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This test is its own second process: with this argument it opens the database, issues a key, says so, and waits.
const SERVE: &str = "serve-until-killed=";

#[expect(clippy::print_stdout, reason = "the second process reports on it")]
async fn serve_until_killed(database: &Path) {
    let store = SqliteStore::open(database).await.unwrap();
    store.commit(issue(&a_key(1))).await.unwrap();
    println!("\ncommitted");
    // Ends when the parent kills this process, or is gone itself.
    let _ = std::io::stdin().read(&mut [0]);
}

#[tokio::test]
async fn a_second_process_is_refused_by_name_and_a_killed_one_loses_nothing() {
    if let Some(database) = std::env::args().find_map(|argument| argument.strip_prefix(SERVE).map(str::to_owned)) {
        return serve_until_killed(Path::new(&database)).await;
    }
    let scratch = Scratch::new();
    let database = scratch.database();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("one_process::a_second_process_is_refused_by_name_and_a_killed_one_loses_nothing")
        .arg(format!("{SERVE}{}", database.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "committed"), "the second process ended early");

    for attempt in [SqliteStore::open(&database).await.err(), SqliteStore::migrate(&database).await.err()] {
        let error = attempt.expect("another process has the database");
        assert!(matches!(&error, OpenError::InUse { path } if path.ends_with("apikeys.sqlite3")), "{error:?}");
        assert!(error.to_string().contains(database.to_str().unwrap()), "{error}");
    }
    drop(child);

    let store = SqliteStore::open(&database).await.unwrap();
    let found = store.find_by_id(&an_organization(), a_key(1).id()).await.unwrap().value;
    assert_eq!(found, Some(a_key(1)));
}

#[tokio::test]
async fn a_second_store_of_the_same_process_is_refused_whatever_leads_to_the_file() {
    let scratch = Scratch::new();
    let database = scratch.database();
    let store = SqliteStore::open(&database).await.unwrap();
    let mut ways = vec![database.clone(), scratch.path("").join(".").join("apikeys.sqlite3")];
    #[cfg(unix)]
    {
        let link = scratch.path("link.sqlite3");
        std::os::unix::fs::symlink(&database, &link).unwrap();
        ways.push(link);
    }
    for way in ways {
        let error = SqliteStore::open(&way).await.unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{}: {error:?}", way.display());
    }
    let copy = store.clone();
    drop(store);
    assert!(SqliteStore::open(&database).await.is_err(), "a copy still lives");
    drop(copy);
    SqliteStore::open(&database).await.unwrap();
}
