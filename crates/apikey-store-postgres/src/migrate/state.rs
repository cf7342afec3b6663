//! What the schema holds: nothing, this version's tables, older or newer ones, or another program's. Changes nothing.

use std::error::Error;

use diesel::{
    QueryResult, QueryableByName,
    migration::{Migration, MigrationSource},
    pg::Pg,
    sql_query,
    sql_types::{Array, Bool, Nullable, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use super::MIGRATIONS;
use crate::Schema;

/// The table that every version of this program has, and that no other program is likely to have.
const MARK: &str = "revocation_head";

/// The tables of the first migration. Where one of them is there before any migration ran, it is another program's.
const TABLES: [&str; 6] = [MARK, "api_keys", "audit_events", "idempotency_records", "key_counts", "replicas"];

/// The schema is not the one that this version knows.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A newer version of this program has migrated the database.
    #[error("the database's schema is newer than this version knows (migration {version}); run a newer version")]
    TooNew {
        /// A migration that this version does not know.
        version: String,
    },
    /// The database has not been migrated.
    #[error("the database's schema is older than this version needs (migration {version} is missing); migrate it")]
    TooOld {
        /// A migration that the database lacks.
        version: String,
    },
    /// The tables are another program's.
    #[error(
        "the schema {schema} holds a table {table} that is not this service's: give the service a schema of its own \
         (database_schema), or a database"
    )]
    Foreign {
        /// The schema.
        schema: Schema,
        /// A table of the other program.
        table: String,
    },
    /// The schema is empty, and another one holds the service's tables.
    #[error("the schema {schema} is empty, and the service's tables are in {found}: set database_schema to it")]
    Elsewhere {
        /// The schema that is set.
        schema: Schema,
        /// The schema that the connection's `search_path` finds the tables in.
        found: String,
    },
    /// It could not be told.
    #[error("the database's schema cannot be read")]
    Unreadable(#[source] Box<dyn Error + Send + Sync>),
}

/// What was found.
#[derive(Debug)]
pub(super) struct State {
    schema: Schema,
    schema_exists: bool,
    /// Those of [`TABLES`] that there are.
    tables: Vec<String>,
    /// The migrations that ran; `None` where there is no table of them.
    applied: Option<Vec<String>>,
    /// Where `search_path` finds [`MARK`], temporary tables left out.
    found: Option<String>,
    /// The migrations that this version knows, in their order.
    known: Vec<String>,
}

#[derive(QueryableByName)]
struct TablesRow {
    #[diesel(sql_type = Bool)]
    schema_exists: bool,
    #[diesel(sql_type = Array<Text>)]
    tables: Vec<String>,
    #[diesel(sql_type = Bool)]
    migrated: bool,
    #[diesel(sql_type = Nullable<Text>)]
    found: Option<String>,
}

#[derive(QueryableByName)]
struct VersionRow {
    #[diesel(sql_type = Text)]
    version: String,
}

const READ: &str = "WITH there AS ( \
         SELECT c.relname::text AS name FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 \
     ) \
     SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1) AS schema_exists, \
         ARRAY(SELECT name FROM there WHERE name = ANY ($2) ORDER BY name) AS tables, \
         EXISTS (SELECT FROM there WHERE name = '__diesel_schema_migrations') AS migrated, \
         (SELECT n.nspname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
          WHERE c.oid = pg_catalog.to_regclass($3)::oid AND c.relpersistence <> 't') AS found";

const VERSIONS: &str = "SELECT version::text AS version FROM $schema.__diesel_schema_migrations ORDER BY version";

/// Reads what the schema holds.
pub(super) async fn read(pg: &mut AsyncPgConnection, schema: &Schema) -> Result<State, SchemaError> {
    read_rows(pg, schema, known()?).await.map_err(|error| SchemaError::Unreadable(error.into()))
}

async fn read_rows(pg: &mut AsyncPgConnection, schema: &Schema, known: Vec<String>) -> QueryResult<State> {
    let row: TablesRow = sql_query(READ)
        .bind::<Text, _>(schema.as_str().to_owned())
        .bind::<Array<Text>, _>(TABLES.to_vec())
        .bind::<Text, _>(MARK)
        .get_result(pg)
        .await?;
    let TablesRow { schema_exists, tables, migrated, found } = row;
    let applied = if migrated {
        let rows: Vec<VersionRow> = sql_query(schema.named_in(VERSIONS)).load(pg).await?;
        Some(rows.into_iter().map(|row| row.version).collect())
    } else {
        None
    };
    Ok(State { schema: schema.clone(), schema_exists, tables, applied, found, known })
}

/// Succeeds where the schema is the one that this version knows.
pub(crate) async fn check(pg: &mut AsyncPgConnection, schema: &Schema) -> Result<(), SchemaError> {
    match read(pg, schema).await?.missing()? {
        Some(version) => Err(SchemaError::TooOld { version }),
        None => Ok(()),
    }
}

impl State {
    pub(super) fn schema_exists(&self) -> bool {
        self.schema_exists
    }

    /// Whether migrations are missing.
    pub(super) fn is_to_be_migrated(&self) -> Result<bool, SchemaError> {
        Ok(self.missing()?.is_some())
    }

    /// The first migration that is missing.
    fn missing(&self) -> Result<Option<String>, SchemaError> {
        let Self { schema, schema_exists: _, tables, applied, found, known } = self;
        let applied = applied.as_deref().unwrap_or_default();
        let foreign = |table: &str| SchemaError::Foreign { schema: schema.clone(), table: table.to_owned() };
        if applied.is_empty() {
            if let [table, ..] = tables.as_slice() {
                return Err(foreign(table));
            }
            if let Some(found) = found {
                return Err(SchemaError::Elsewhere { schema: schema.clone(), found: found.clone() });
            }
        } else if !tables.iter().any(|table| table == MARK) {
            return Err(foreign("__diesel_schema_migrations"));
        }
        if let Some(version) = first_missing(applied, known) {
            return Err(SchemaError::TooNew { version });
        }
        Ok(first_missing(known, applied))
    }
}

fn known() -> Result<Vec<String>, SchemaError> {
    let migrations: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().map_err(SchemaError::Unreadable)?;
    let mut versions: Vec<String> = migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// The first of `versions` that is not among `others`.
fn first_missing(versions: &[String], others: &[String]) -> Option<String> {
    versions.iter().find(|version| !others.contains(version)).cloned()
}
