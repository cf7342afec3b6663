//! The lock under which one process migrates, and who holds it.

use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Integer, Nullable, Text},
};
use diesel_async::{
    AnsiTransactionManager, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _, TransactionManager as _,
};

use super::LOCK_TIMEOUT;
use crate::Schema;

/// Names without a schema are those of `$schema`. (`pg_catalog` comes first, since the path does not name it; `pg_temp` comes last,
/// since it does.) The table is made as Diesel makes it.
const LOCK: &str = "SET LOCAL search_path = $schema, pg_temp; \
     CREATE TABLE IF NOT EXISTS $schema.__diesel_schema_migrations ( \
         version VARCHAR(50) PRIMARY KEY NOT NULL, \
         run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP \
     ); \
     LOCK TABLE $schema.__diesel_schema_migrations IN EXCLUSIVE MODE";

/// Begins a transaction, makes the schema where there is none, and takes the lock. Waits for [`LOCK_TIMEOUT`] at most, as all that
/// follows in the transaction.
pub(super) async fn take(pg: &mut AsyncPgConnection, schema: &Schema, exists: bool) -> QueryResult<()> {
    AnsiTransactionManager::begin_transaction(pg).await?;
    pg.batch_execute(&format!("SET LOCAL lock_timeout = '{}ms'", LOCK_TIMEOUT.as_millis())).await?;
    if !exists {
        // Even `IF NOT EXISTS` needs the right to create schemas.
        pg.batch_execute(&schema.named_in("CREATE SCHEMA IF NOT EXISTS $schema")).await?;
    }
    pg.batch_execute(&schema.named_in(LOCK)).await
}

#[derive(QueryableByName)]
struct HolderRow {
    #[diesel(sql_type = Integer)]
    pid: i32,
    #[diesel(sql_type = Text)]
    role: String,
    #[diesel(sql_type = Text)]
    application: String,
    #[diesel(sql_type = Nullable<Text>)]
    since: Option<String>,
}

/// Sessions that hold a lock on one of the schema's tables, those whose transactions are the oldest first. What a session of
/// another role does is hidden from roles without `pg_read_all_stats`; its process and its name are not.
const HOLDERS: &str = "SELECT a.pid, coalesce(a.usename::text, '') AS role, coalesce(a.application_name, '') AS application, \
         pg_catalog.to_char(a.xact_start, 'YYYY-MM-DD\"T\"HH24:MI:SSOF') AS since \
     FROM pg_catalog.pg_stat_activity a \
     WHERE a.pid <> pg_catalog.pg_backend_pid() AND EXISTS ( \
         SELECT FROM pg_catalog.pg_locks l \
         JOIN pg_catalog.pg_class c ON c.oid = l.relation \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation' AND n.nspname = $1 \
             AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
     ) \
     ORDER BY a.xact_start NULLS LAST LIMIT 3";

/// Names the sessions that hold tables of the schema.
pub(super) async fn holders(pg: &mut AsyncPgConnection, schema: &Schema) -> String {
    let rows = sql_query(HOLDERS).bind::<Text, _>(schema.as_str().to_owned()).load::<HolderRow>(pg).await;
    match rows {
        Ok(rows) if rows.is_empty() => "sessions that are gone by now".to_owned(),
        Ok(rows) => rows.iter().map(HolderRow::sentence).collect::<Vec<_>>().join(", "),
        Err(_) => "sessions that cannot be seen".to_owned(),
    }
}

impl HolderRow {
    fn sentence(&self) -> String {
        let Self { pid, role, application, since } = self;
        let since = since.as_deref().unwrap_or("an unknown time");
        format!("backend {pid} (role {role:?}, application_name {application:?}, in a transaction since {since})")
    }
}
