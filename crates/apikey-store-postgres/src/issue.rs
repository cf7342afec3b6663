//! Issuing a key: one statement, so one transaction and one round trip.

use apikey_application::{
    Idempotency,
    ports::{CommitError, Seq, StoreError},
};
use apikey_domain::{ApiKey, ApiKeyParts};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Bool, Bytea, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid},
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
struct IssuedRow {
    #[diesel(sql_type = Bool)]
    stands: bool,
    #[diesel(sql_type = Bool)]
    room: bool,
    #[diesel(sql_type = Bool)]
    added: bool,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Text)]
    timeline: String,
}

/// Each part waits for the one before it, and does nothing where that one refused:
///
/// 1. the authorizing key is locked against its revocation (not against a note of its use, which leaves the row's key alone);
///    whoever waited for a revocation sees its outcome;
/// 2. where there is a limit, the organization's live keys are counted up to it, as the statement's snapshot shows them: creations that
///    run at the same time do not see each other, and need not wait for each other;
/// 3. the idempotency key, where there is one, is claimed; whoever waited for another claim sees its outcome;
/// 4. the key is added; 5. its events and its count follow. The counter is locked last, and for no longer than the commit. Any of
///    the count's 16 parts would do (the schema's `key_counts_shard_check`): the number of the server's own process makes
///    connections rarely wait for each other.
macro_rules! issue_statement {
    (claim: $claim:expr, granted: $granted:expr) => {
        concat!(
            "WITH settings AS MATERIALIZED ( \
                 SELECT pg_catalog.set_config('lock_timeout', $8, true) AS applied \
             ), authorizer AS MATERIALIZED ( \
                 SELECT k.id FROM settings, $schema.api_keys k \
                 WHERE settings.applied IS NOT NULL AND k.id = $9 \
                     AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $10) \
                 FOR KEY SHARE OF k \
             ), authorized AS MATERIALIZED ( \
                 SELECT settings.applied IS NOT NULL AND ($9 IS NULL OR EXISTS (SELECT FROM authorizer)) AS stands \
                 FROM settings \
             ), allowed AS MATERIALIZED ( \
                 SELECT stands, CASE WHEN stands AND $22 IS NOT NULL THEN ( \
                     SELECT pg_catalog.count(*) < $22 FROM ( \
                         SELECT FROM $schema.api_keys k WHERE k.organization_id = $12 AND k.revoked_at IS NULL \
                             AND (k.expires_at IS NULL OR k.expires_at > $10) LIMIT $22 \
                     ) AS live \
                 ) ELSE stands END AS room FROM authorized \
             ), ",
            $claim,
            "added AS ( \
                 INSERT INTO $schema.api_keys (id, organization_id, name, prefix, digest, key_type, permissions, \
                     created_at, expires_at, revoked_at, last_used_at, revision, narrowed_seq) \
                 SELECT $11, $12, $13, $14, $15, $16, $17, $18, $19, NULL, $20, $21, NULL FROM allowed WHERE room",
            $granted,
            " RETURNING 1 \
             ), audited AS (",
            insert_events!("added"),
            "), counted AS ( \
                 INSERT INTO $schema.key_counts AS c (organization_id, key_type, shard, keys) \
                 SELECT $12, $16, pg_catalog.pg_backend_pid() % 16, 1 FROM added \
                 ON CONFLICT ON CONSTRAINT key_counts_pkey DO UPDATE SET keys = c.keys + 1 \
             ) \
             SELECT allowed.stands, allowed.room, EXISTS (SELECT FROM added) AS added, h.seq, ",
            timeline!(),
            " AS timeline FROM allowed, $schema.revocation_head h"
        )
    };
}

const ISSUE: &str = issue_statement!(claim: "", granted: "");

const ISSUE_ONCE: &str = issue_statement!(
    claim: "claimed AS ( \
         INSERT INTO $schema.idempotency_records (organization_id, actor, idempotency_key, request_digest, key_id, created_at) \
         SELECT $23, $24, $25, $26, $11, $10 FROM allowed WHERE room \
         ON CONFLICT DO NOTHING RETURNING 1 \
     ), ",
    granted: " AND EXISTS (SELECT FROM claimed)"
);

pub(crate) async fn issue(
    connections: &Connections,
    key: ApiKey,
    idempotency: Option<Idempotency>,
    most_live: Option<u32>,
    circumstances: Circumstances<'_>,
) -> Result<Seq, CommitError> {
    let Circumstances { lock_timeout, events, on_behalf_of, now } = circumstances;
    let ApiKeyParts {
        id,
        organization_id,
        name,
        prefix,
        digest,
        key_type,
        permissions,
        created_at,
        expires_at,
        revoked_at,
        last_used_at,
        revision,
    } = key.into_parts();
    if revoked_at.is_some() {
        return Err(StoreError::Defect("a key is issued before it is revoked".into()).into());
    }
    let permissions: Vec<String> = permissions.iter().map(|permission| permission.as_str().to_owned()).collect();
    let sql = if idempotency.is_some() { ISSUE_ONCE } else { ISSUE };
    let statement = bind_events!(statement(connections.schema(), sql), EventColumns::of(events))
        .bind::<Text, _>(lock_timeout.to_owned())
        .bind::<Nullable<SqlUuid>, _>(on_behalf_of.map(|id| *id.as_uuid()))
        .bind::<Timestamptz, _>(to_database(now))
        .bind::<SqlUuid, _>(*id.as_uuid())
        .bind::<Text, _>(organization_id.as_str().to_owned())
        .bind::<Text, _>(name.as_str().to_owned())
        .bind::<Text, _>(prefix.as_str().to_owned())
        .bind::<Bytea, _>(digest.as_bytes().to_vec())
        .bind::<Text, _>(key_type.name().to_owned())
        .bind::<Array<Text>, _>(permissions)
        .bind::<Timestamptz, _>(to_database(created_at))
        .bind::<Nullable<Timestamptz>, _>(expires_at.map(to_database))
        .bind::<Nullable<Timestamptz>, _>(last_used_at.map(to_database))
        .bind::<Integer, _>(i32::try_from(revision).map_err(|_| StoreError::from(IllegalRow::Number))?)
        .bind::<Nullable<BigInt>, _>(most_live.map(i64::from));
    let issued: Result<Vec<IssuedRow>, Failure> = match &idempotency {
        None => connections.change(keep(statement)).await,
        Some(claim) => {
            let statement = statement
                .bind::<Text, _>(claim.organization_id.to_string())
                .bind::<Text, _>(claim.actor.to_string())
                .bind::<Text, _>(claim.key.as_str().to_owned())
                .bind::<Bytea, _>(claim.request.as_bytes().to_vec());
            connections.change(keep(statement)).await
        }
    };
    let rows = match issued {
        Ok(rows) => rows,
        Err(Failure::NotUnique(constraint)) => {
            // Of two constraints that a key breaks, PostgreSQL names whichever it checks first.
            let duplicate = constraint == "api_keys_digest_key"
                || constraint == "api_keys_pkey" && read::find_by_digest(connections, &digest).await?.value.is_some();
            return Err(if duplicate {
                CommitError::DuplicateDigest
            } else {
                Failure::NotUnique(constraint).into_store_error().into()
            });
        }
        Err(Failure::Store(error)) => return Err(error.into()),
    };
    let IssuedRow { stands, room, added, seq, timeline } = read::one(rows).map_err(StoreError::from)?;
    if !stands {
        return Err(CommitError::AuthorizerNotStanding);
    }
    if added {
        return Ok(read::to_seq(seq, &timeline).map_err(StoreError::from)?);
    }
    // A claim that was not granted, or no room. The record that the claim met, or would have met, is committed: it can be read by now.
    let stored = match &idempotency {
        Some(Idempotency { organization_id, actor, key, request: _ }) => {
            read::find_idempotency(connections, organization_id, actor, key).await?
        }
        None => None,
    };
    match stored {
        Some(stored) => Err(CommitError::IdempotencyKeyUsed(stored)),
        None if !room => Err(CommitError::TooManyKeys),
        None => Err(unexplained().into()),
    }
}

fn unexplained() -> StoreError {
    StoreError::Defect("a key was not added, and nothing refused it".into())
}
