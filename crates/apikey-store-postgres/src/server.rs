//! What the service relies on of the server and the database beyond the schema: checked when the store is opened, or set for
//! each session. Knows no table.

use std::error::Error;

use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Bool, Integer, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};

/// The oldest version that is supported, as `server_version_num` writes it.
const OLDEST: i32 = 150_000;

/// Connections that each replica needs besides those of calls: one renews the lease, one watches the other replicas.
const RESERVED: i32 = 2;

/// The server or the database is not what the service can work with.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The server is too old.
    #[error("PostgreSQL 15 or newer is needed, and the server is version {major}")]
    Version {
        /// Its major version.
        major: i32,
    },
    /// Not every name can be stored.
    #[error("the database's encoding is {encoding}, and must be UTF8: create the database with ENCODING 'UTF8'")]
    Encoding {
        /// The database's encoding.
        encoding: String,
    },
    /// The server replicates another one, and takes no changes.
    #[error(
        "the server is a standby, which takes no changes; with several hosts in the URL, target_session_attrs=read-write finds the primary"
    )]
    Standby,
    /// Changes are switched off by a default of the role, the database or the server.
    #[error("default_transaction_read_only is on for this role or database, so that nothing can be changed")]
    ReadOnly,
    /// The server grants fewer connections than one replica needs.
    #[error("the server grants this role {granted} connections ({limit}), and a replica needs at least {needed}")]
    Connections {
        /// How many there may be.
        granted: i32,
        /// Which limit says so.
        limit: &'static str,
        /// How many a replica needs.
        needed: i32,
    },
    /// It could not be told.
    #[error("PostgreSQL's settings cannot be read")]
    Unreadable(#[source] Box<dyn Error + Send + Sync>),
}

impl ServerError {
    /// Whether the same server may be fit later without anybody changing a setting: a standby may be promoted.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Standby)
    }
}

/// Sets what statements rely on where a default of the server, the database or the role says otherwise; elsewhere a session
/// stays as it is, since a proxy may lend it to others. `READ COMMITTED` is what makes a statement that waited for a lock see
/// what it waited for; at higher levels it fails instead.
const SESSION: &str = "SELECT pg_catalog.set_config(name, wanted, false) \
     FROM (VALUES ('default_transaction_isolation', 'read committed'), ('standard_conforming_strings', 'on')) \
         AS settings (name, wanted) \
     WHERE pg_catalog.current_setting(name) <> wanted";

/// Prepares a new session.
pub(crate) async fn prepare_session(pg: &mut AsyncPgConnection) -> QueryResult<()> {
    pg.batch_execute(SESSION).await
}

#[derive(QueryableByName)]
struct ServerRow {
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Text)]
    encoding: String,
    #[diesel(sql_type = Bool)]
    standby: bool,
    #[diesel(sql_type = Bool)]
    read_only: bool,
    #[diesel(sql_type = Text)]
    isolation: String,
    #[diesel(sql_type = Integer)]
    of_role: i32,
    #[diesel(sql_type = Integer)]
    of_database: i32,
    #[diesel(sql_type = Integer)]
    of_server: i32,
}

/// `reset_val` is what a session has that sets nothing itself. A limit of -1 is none, and none applies to superusers.
const SERVER: &str = "SELECT pg_catalog.current_setting('server_version_num')::integer AS version, \
         pg_catalog.current_setting('server_encoding') AS encoding, \
         pg_catalog.pg_is_in_recovery() AS standby, \
         pg_catalog.current_setting('default_transaction_read_only')::boolean AS read_only, \
         (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'default_transaction_isolation') AS isolation, \
         CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END AS of_role, \
         CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END AS of_database, \
         (SELECT pg_catalog.sum(CASE name WHEN 'max_connections' THEN setting::integer ELSE -setting::integer END)::integer \
          FROM pg_catalog.pg_settings \
          WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')) AS of_server \
     FROM pg_catalog.pg_roles r, pg_catalog.pg_database d \
     WHERE r.rolname = current_user AND d.datname = pg_catalog.current_database()";

/// Refuses a server or a database that the service cannot work with, and logs how many connections the server grants to a replica
/// that may open `pool` of them for calls.
///
/// # Errors
/// [`ServerError`].
pub(crate) async fn check(pg: &mut AsyncPgConnection) -> Result<Granted, ServerError> {
    let rows: Vec<ServerRow> =
        sql_query(SERVER).load(pg).await.map_err(|error| ServerError::Unreadable(error.into()))?;
    let row = rows.into_iter().next().ok_or_else(|| ServerError::Unreadable("the role is unknown".into()))?;
    let ServerRow { version, encoding, standby, read_only, isolation, of_role, of_database, of_server } = row;
    if version < OLDEST {
        return Err(ServerError::Version { major: version / 10_000 });
    }
    if encoding != "UTF8" {
        return Err(ServerError::Encoding { encoding });
    }
    if standby {
        return Err(ServerError::Standby);
    }
    if read_only {
        return Err(ServerError::ReadOnly);
    }
    if isolation != "read committed" {
        tracing::info!(
            default_transaction_isolation = isolation,
            "each connection asks for READ COMMITTED; behind a proxy that lends connections per transaction, set it for the role"
        );
    }
    let limits = [
        (of_role, "its CONNECTION LIMIT"),
        (of_database, "the database's CONNECTION LIMIT"),
        (of_server, "max_connections"),
    ];
    let least = limits.into_iter().filter(|(granted, _)| *granted >= 0).min();
    let (granted, limit) = least.unwrap_or((of_server, "max_connections"));
    Ok(Granted { granted, limit })
}

/// How many connections the server grants this role, all replicas together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    granted: i32,
    limit: &'static str,
}

impl Granted {
    /// Says how many connections the server grants to a replica that may open `pool` of them for calls.
    ///
    /// # Errors
    /// [`ServerError::Connections`] if one replica alone cannot work with that.
    pub(crate) fn suffices_for(self, pool: usize) -> Result<(), ServerError> {
        let Self { granted, limit } = self;
        let (needed, wanted) = (RESERVED + 1, i32::try_from(pool).unwrap_or(i32::MAX).saturating_add(RESERVED));
        if granted < needed {
            return Err(ServerError::Connections { granted, limit, needed });
        }
        if granted < wanted {
            tracing::warn!(
                granted,
                limit,
                wanted,
                "PostgreSQL grants fewer connections than this replica may open: calls wait for those that there are"
            );
        } else {
            tracing::info!(granted, limit, wanted, "PostgreSQL grants connections to all replicas together");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_needs_a_connection_for_calls_besides_the_two_of_the_lease() {
        for (granted, enough) in [(0, false), (2, false), (3, true), (500, true)] {
            let answer = Granted { granted, limit: "a test's" }.suffices_for(16);
            assert_eq!(answer.is_ok(), enough, "{granted}");
        }
    }
}
