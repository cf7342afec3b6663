//! Recording uses: one statement for a batch.

use apikey_application::ports::{StoreError, Use};
use diesel::{
    QueryableByName,
    pg::data_types::PgTimestamp,
    sql_types::{Array, BigInt, Text, Timestamptz, Uuid as SqlUuid},
};
use uuid::Uuid;

use crate::{failure::Failure, pool::Connections, prepared::prepared, read, row::to_database};

#[derive(QueryableByName)]
struct RecordedRow {
    #[diesel(sql_type = BigInt)]
    recorded: i64,
}

/// The rows are locked in the order of their ids, so that two replicas never wait for each other in a circle, and looked at
/// again once the locks are held, so that none moves back.
const RECORD_USES: &str = "WITH settings AS MATERIALIZED ( \
         SELECT pg_catalog.set_config('lock_timeout', $1, true) AS applied \
     ), noted AS ( \
         SELECT id, pg_catalog.max(at) AS at FROM unnest($2::uuid[], $3::timestamptz[]) AS u (id, at) GROUP BY id \
     ), locked AS MATERIALIZED ( \
         SELECT k.id, noted.at FROM settings, noted JOIN $schema.api_keys k ON k.id = noted.id \
         WHERE settings.applied IS NOT NULL AND (k.last_used_at IS NULL OR k.last_used_at < noted.at) \
         ORDER BY k.id FOR NO KEY UPDATE OF k \
     ), recorded AS ( \
         UPDATE $schema.api_keys k SET last_used_at = locked.at FROM locked \
         WHERE k.id = locked.id AND (k.last_used_at IS NULL OR k.last_used_at < locked.at) \
         RETURNING 1 \
     ) \
     SELECT pg_catalog.count(*) AS recorded FROM recorded";

pub(crate) async fn record(connections: &Connections, lock_timeout: &str, uses: &[Use]) -> Result<(), StoreError> {
    if uses.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = uses.iter().map(|noted| *noted.key_id.as_uuid()).collect();
    let instants: Vec<PgTimestamp> = uses.iter().map(|noted| to_database(noted.at)).collect();
    let statement = prepared!(
        connections.schema(),
        RECORD_USES,
        Text => lock_timeout.to_owned(),
        Array<SqlUuid> => ids,
        Array<Timestamptz> => instants,
    );
    let rows = connections.change(statement).await.map_err(Failure::into_store_error)?;
    let RecordedRow { recorded } = read::one(rows)?;
    tracing::trace!(noted = uses.len(), recorded, "uses were recorded");
    Ok(())
}
