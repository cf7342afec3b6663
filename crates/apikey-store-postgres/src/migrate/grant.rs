//! What the service's own role needs on the tables, and no more.

use diesel::{
    QueryableByName, sql_query,
    sql_types::{Bool, Text},
};
use diesel_async::{
    AnsiTransactionManager, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _, TransactionManager as _,
};

use super::MigrateError;
use crate::Schema;

/// The rights on each table, as GRANT writes them. Columns that are not among those of UPDATE never change once a row is there.
/// Locking a row needs the right to update one of its columns. The contract's tests run in the name of a role that has these alone, so
/// that a statement which needs more shows.
const RIGHTS: [(&str, &str); 7] = [
    ("__diesel_schema_migrations", "SELECT"),
    ("api_keys", "SELECT, INSERT, UPDATE (revoked_at, revision, narrowed_seq, last_used_at)"),
    ("audit_events", "INSERT"),
    ("idempotency_records", "SELECT, INSERT"),
    ("key_counts", "SELECT, INSERT, UPDATE (keys)"),
    ("replicas", "SELECT, INSERT, UPDATE (acked_seq, renewals), DELETE"),
    ("revocation_head", "SELECT, UPDATE (seq)"),
];

#[derive(QueryableByName)]
struct RoleRow {
    #[diesel(sql_type = Bool)]
    owns: bool,
}

/// Superusers are members of every role.
const ROLE: &str = "SELECT EXISTS ( \
         SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relkind = 'r' AND pg_catalog.pg_has_role(r.oid, c.relowner, 'MEMBER') \
     ) AS owns FROM pg_catalog.pg_roles r WHERE r.rolname = $2";

/// Gives the role what the service needs, and takes from it what else it was given on the service's tables.
pub(super) async fn grant(pg: &mut AsyncPgConnection, schema: &Schema, role: &str) -> Result<(), MigrateError> {
    let failed = |error: diesel::result::Error| MigrateError::Migration(error.into());
    let rows: Vec<RoleRow> = sql_query(ROLE)
        .bind::<Text, _>(schema.as_str().to_owned())
        .bind::<Text, _>(role.to_owned())
        .load(pg)
        .await
        .map_err(failed)?;
    match rows.into_iter().next() {
        None => return Err(MigrateError::Grant(format!("there is no role {role:?}: create it first"))),
        Some(RoleRow { owns: true }) => {
            return Err(MigrateError::Grant(format!(
                "the role {role:?} owns the tables, or is a superuser, and cannot be limited: migrate as another role"
            )));
        }
        Some(RoleRow { owns: false }) => {}
    }
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    let on_tables = RIGHTS.iter().map(|(table, rights)| {
        format!("REVOKE ALL ON $schema.{table} FROM {role}; GRANT {rights} ON $schema.{table} TO {role};")
    });
    let statements = format!("GRANT USAGE ON SCHEMA $schema TO {role}; {}", on_tables.collect::<String>());
    AnsiTransactionManager::begin_transaction(pg).await.map_err(failed)?;
    pg.batch_execute(&schema.named_in(&statements)).await.map_err(failed)?;
    AnsiTransactionManager::commit_transaction(pg).await.map_err(failed)
}
