//! The contract suite on a database of its own for each function.

use std::time::Duration;

use apikey_domain::{KeyId, Timestamp};
use apikey_store_postgres::{Options, PostgresStore};
use apikey_testing::{
    postgres::TestDatabase,
    store_contract::{AuditRow, RowCounts, StoreUnderTest},
};
use tokio_postgres::{Client, NoTls, Row};

/// Limits that no test reaches unless it wants to, however busy the machine is.
pub(crate) fn patient() -> Options {
    Options {
        max_connections: 8,
        acquire_timeout: Duration::from_mins(1),
        connect_timeout: Duration::from_mins(1),
        statement_timeout: Duration::from_mins(1),
        lock_timeout: Duration::from_mins(1),
        migration_timeout: Duration::from_mins(1),
        ..Options::default()
    }
}

/// A connection beside the store's.
pub(crate) async fn beside(database: &TestDatabase) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) struct PostgresUnderTest {
    store: PostgresStore,
    beside: Client,
}

impl PostgresUnderTest {
    pub(crate) async fn fresh() -> Self {
        let database = TestDatabase::create();
        PostgresStore::migrate(database.url(), patient()).await.unwrap();
        let store = PostgresStore::connect(database.url(), patient()).await.unwrap();
        Self::of(store, beside(&database).await)
    }

    /// That store; what it must have stored is looked up beside it, in the tables that the other connection finds.
    pub(crate) const fn of(store: PostgresStore, beside: Client) -> Self {
        Self { store, beside }
    }

    async fn number(&self, statement: &str) -> u64 {
        let number: i64 = self.beside.query_one(statement, &[]).await.unwrap().get(0);
        u64::try_from(number).unwrap()
    }
}

const AUDIT_ROWS: &str = "SELECT organization_id, kind, actor, origin_address, origin_request_id, \
     (extract(epoch FROM at) * 1000000)::bigint AS at FROM audit_events WHERE key_id = $1::text::uuid ORDER BY id";

fn audit_row(key_id: KeyId, row: &Row) -> AuditRow {
    AuditRow {
        organization_id: row.get("organization_id"),
        key_id,
        kind: row.get("kind"),
        actor: row.get("actor"),
        origin_address: row.get("origin_address"),
        origin_request_id: row.get("origin_request_id"),
        at: Timestamp::from_unix_micros(row.get("at")).unwrap(),
    }
}

impl StoreUnderTest for PostgresUnderTest {
    type Store = PostgresStore;

    fn store(&self) -> &PostgresStore {
        &self.store
    }

    async fn audit_rows(&self, key_id: KeyId) -> Vec<AuditRow> {
        let rows = self.beside.query(AUDIT_ROWS, &[&key_id.to_string()]).await.unwrap();
        rows.iter().map(|row| audit_row(key_id, row)).collect()
    }

    async fn head(&self) -> u64 {
        self.number("SELECT seq FROM revocation_head").await
    }

    async fn narrowed_seq(&self, key_id: KeyId) -> Option<u64> {
        let statement = "SELECT narrowed_seq FROM api_keys WHERE id = $1::text::uuid";
        let row = self.beside.query_opt(statement, &[&key_id.to_string()]).await.unwrap()?;
        row.get::<_, Option<i64>>(0).map(|number| u64::try_from(number).unwrap())
    }

    async fn row_counts(&self) -> RowCounts {
        RowCounts {
            keys: self.number("SELECT count(*) FROM api_keys").await,
            counted_keys: self.number("SELECT coalesce(sum(keys), 0)::bigint FROM key_counts").await,
            audit_events: self.number("SELECT count(*) FROM audit_events").await,
            idempotency_records: self.number("SELECT count(*) FROM idempotency_records").await,
        }
    }

    async fn break_audit(&self) {
        let trigger = "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'broken'; END $$; \
             CREATE TRIGGER broken BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION broken()";
        self.beside.batch_execute(trigger).await.unwrap();
    }

    async fn mend_audit(&self) {
        self.beside.batch_execute("DROP TRIGGER broken ON audit_events; DROP FUNCTION broken()").await.unwrap();
    }
}

apikey_testing::store_contract! {
    #[tokio::test(flavor = "multi_thread")]
    PostgresUnderTest::fresh
}
