//! The contract suite on a file of its own for each function.

use std::sync::{Mutex, MutexGuard};

use apikey_domain::{KeyId, Timestamp};
use apikey_store_sqlite::SqliteStore;
use apikey_testing::store_contract::{AuditRow, RowCounts, StoreUnderTest};
use diesel::{
    QueryableByName, RunQueryDsl, SqliteConnection,
    connection::SimpleConnection,
    sql_query,
    sql_types::{BigInt, Binary, Nullable, Text},
};

use super::scratch::{Scratch, beside};

pub(crate) struct SqliteUnderTest {
    store: SqliteStore,
    beside: Mutex<SqliteConnection>,
    // Dropped last.
    _scratch: Scratch,
}

impl SqliteUnderTest {
    async fn fresh() -> Self {
        let scratch = Scratch::new();
        let store = SqliteStore::open(&scratch.database()).await.unwrap();
        let beside = Mutex::new(beside(&scratch.database()));
        Self { store, beside, _scratch: scratch }
    }

    fn beside(&self) -> MutexGuard<'_, SqliteConnection> {
        self.beside.lock().unwrap()
    }

    fn number(&self, statement: &str) -> i64 {
        let row: Number = sql_query(statement).get_result(&mut *self.beside()).unwrap();
        row.number
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Narrowed {
    #[diesel(sql_type = Nullable<BigInt>)]
    narrowed_seq: Option<i64>,
}

#[derive(QueryableByName)]
struct Event {
    #[diesel(sql_type = Text)]
    organization_id: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    actor: String,
    #[diesel(sql_type = Nullable<Text>)]
    origin_address: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    origin_request_id: Option<String>,
    #[diesel(sql_type = BigInt)]
    at: i64,
}

impl StoreUnderTest for SqliteUnderTest {
    type Store = SqliteStore;

    fn store(&self) -> &SqliteStore {
        &self.store
    }

    async fn audit_rows(&self, key_id: KeyId) -> Vec<AuditRow> {
        let events: Vec<Event> = sql_query("SELECT * FROM audit_events WHERE key_id = ? ORDER BY id")
            .bind::<Binary, _>(key_id.as_uuid().as_bytes().to_vec())
            .load(&mut *self.beside())
            .unwrap();
        let row = |Event { organization_id, kind, actor, origin_address, origin_request_id, at }| AuditRow {
            organization_id,
            key_id,
            kind,
            actor,
            origin_address,
            origin_request_id,
            at: Timestamp::from_unix_micros(at).unwrap(),
        };
        events.into_iter().map(row).collect()
    }

    async fn head(&self) -> u64 {
        u64::try_from(self.number("SELECT seq AS number FROM revocation_head")).unwrap()
    }

    async fn narrowed_seq(&self, key_id: KeyId) -> Option<u64> {
        let rows: Vec<Narrowed> = sql_query("SELECT narrowed_seq FROM api_keys WHERE id = ?")
            .bind::<Binary, _>(key_id.as_uuid().as_bytes().to_vec())
            .load(&mut *self.beside())
            .unwrap();
        rows.first().and_then(|row| row.narrowed_seq).map(|number| u64::try_from(number).unwrap())
    }

    async fn row_counts(&self) -> RowCounts {
        let number = |statement| u64::try_from(self.number(statement)).unwrap();
        RowCounts {
            keys: number("SELECT count(*) AS number FROM api_keys"),
            counted_keys: number("SELECT coalesce(sum(keys), 0) AS number FROM key_counts"),
            audit_events: number("SELECT count(*) AS number FROM audit_events"),
            idempotency_records: number("SELECT count(*) AS number FROM idempotency_records"),
        }
    }

    async fn break_audit(&self) {
        let trigger = "CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT raise(ABORT, 'broken'); END";
        self.beside().batch_execute(trigger).unwrap();
    }

    async fn mend_audit(&self) {
        self.beside().batch_execute("DROP TRIGGER broken").unwrap();
    }
}

apikey_testing::store_contract! {
    #[tokio::test(flavor = "multi_thread")]
    SqliteUnderTest::fresh
}
