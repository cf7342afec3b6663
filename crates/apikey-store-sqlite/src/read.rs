//! What is read: each function is one snapshot.

use apikey_application::{
    IdempotencyKey, RequestDigest,
    ports::{Page, PageQuery, Position, Read, Seq, StoredIdempotency},
};
use apikey_domain::{ApiKey, KeyDigest, KeyId, OrganizationId};
use diesel::{
    dsl::exists,
    expression::{AppearsOnTable, Expression, SelectableExpression, ValidGrouping, is_aggregate},
    prelude::*,
    query_builder::{AstPass, QueryFragment, QueryId},
    sql_types::{BigInt, Binary, Bool},
    sqlite::Sqlite,
};

use crate::{
    error::Failure,
    rows::{KeyRow, id_bytes, read_id, read_number},
    schema::{api_keys, idempotency_records, key_counts, revocation_head},
};

/// A number of the head. SQLite never fails over: there is one timeline.
pub(crate) fn seq(number: i64) -> Result<Seq, Failure> {
    Ok(Seq::new(0, read_number(number)?))
}

pub(crate) fn head(connection: &mut SqliteConnection) -> Result<Seq, Failure> {
    seq(revocation_head::table.select(revocation_head::seq).first(connection)?)
}

/// Key and head in one statement, the head also where there is no key.
type Found = (i64, Option<KeyRow>);

fn into_read((number, row): Found) -> Result<Read<Option<ApiKey>>, Failure> {
    Ok(Read { value: row.map(ApiKey::try_from).transpose()?, seq: seq(number)? })
}

pub(crate) fn find_by_digest(
    connection: &mut SqliteConnection,
    digest: &KeyDigest,
) -> Result<Read<Option<ApiKey>>, Failure> {
    let found: Found = revocation_head::table
        .left_join(api_keys::table.on(api_keys::digest.eq(digest.as_bytes().as_slice())))
        .select((revocation_head::seq, Option::<KeyRow>::as_select()))
        .first(connection)?;
    into_read(found)
}

pub(crate) fn find_by_id(
    connection: &mut SqliteConnection,
    organization_id: &OrganizationId,
    key_id: KeyId,
) -> Result<Read<Option<ApiKey>>, Failure> {
    let is_it = api_keys::id.eq(id_bytes(&key_id)).and(api_keys::organization_id.eq(organization_id.as_str()));
    let found: Found = revocation_head::table
        .left_join(api_keys::table.on(is_it))
        .select((revocation_head::seq, Option::<KeyRow>::as_select()))
        .first(connection)?;
    into_read(found)
}

pub(crate) fn find_idempotency(
    connection: &mut SqliteConnection,
    organization_id: &OrganizationId,
    actor: &str,
    key: &IdempotencyKey,
) -> Result<Option<StoredIdempotency>, Failure> {
    let row: Option<(Vec<u8>, Vec<u8>)> = idempotency_records::table
        .find((organization_id.as_str(), actor, key.as_str()))
        .select((idempotency_records::key_id, idempotency_records::request_digest))
        .first(connection)
        .optional()?;
    row.map(|(key_id, request)| {
        let request = request.as_slice().try_into().map_err(|error| Failure::Illegal(Box::from(error)))?;
        Ok(StoredIdempotency { key_id: read_id(&key_id)?, request: RequestDigest::from_bytes(request) })
    })
    .transpose()
}

/// A page and its total, in one read transaction.
pub(crate) fn page(connection: &mut SqliteConnection, query: &PageQuery) -> Result<Page, Failure> {
    connection.transaction(|connection| {
        let rows = page_statement(query).load::<KeyRow>(connection)?;
        let more = rows.len() > query.limit as usize;
        let keys = rows.into_iter().take(query.limit as usize).map(ApiKey::try_from).collect::<Result<_, _>>()?;
        let mut counts = key_counts::table
            .filter(key_counts::organization_id.eq(query.organization_id.as_str()))
            .select(key_counts::keys)
            .into_boxed();
        if let Some(key_type) = query.key_type {
            counts = counts.filter(key_counts::key_type.eq(key_type.name()));
        }
        let total_count: i64 = counts.load::<i64>(connection)?.into_iter().sum();
        Ok(Page { keys, more, total_count: read_number(total_count)? })
    })
}

type PageStatement<'a> = diesel::helper_types::IntoBoxed<
    'a,
    diesel::helper_types::Select<api_keys::table, diesel::helper_types::AsSelect<KeyRow, Sqlite>>,
    Sqlite,
>;

/// One key more than the page holds, to learn whether there is another page.
fn page_statement(query: &PageQuery) -> PageStatement<'_> {
    let PageQuery { organization_id, key_type, after, limit } = query;
    let mut statement = api_keys::table
        .select(KeyRow::as_select())
        .into_boxed()
        .filter(api_keys::organization_id.eq(organization_id.as_str()))
        .order((api_keys::created_at.desc(), api_keys::id.desc()))
        .limit(i64::from(*limit) + 1);
    if let Some(key_type) = key_type {
        statement = statement.filter(api_keys::key_type.eq(key_type.name()));
    }
    if let Some(Position { created_at, id }) = after {
        statement = statement.filter(After { created_at: created_at.unix_micros(), id: id_bytes(id).to_vec() });
    }
    statement
}

pub(crate) fn any_keys(connection: &mut SqliteConnection) -> Result<bool, Failure> {
    Ok(diesel::select(exists(api_keys::table.select(api_keys::id))).get_result(connection)?)
}

/// `(created_at, id) < (…, …)`: compared as a pair, which SQLite turns into one range of an index. Written with AND and OR, it
/// would walk over all keys of one instant.
#[derive(Debug)]
struct After {
    created_at: i64,
    id: Vec<u8>,
}

impl Expression for After {
    type SqlType = Bool;
}

impl<T> AppearsOnTable<T> for After {}
impl<T> SelectableExpression<T> for After {}

impl<G> ValidGrouping<G> for After {
    type IsAggregate = is_aggregate::Never;
}

impl QueryId for After {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Sqlite> for After {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("(api_keys.created_at, api_keys.id) < (");
        out.push_bind_param::<BigInt, _>(&self.created_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&self.id)?;
        out.push_sql(")");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
