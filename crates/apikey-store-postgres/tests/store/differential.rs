//! PostgreSQL and SQLite side by side: the same commands in the same order must give the same answers and leave the same
//! behind.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use apikey_application::{
    IdempotencyKey,
    ports::{Change, Commit, CommitError, KeyStore, PageQuery, Position, Seq, StoreError, Use},
};
use apikey_domain::{Actor, ApiKey, KeyEventKind, KeyType, OrganizationId};
use apikey_store_postgres::PostgresStore;
use apikey_store_sqlite::SqliteStore;
use apikey_testing::{
    fixtures::{
        a_claim, a_key_with, a_person, an_event, an_organization, another_organization, issue, issue_once,
        seconds_later,
    },
    postgres::TestDatabase,
};
use diesel::{Connection as _, RunQueryDsl as _, SqliteConnection, sql_query, sql_types::Text};
use proptest::{collection::vec, option, prelude::*, sample::subsequence};
use tokio_postgres::NoTls;

use super::contract::patient;

/// How many different keys the commands speak of: few, so that they meet.
const KEYS: u64 = 10;
const HEADERS: usize = 3;

#[derive(Clone, Debug)]
enum Command {
    Issue { key: u64, twin_of: Option<u64>, claim: Option<(usize, usize, u8)>, authorizer: Option<u64>, now: u64 },
    Revoke { key: u64, revision: u32, authorizer: Option<u64>, now: u64, events: usize },
    Confirm { key: u64, elsewhere: bool, authorizer: Option<u64>, now: u64 },
    Use(Vec<(u64, u64)>),
    FindByDigest(u64),
    FindById { key: u64, elsewhere: bool },
    FindIdempotency { actor: usize, header: usize, elsewhere: bool },
    Page { elsewhere: bool, key_type: Option<KeyType>, after: Option<u64>, limit: u32 },
}

fn command() -> impl Strategy<Value = Command> {
    let key = || 0..KEYS;
    // Before, at and after the expiry of the keys that expire.
    let now = || 0..8_u64;
    let authorizer = || option::weighted(0.4, key());
    let types = || option::of(prop::sample::select(KeyType::ALL.to_vec()));
    prop_oneof![
        6 => (key(), option::weighted(0.1, key()), option::weighted(0.5, (0..3_usize, 0..HEADERS, 0..2_u8)), authorizer(), now())
            .prop_map(|(key, twin_of, claim, authorizer, now)| Command::Issue { key, twin_of, claim, authorizer, now }),
        4 => (key(), prop_oneof![8 => Just(2_u32), 1 => Just(1), 1 => Just(3)], authorizer(), now(), 0..3_usize)
            .prop_map(|(key, revision, authorizer, now, events)| Command::Revoke { key, revision, authorizer, now, events }),
        2 => (key(), prop::bool::weighted(0.2), authorizer(), now())
            .prop_map(|(key, elsewhere, authorizer, now)| Command::Confirm { key, elsewhere, authorizer, now }),
        2 => vec((key(), now()), 0..6).prop_map(Command::Use),
        2 => key().prop_map(Command::FindByDigest),
        2 => (key(), prop::bool::weighted(0.3)).prop_map(|(key, elsewhere)| Command::FindById { key, elsewhere }),
        1 => (0..3_usize, 0..HEADERS, any::<bool>())
            .prop_map(|(actor, header, elsewhere)| Command::FindIdempotency { actor, header, elsewhere }),
        3 => (any::<bool>(), types(), option::of(key()), 1..6_u32)
            .prop_map(|(elsewhere, key_type, after, limit)| Command::Page { elsewhere, key_type, after, limit }),
    ]
}

/// The key of that number: of one of two organizations and types, some at the same instant, some with an expiry.
fn key(number: u64) -> ApiKey {
    a_key_with(number, |parts| {
        if number.is_multiple_of(3) {
            parts.organization_id = another_organization();
        }
        if number % 4 == 1 {
            parts.key_type = KeyType::ScimToken;
        }
        parts.created_at = seconds_later(number % 2);
        parts.expires_at = (number % 5 == 2).then(|| seconds_later(5));
    })
}

fn organization(elsewhere: bool) -> OrganizationId {
    if elsewhere { another_organization() } else { an_organization() }
}

fn actor(number: usize) -> Actor {
    [Actor::operator(), a_person("alice"), Actor::api_key(key(1).id())][number].clone()
}

fn header(number: usize) -> String {
    format!("header-{number}")
}

/// The commit of a command that has one.
fn commit_of(command: &Command) -> Option<Commit> {
    let commit = match command {
        Command::Issue { key: number, twin_of, claim, authorizer, now } => {
            let key = match twin_of {
                Some(other) => {
                    let mut parts = key(*number).into_parts();
                    parts.digest = *key(*other).digest();
                    ApiKey::from_parts(parts).unwrap()
                }
                None => key(*number),
            };
            let commit = match claim {
                Some((by, under, message)) => issue_once(&key, a_claim(&key, actor(*by), &header(*under), *message)),
                None => issue(&key),
            };
            Commit { on_behalf_of: authorizer.map(|number| self::key(number).id()), now: seconds_later(*now), ..commit }
        }
        Command::Revoke { key: number, revision, authorizer, now, events } => {
            let mut parts = key(*number).into_parts();
            let now = seconds_later(*now);
            parts.revoked_at = Some(now.max(parts.created_at));
            parts.revision = *revision;
            let key = ApiKey::from_parts(parts).unwrap();
            Commit {
                events: vec![an_event(&key, KeyEventKind::Revoked, now); *events],
                change: Change::Revoke { key },
                on_behalf_of: authorizer.map(|number| self::key(number).id()),
                now,
            }
        }
        Command::Confirm { key: number, elsewhere, authorizer, now } => Commit {
            change: Change::ConfirmRevoked {
                organization_id: if *elsewhere {
                    organization(!number.is_multiple_of(3))
                } else {
                    key(*number).organization_id().clone()
                },
                key_id: key(*number).id(),
                digest: *key(*number).digest(),
            },
            events: Vec::new(),
            on_behalf_of: authorizer.map(|number| self::key(number).id()),
            now: seconds_later(*now),
        },
        _ => return None,
    };
    Some(commit)
}

/// What a store answered, without what may differ: the timeline, and the cause of a defect.
async fn answer(store: &impl KeyStore, command: &Command) -> String {
    if let Some(commit) = commit_of(command) {
        return match store.commit(commit).await {
            Ok(Seq { timeline: _, number, mark: _ }) => format!("committed at {number}"),
            Err(CommitError::Store(StoreError::Defect(_))) => "defect".to_owned(),
            Err(error) => format!("{error:?}"),
        };
    }
    match command {
        Command::Use(uses) => {
            let uses: Vec<Use> =
                uses.iter().map(|(number, at)| Use { key_id: key(*number).id(), at: seconds_later(*at) }).collect();
            format!("{:?}", store.record_uses(&uses).await.unwrap())
        }
        Command::FindByDigest(number) => {
            let read = store.find_by_digest(key(*number).digest()).await.unwrap();
            format!("{:?} at {}", read.value, read.seq.number)
        }
        Command::FindById { key: number, elsewhere } => {
            let organization_id = organization((number.is_multiple_of(3)) != *elsewhere);
            format!("{:?}", store.find_by_id(&organization_id, key(*number).id()).await.unwrap().value)
        }
        Command::FindIdempotency { actor: by, header: under, elsewhere } => {
            let under = IdempotencyKey::parse(&header(*under)).unwrap();
            format!("{:?}", store.find_idempotency(&organization(*elsewhere), &actor(*by), &under).await.unwrap())
        }
        Command::Page { elsewhere, key_type, after, limit } => {
            let after = after.map(key).map(|key| Position { created_at: key.parts().created_at, id: key.id() });
            let query =
                PageQuery { organization_id: organization(*elsewhere), key_type: *key_type, after, limit: *limit };
            format!("{:?}", store.page(&query).await.unwrap())
        }
        Command::Issue { .. } | Command::Revoke { .. } | Command::Confirm { .. } => unreachable!("answered above"),
    }
}

/// A database file of SQLite that goes away with the case.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("differential-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // In memory where there is a place for it: what matters here is the answers, and every commit would be synced.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
        Self(folder.join(name))
    }

    fn database(&self) -> PathBuf {
        self.0.join("apikeys.sqlite3")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(diesel::QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// Every table as lines of text, instants as microseconds: in SQLite's dialect, and in PostgreSQL's.
const EVERYTHING: [(&str, &str); 5] = [
    (
        "SELECT lower(hex(id)) || '|' || organization_id || '|' || name || '|' || prefix || '|' || lower(hex(digest)) || '|' \
         || key_type || '|' || created_at || '|' || coalesce(expires_at, '-') || '|' || coalesce(revoked_at, '-') || '|' \
         || coalesce(last_used_at, '-') || '|' || revision || '|' || coalesce(narrowed_seq, '-') AS line \
         FROM api_keys ORDER BY id",
        "SELECT replace(id::text, '-', '') || '|' || organization_id || '|' || name || '|' || prefix || '|' \
         || encode(digest, 'hex') || '|' || key_type || '|' || micros(created_at) || '|' || micros(expires_at) || '|' \
         || micros(revoked_at) || '|' || micros(last_used_at) || '|' || revision || '|' || coalesce(narrowed_seq::text, '-') \
         AS line FROM api_keys ORDER BY id",
    ),
    (
        "SELECT organization_id || '|' || lower(hex(key_id)) || '|' || kind || '|' || actor || '|' \
         || coalesce(origin_address, '-') || '|' || coalesce(origin_request_id, '-') || '|' || at AS line \
         FROM audit_events ORDER BY id",
        "SELECT organization_id || '|' || replace(key_id::text, '-', '') || '|' || kind || '|' || actor || '|' \
         || coalesce(origin_address, '-') || '|' || coalesce(origin_request_id, '-') || '|' || micros(at) AS line \
         FROM audit_events ORDER BY id",
    ),
    (
        "SELECT organization_id || '|' || actor || '|' || idempotency_key || '|' || lower(hex(request_digest)) || '|' \
         || lower(hex(key_id)) || '|' || created_at AS line FROM idempotency_records",
        "SELECT organization_id || '|' || actor || '|' || idempotency_key || '|' || encode(request_digest, 'hex') || '|' \
         || replace(key_id::text, '-', '') || '|' || micros(created_at) AS line FROM idempotency_records",
    ),
    (
        "SELECT organization_id || '|' || key_type || '|' || sum(keys) AS line FROM key_counts \
         GROUP BY organization_id, key_type",
        "SELECT organization_id || '|' || key_type || '|' || sum(keys) AS line FROM key_counts \
         GROUP BY organization_id, key_type",
    ),
    ("SELECT 'head ' || seq AS line FROM revocation_head", "SELECT 'head ' || seq AS line FROM revocation_head"),
];

const MICROS: &str = "CREATE FUNCTION micros(timestamptz) RETURNS text LANGUAGE sql AS \
     $$ SELECT coalesce((extract(epoch FROM $1) * 1000000)::bigint::text, '-') $$";

async fn compare(commands: Vec<Command>) -> Result<(), TestCaseError> {
    let database = TestDatabase::create();
    PostgresStore::migrate(database.url(), patient()).await.unwrap();
    let postgres = PostgresStore::connect(database.url(), patient()).await.unwrap();
    let scratch = Scratch::new();
    let sqlite = SqliteStore::open(&scratch.database()).await.unwrap();
    for (place, command) in commands.iter().enumerate() {
        let (one, other) = (answer(&postgres, command).await, answer(&sqlite, command).await);
        prop_assert_eq!(one, other, "PostgreSQL and SQLite, command {}: {:?}", place, command);
    }
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(MICROS).await.unwrap();
    let mut file = SqliteConnection::establish(scratch.database().to_str().unwrap()).unwrap();
    for (in_sqlite, in_postgres) in EVERYTHING {
        let rows = client.query(in_postgres, &[]).await.unwrap();
        let mut one: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let lines: Vec<Line> = sql_query(in_sqlite).load(&mut file).unwrap();
        let mut other: Vec<String> = lines.into_iter().map(|line| line.line).collect();
        if !in_postgres.contains("ORDER BY") {
            one.sort_unstable();
            other.sort_unstable();
        }
        prop_assert_eq!(one, other, "PostgreSQL and SQLite: {}", in_postgres);
    }
    Ok(())
}

proptest! {
    // Each case is a database on both sides, so there are few of them, and each is long.
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_answer_alike_and_leave_the_same_behind(
        first in subsequence((0..KEYS).collect::<Vec<_>>(), 0..=usize::try_from(KEYS).unwrap()),
        commands in vec(command(), 20..80),
    ) {
        // Some keys are there from the beginning, so that commands find what they speak of.
        let issues = first.into_iter().map(|key| Command::Issue { key, twin_of: None, claim: None, authorizer: None, now: 0 });
        let commands = issues.chain(commands).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(compare(commands))?;
    }
}
