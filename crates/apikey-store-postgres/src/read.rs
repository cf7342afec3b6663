//! The statements that change nothing: keys by digest and id, pages, idempotency records.

use apikey_application::{
    IdempotencyKey, RequestDigest,
    fence::{Mark, ReplicaId},
    ports::{Page, PageQuery, Position, Read, Seq, StoreError, StoredIdempotency},
};
use apikey_domain::{Actor, ApiKey, KeyDigest, KeyId, OrganizationId};
use diesel::{
    QueryableByName,
    pg::data_types::PgTimestamp,
    sql_types::{BigInt, Bool, Bytea, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use uuid::Uuid;

use crate::{
    pool::Connections,
    prepared::prepared,
    row::{IllegalRow, JoinedKeyRow, KeyRow, key_columns, timeline, to_database},
};

impl From<IllegalRow> for StoreError {
    fn from(error: IllegalRow) -> Self {
        Self::Defect(error.into())
    }
}

#[derive(QueryableByName)]
struct ReadRow {
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Text)]
    timeline: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    own_renewals: Option<i64>,
    #[diesel(embed)]
    key: JoinedKeyRow,
}

impl ReadRow {
    /// `replica` is whose mark was looked for.
    fn into_read(self, replica: Option<ReplicaId>) -> Result<Read<Option<ApiKey>>, IllegalRow> {
        let Self { seq, timeline, own_renewals, key: JoinedKeyRow(key) } = self;
        let renewal = own_renewals.map(u64::try_from).transpose().map_err(|_| IllegalRow::Number)?;
        let mark = replica.zip(renewal).map(|(replica, renewal)| Mark { replica, renewal });
        let seq = Seq { mark, ..to_seq(seq, &timeline)? };
        Ok(Read { value: key.map(KeyRow::into_key).transpose()?, seq })
    }
}

/// Head, timeline, mark and key in one statement, so of one snapshot. The last parameter is the replica that reads, or null.
const FIND_BY_DIGEST: &str = concat!(
    "SELECT h.seq, ",
    timeline!(),
    " AS timeline, (SELECT renewals FROM $schema.replicas WHERE id = $2) AS own_renewals, ",
    key_columns!(),
    " FROM $schema.revocation_head h LEFT JOIN $schema.api_keys k ON k.digest = $1"
);

pub(crate) async fn find_by_digest(
    connections: &Connections,
    digest: &KeyDigest,
) -> Result<Read<Option<ApiKey>>, StoreError> {
    let replica = connections.replica();
    let statement = prepared!(
        connections.schema(),
        FIND_BY_DIGEST,
        Bytea => digest.as_bytes().to_vec(),
        Nullable<SqlUuid> => replica.map(ReplicaId::as_uuid),
    );
    Ok(one::<ReadRow>(connections.read(statement).await?)?.into_read(replica)?)
}

/// As [`FIND_BY_DIGEST`].
const FIND_BY_ID: &str = concat!(
    "SELECT h.seq, ",
    timeline!(),
    " AS timeline, (SELECT renewals FROM $schema.replicas WHERE id = $3) AS own_renewals, ",
    key_columns!(),
    " FROM $schema.revocation_head h LEFT JOIN $schema.api_keys k ON k.id = $1 AND k.organization_id = $2"
);

pub(crate) async fn find_by_id(
    connections: &Connections,
    organization_id: &OrganizationId,
    key_id: KeyId,
) -> Result<Read<Option<ApiKey>>, StoreError> {
    let replica = connections.replica();
    let statement = prepared!(
        connections.schema(),
        FIND_BY_ID,
        SqlUuid => *key_id.as_uuid(),
        Text => organization_id.as_str().to_owned(),
        Nullable<SqlUuid> => replica.map(ReplicaId::as_uuid),
    );
    Ok(one::<ReadRow>(connections.read(statement).await?)?.into_read(replica)?)
}

#[derive(QueryableByName)]
struct IdempotencyRow {
    #[diesel(sql_type = SqlUuid)]
    key_id: Uuid,
    #[diesel(sql_type = Bytea)]
    request_digest: Vec<u8>,
}

const FIND_IDEMPOTENCY: &str = "SELECT key_id, request_digest FROM $schema.idempotency_records \
     WHERE organization_id = $1 AND actor = $2 AND idempotency_key = $3";

pub(crate) async fn find_idempotency(
    connections: &Connections,
    organization_id: &OrganizationId,
    actor: &Actor,
    key: &IdempotencyKey,
) -> Result<Option<StoredIdempotency>, StoreError> {
    let statement = prepared!(
        connections.schema(),
        FIND_IDEMPOTENCY,
        Text => organization_id.as_str().to_owned(),
        Text => actor.to_string(),
        Text => key.as_str().to_owned(),
    );
    let rows: Vec<IdempotencyRow> = connections.read(statement).await?;
    let Some(IdempotencyRow { key_id, request_digest }) = rows.into_iter().next() else { return Ok(None) };
    let request = RequestDigest::from_bytes(request_digest.try_into().map_err(|_| IllegalRow::Digest)?);
    Ok(Some(StoredIdempotency { key_id: KeyId::from_uuid(key_id), request }))
}

#[derive(QueryableByName)]
struct PageRow {
    #[diesel(sql_type = BigInt)]
    total_count: i64,
    #[diesel(embed)]
    key: JoinedKeyRow,
}

/// The count and the keys in one statement, so of one snapshot; a listing without keys is one row of nulls. The two forms
/// differ in the filter alone: a plan that serves both could use neither index.
macro_rules! page {
    ($filter:expr, $after:expr, $id:expr, $limit:expr) => {
        concat!(
            "SELECT t.total_count, ",
            key_columns!(),
            " FROM (SELECT coalesce(pg_catalog.sum(keys), 0)::bigint AS total_count FROM $schema.key_counts WHERE organization_id = $1",
            $filter,
            ") t LEFT JOIN LATERAL (SELECT * FROM $schema.api_keys WHERE organization_id = $1",
            $filter,
            " AND (created_at, id) < (",
            $after,
            ", ",
            $id,
            ") ORDER BY created_at DESC, id DESC LIMIT ",
            $limit,
            ") k ON true ORDER BY k.created_at DESC, k.id DESC"
        )
    };
}

const PAGE: &str = page!("", "$2", "$3", "$4");
const PAGE_OF_TYPE: &str = page!(" AND key_type = $5", "$2", "$3", "$4");

/// After every instant.
const INFINITY: PgTimestamp = PgTimestamp(i64::MAX);

pub(crate) async fn page(connections: &Connections, query: &PageQuery) -> Result<Page, StoreError> {
    let PageQuery { organization_id, key_type, after, limit } = query;
    let (created_at, id) = match after {
        Some(Position { created_at, id }) => (to_database(*created_at), *id.as_uuid()),
        None => (INFINITY, Uuid::max()),
    };
    let organization = organization_id.as_str().to_owned();
    // One more than asked for shows whether there are more.
    let one_more = i64::from(*limit) + 1;
    let rows: Vec<PageRow> = match key_type {
        None => {
            let statement = prepared!(
                connections.schema(),
                PAGE,
                Text => organization,
                Timestamptz => created_at,
                SqlUuid => id,
                BigInt => one_more,
            );
            connections.read(statement).await?
        }
        Some(key_type) => {
            let statement = prepared!(
                connections.schema(),
                PAGE_OF_TYPE,
                Text => organization,
                Timestamptz => created_at,
                SqlUuid => id,
                BigInt => one_more,
                Text => key_type.name().to_owned(),
            );
            connections.read(statement).await?
        }
    };
    let total_count = rows.first().ok_or(IllegalRow::Rows)?.total_count;
    let total_count = u64::try_from(total_count).map_err(|_| IllegalRow::Number)?;
    let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
    let found = rows.into_iter().filter_map(|row| row.key.0);
    let mut keys = found.map(KeyRow::into_key).collect::<Result<Vec<_>, _>>()?;
    let more = keys.len() > limit;
    keys.truncate(limit);
    Ok(Page { keys, more, total_count })
}

#[derive(QueryableByName)]
struct PingRow {
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Text)]
    timeline: String,
}

/// Fails on a standby and where the schema is missing, as every other call would.
const PING: &str = concat!("SELECT seq, ", timeline!(), " AS timeline FROM $schema.revocation_head");

pub(crate) async fn ping(connections: &Connections) -> Result<(), StoreError> {
    let PingRow { seq, timeline } = one(connections.read(prepared!(connections.schema(), PING)).await?)?;
    to_seq(seq, &timeline)?;
    Ok(())
}

#[derive(QueryableByName)]
struct AnyRow {
    #[diesel(sql_type = Bool)]
    any_keys: bool,
}

const ANY_KEYS: &str = "SELECT EXISTS (SELECT FROM $schema.api_keys) AS any_keys";

pub(crate) async fn any_keys(connections: &Connections) -> Result<bool, StoreError> {
    let AnyRow { any_keys } = one(connections.read(prepared!(connections.schema(), ANY_KEYS)).await?)?;
    Ok(any_keys)
}

/// The row of a statement that returns one.
pub(crate) fn one<R>(rows: Vec<R>) -> Result<R, IllegalRow> {
    rows.into_iter().next().ok_or(IllegalRow::Rows)
}

pub(crate) fn to_seq(number: i64, timeline: &str) -> Result<Seq, IllegalRow> {
    let timeline = u32::from_str_radix(timeline, 16).map_err(|_| IllegalRow::Timeline)?;
    Ok(Seq::new(timeline, u64::try_from(number).map_err(|_| IllegalRow::Number)?))
}
