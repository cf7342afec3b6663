//! Directory and files: made for their owner alone, kept over a restart, tidy after a clean end.

use std::path::Path;

use apikey_application::ports::{KeyStore, StoreError, Use};
use apikey_domain::Actor;
use apikey_store_sqlite::{OpenError, SqliteStore};
use apikey_testing::fixtures::{a_claim, a_key, issue, issue_once, revoke, seconds_later};

use super::scratch::Scratch;

#[tokio::test]
async fn a_reopened_store_holds_everything() {
    let scratch = Scratch::new();
    let (revoked, used) = (a_key(1), a_key(2));
    let claim = a_claim(&revoked, Actor::operator(), "header", 1);
    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    assert!(!store.any_keys().await.unwrap());
    store.commit(issue_once(&revoked, claim.clone())).await.unwrap();
    store.commit(issue(&used)).await.unwrap();
    let seq = store.commit(revoke(&revoked, seconds_later(1))).await.unwrap();
    store.record_uses(&[Use { key_id: used.id(), at: seconds_later(2) }]).await.unwrap();
    let reads =
        [store.find_by_digest(revoked.digest()).await.unwrap(), store.find_by_digest(used.digest()).await.unwrap()];
    drop(store);

    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    assert!(store.any_keys().await.unwrap());
    assert_eq!(store.find_by_digest(revoked.digest()).await.unwrap(), reads[0]);
    assert_eq!(store.find_by_digest(used.digest()).await.unwrap(), reads[1]);
    assert_eq!(reads[1].seq, seq);
    assert_eq!(reads[1].value.as_ref().unwrap().parts().last_used_at, Some(seconds_later(2)));
    let record = store.find_idempotency(&claim.organization_id, &claim.actor, &claim.key).await.unwrap();
    assert_eq!(record.unwrap().key_id, revoked.id());
}

#[tokio::test]
async fn a_closed_store_leaves_one_file_and_lets_the_lock_go() {
    let scratch = Scratch::new();
    let log = scratch.path("apikeys.sqlite3-wal");
    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    store.commit(issue(&a_key(1))).await.unwrap();
    assert!(log.metadata().unwrap().len() > 0, "commits go to the log first");
    let copy = store.clone();
    store.close().await;
    assert!(!log.exists(), "the log is written back");
    for error in [
        copy.ping().await.unwrap_err(),
        copy.record_uses(&[Use { key_id: a_key(1).id(), at: seconds_later(1) }]).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
    let store = SqliteStore::open(&scratch.database()).await.unwrap();
    assert!(store.any_keys().await.unwrap());
    copy.close().await;
    store.ping().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_made_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let scratch = Scratch::new();
    let directory = scratch.path("made").join("here");
    let store = SqliteStore::open(&directory.join("a.sqlite3")).await.unwrap();
    store.commit(issue(&a_key(1))).await.unwrap();
    assert_eq!((mode(&scratch.path("made")), mode(&directory)), (0o700, 0o700));
    let mut files: Vec<_> = directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["a.sqlite3", "a.sqlite3-shm", "a.sqlite3-wal", "a.sqlite3.lock"]);

    // A directory that was there keeps the mode that somebody gave it.
    let shared = scratch.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o755)).unwrap();
    SqliteStore::open(&shared.join("a.sqlite3")).await.unwrap();
    assert_eq!(mode(&shared), 0o755);
}

#[tokio::test]
async fn a_file_name_is_only_a_name() {
    let scratch = Scratch::new();
    for name in [":memory:", "file:x?mode=memory", "a b#c%20d?e.sqlite3", "日本語"] {
        let database = scratch.path(name);
        let store = SqliteStore::open(&database).await.unwrap();
        store.commit(issue(&a_key(1))).await.unwrap();
        store.close().await;
        assert!(database.metadata().unwrap().len() > 0, "{name}");
        assert!(SqliteStore::open(&database).await.unwrap().any_keys().await.unwrap(), "{name}");
    }
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let text = "This is a letter to my aunt, and no database. ".repeat(100);
    std::fs::write(scratch.database(), &text).unwrap();
    let error = SqliteStore::open(&scratch.database()).await.unwrap_err();
    assert!(matches!(error, OpenError::Connection { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(scratch.database()).unwrap(), text);

    let directory = scratch.path("directory");
    std::fs::create_dir(&directory).unwrap();
    let error = SqliteStore::open(&directory).await.unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "a directory: {error:?}");
    assert!(!scratch.path("directory.lock").exists(), "nothing is left beside a directory");
    let error = SqliteStore::open(&scratch.database().join("below-a-file")).await.unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "below a file: {error:?}");
}
