//! Revoking a key, and confirming that one is revoked: one statement each, so one transaction and one round trip. A process
//! that stops half-way holds no lock, since there is no half-way.

use apikey_application::ports::{CommitError, Seq, StoreError};
use apikey_domain::{ApiKey, KeyId, OrganizationId};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};

use crate::{
    audit::{EventColumns, bind_events, insert_events},
    commit::Circumstances,
    failure::Failure,
    pool::Connections,
    prepared::{keep, statement},
    read,
    row::{IllegalRow, timeline, to_database},
};

#[derive(QueryableByName)]
struct RevokedRow {
    #[diesel(sql_type = Bool)]
    stands: bool,
    #[diesel(sql_type = Bool)]
    found: bool,
    #[diesel(sql_type = Bool)]
    fits: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    seq: Option<i64>,
    #[diesel(sql_type = Text)]
    timeline: String,
}

/// Locks the key (parameter 11, of the organization 12) and the authorizing key (9), in the order of their ids, against
/// everything, and looks at what they are once the locks are held: whoever waited sees the outcome of what it waited for. The
/// aggregates read every row, and so lock every row, before the first one is judged.
macro_rules! lock_and_judge {
    ($fits:expr) => {
        concat!(
            "WITH settings AS MATERIALIZED ( \
                 SELECT pg_catalog.set_config('lock_timeout', $8, true) AS applied \
             ), locked AS MATERIALIZED ( \
                 SELECT k.id, k.organization_id, k.revision, k.expires_at, k.revoked_at, k.narrowed_seq \
                 FROM settings, $schema.api_keys k \
                 WHERE settings.applied IS NOT NULL AND k.id = ANY (ARRAY[$11, $9]) \
                 ORDER BY k.id FOR UPDATE OF k \
             ), judged AS MATERIALIZED ( \
                 SELECT $9 IS NULL OR coalesce(pg_catalog.bool_or(id = $9 AND revoked_at IS NULL \
                         AND (expires_at IS NULL OR expires_at > $10)), false) AS stands, \
                     coalesce(pg_catalog.bool_or(id = $11 AND organization_id = $12), false) AS found, \
                     coalesce(pg_catalog.bool_or(id = $11 AND organization_id = $12 AND ",
            $fits,
            "), false) AS fits, \
                     pg_catalog.max(narrowed_seq) FILTER (WHERE id = $11) AS narrowed_seq \
                 FROM locked \
             ), agreed AS MATERIALIZED ( \
                 SELECT FROM judged WHERE stands AND found AND fits \
             )"
        )
    };
}

/// The key's row is locked first and the head's row last, since each part waits for the one before it: the lock on the head is
/// held for no longer than the commit, and makes the order of commits that of the numbers. The message to whoever listens is
/// a hint, sent with the commit.
const REVOKE: &str = concat!(
    lock_and_judge!("revision = $13 - 1"),
    ", audited AS (",
    insert_events!("agreed"),
    " RETURNING 1), counted AS MATERIALIZED ( \
         SELECT pg_catalog.count(*) AS events FROM audited \
     ), head AS ( \
         UPDATE $schema.revocation_head SET seq = seq + 1 FROM agreed, counted WHERE counted.events >= 0 RETURNING seq \
     ), narrowed AS ( \
         UPDATE $schema.api_keys k SET revoked_at = $14, revision = $13, narrowed_seq = head.seq FROM head WHERE k.id = $11 \
         RETURNING k.narrowed_seq, pg_catalog.pg_notify('apikeys_revocation', k.narrowed_seq::text) \
     ) \
     SELECT judged.stands, judged.found, judged.fits, (SELECT narrowed_seq FROM narrowed) AS seq, ",
    timeline!(),
    " AS timeline FROM judged"
);

pub(crate) async fn revoke(
    connections: &Connections,
    key: &ApiKey,
    circumstances: Circumstances<'_>,
) -> Result<Seq, CommitError> {
    let Circumstances { lock_timeout, events, on_behalf_of, now } = circumstances;
    let parts = key.parts();
    let revoked_at = parts.revoked_at.ok_or_else(|| StoreError::Defect("the key is not revoked".into()))?;
    let statement = bind_events!(statement(connections.schema(), REVOKE), EventColumns::of(events))
        .bind::<Text, _>(lock_timeout.to_owned())
        .bind::<Nullable<SqlUuid>, _>(on_behalf_of.map(|id| *id.as_uuid()))
        .bind::<Timestamptz, _>(to_database(now))
        .bind::<SqlUuid, _>(*parts.id.as_uuid())
        .bind::<Text, _>(parts.organization_id.as_str().to_owned())
        .bind::<Integer, _>(i32::try_from(parts.revision).map_err(|_| StoreError::from(IllegalRow::Number))?)
        .bind::<Timestamptz, _>(to_database(revoked_at));
    let rows: Vec<RevokedRow> = connections.change(keep(statement)).await.map_err(Failure::into_store_error)?;
    outcome(rows, CommitError::StaleRevision)
}

/// Nothing is changed, but the locks are written to the log: the commit waits for the standby as the revocation's own did.
const CONFIRM: &str = concat!(
    lock_and_judge!("revoked_at IS NOT NULL"),
    ", audited AS (",
    insert_events!("agreed"),
    ") SELECT stands, found, fits, narrowed_seq AS seq, ",
    timeline!(),
    " AS timeline FROM judged"
);

pub(crate) async fn confirm(
    connections: &Connections,
    organization_id: &OrganizationId,
    key_id: KeyId,
    circumstances: Circumstances<'_>,
) -> Result<Seq, CommitError> {
    let Circumstances { lock_timeout, events, on_behalf_of, now } = circumstances;
    let statement = bind_events!(statement(connections.schema(), CONFIRM), EventColumns::of(events))
        .bind::<Text, _>(lock_timeout.to_owned())
        .bind::<Nullable<SqlUuid>, _>(on_behalf_of.map(|id| *id.as_uuid()))
        .bind::<Timestamptz, _>(to_database(now))
        .bind::<SqlUuid, _>(*key_id.as_uuid())
        .bind::<Text, _>(organization_id.as_str().to_owned());
    let rows: Vec<RevokedRow> = connections.change(keep(statement)).await.map_err(Failure::into_store_error)?;
    outcome(rows, CommitError::NotFound)
}

fn outcome(rows: Vec<RevokedRow>, unfit: CommitError) -> Result<Seq, CommitError> {
    let RevokedRow { stands, found, fits, seq, timeline } = read::one(rows).map_err(StoreError::from)?;
    if !stands {
        Err(CommitError::AuthorizerNotStanding)
    } else if !found {
        Err(CommitError::NotFound)
    } else if !fits {
        Err(unfit)
    } else {
        let seq = seq.ok_or_else(|| StoreError::Defect("a revoked key has no number".into()))?;
        Ok(read::to_seq(seq, &timeline).map_err(StoreError::from)?)
    }
}
