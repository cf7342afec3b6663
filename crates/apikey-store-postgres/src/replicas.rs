//! The statements on the replicas' rows. Knows no connection.

use std::time::Duration;

use apikey_application::{
    fence::{Lease, ReplicaId, ReplicaRow},
    ports::{Read, Renewal, Seq},
};
use apikey_domain::KeyDigest;
use diesel::{
    QueryableByName,
    pg::data_types::PgTimestamp,
    sql_types::{Array, BigInt, Bytea, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use uuid::Uuid;

use crate::{
    read::{one, to_seq},
    row::{IllegalRow, from_database, timeline},
};

/// The parameters are the replica's id and its lease. The head is read by the same statement, without a lock: a revocation
/// that this snapshot does not show is told to the replica by its renewals.
pub(crate) const JOIN: &str = concat!(
    "INSERT INTO $schema.replicas (id, acked_seq, renewals, lease_millis) \
     SELECT $1, h.seq, 0, $2 FROM $schema.revocation_head h \
     RETURNING acked_seq AS seq, ",
    timeline!(),
    " AS timeline"
);

#[derive(QueryableByName)]
pub(crate) struct JoinedRow {
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Text)]
    timeline: String,
}

impl JoinedRow {
    pub(crate) fn head_of(rows: Vec<Self>) -> Result<Seq, IllegalRow> {
        let Self { seq, timeline } = one(rows)?;
        to_seq(seq, &timeline)
    }
}

/// The parameters are the replica's id, what it has applied, this renewal's number, and that of the last one whose answer is
/// known: a row that lacks it is of another history. A renewal that was given up may come late; it changes nothing then. Head
/// and digests are read by subqueries of the statement
/// itself, so in its one snapshot, however long the row was waited for: a revocation is either among the digests or above the
/// head.
pub(crate) const RENEW: &str = concat!(
    "UPDATE $schema.replicas SET acked_seq = $2, renewals = $3 WHERE id = $1 AND renewals >= $4 AND renewals < $3 \
     RETURNING (SELECT seq FROM $schema.revocation_head) AS seq, ",
    timeline!(),
    " AS timeline, \
     ARRAY(SELECT digest FROM $schema.api_keys WHERE narrowed_seq > $2) AS revoked, \
     pg_catalog.statement_timestamp() AS now"
);

#[derive(QueryableByName)]
pub(crate) struct RenewedRow {
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Text)]
    timeline: String,
    #[diesel(sql_type = Array<Bytea>)]
    revoked: Vec<Vec<u8>>,
    #[diesel(sql_type = Timestamptz)]
    now: PgTimestamp,
}

impl RenewedRow {
    pub(crate) fn into_renewal(self) -> Result<Renewal, IllegalRow> {
        let Self { seq, timeline, revoked, now } = self;
        let digests = revoked.into_iter().map(|digest| digest.try_into().map(KeyDigest::from_bytes));
        Ok(Renewal {
            head: to_seq(seq, &timeline)?,
            revoked: digests.collect::<Result<_, _>>().map_err(|_| IllegalRow::Digest)?,
            now: from_database(now)?,
        })
    }
}

/// Whether there is a row that was not renewed.
pub(crate) const IS_MEMBER: &str = "SELECT id FROM $schema.replicas WHERE id = $1";

/// From the head on, so that there is a head also where there is no replica: one row of nulls.
pub(crate) const REPLICAS: &str = concat!(
    "SELECT h.seq, ",
    timeline!(),
    " AS timeline, r.id, r.acked_seq, r.renewals, r.lease_millis \
     FROM $schema.revocation_head h LEFT JOIN $schema.replicas r ON true"
);

#[derive(QueryableByName)]
pub(crate) struct JoinedReplicaRow {
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Text)]
    timeline: String,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    id: Option<Uuid>,
    #[diesel(sql_type = Nullable<BigInt>)]
    acked_seq: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    renewals: Option<i64>,
    #[diesel(sql_type = Nullable<Integer>)]
    lease_millis: Option<i32>,
}

impl JoinedReplicaRow {
    pub(crate) fn read_of(rows: Vec<Self>) -> Result<Read<Vec<ReplicaRow>>, IllegalRow> {
        let first = rows.first().ok_or(IllegalRow::Rows)?;
        let seq = to_seq(first.seq, &first.timeline)?;
        let value = rows.into_iter().filter_map(|row| row.into_replica().transpose()).collect::<Result<_, _>>()?;
        Ok(Read { value, seq })
    }

    fn into_replica(self) -> Result<Option<ReplicaRow>, IllegalRow> {
        let Self { seq: _, timeline: _, id, acked_seq, renewals, lease_millis } = self;
        let (Some(id), Some(acked), Some(renewals), Some(lease)) = (id, acked_seq, renewals, lease_millis) else {
            return Ok(None);
        };
        let number = |number: i64| u64::try_from(number).map_err(|_| IllegalRow::Number);
        let lease = u64::try_from(lease).map_err(|_| IllegalRow::Number)?;
        Ok(Some(ReplicaRow {
            id: ReplicaId::from_uuid(id),
            acked: number(acked)?,
            renewals: number(renewals)?,
            lease: Lease::new(Duration::from_millis(lease))?,
        }))
    }
}

/// The parameters are the replica's id and its renewals as they were watched. A row that is locked is being renewed, or reaped
/// by somebody else: it is passed over, so that nobody who watches waits for a statement that was given up.
pub(crate) const REAP: &str = "WITH silent AS MATERIALIZED ( \
         SELECT id FROM $schema.replicas WHERE id = $1 AND renewals = $2 FOR UPDATE SKIP LOCKED \
     ) \
     DELETE FROM $schema.replicas r USING silent WHERE r.id = silent.id AND r.renewals = $2 RETURNING r.id";

/// The parameters are the time limit for locks and the replica's id. Whoever has dropped a lease may have a renewal under way
/// that was given up.
pub(crate) const LEAVE: &str = "WITH settings AS MATERIALIZED ( \
         SELECT pg_catalog.set_config('lock_timeout', $1, true) AS applied \
     ) \
     DELETE FROM $schema.replicas r USING settings WHERE settings.applied IS NOT NULL AND r.id = $2 RETURNING r.id";

#[derive(QueryableByName)]
pub(crate) struct MemberRow {
    #[diesel(sql_type = SqlUuid)]
    #[expect(dead_code, reason = "that there is a row is the answer")]
    id: Uuid,
}

/// Rounded up: nobody may wait for less than the lease can last.
pub(crate) fn to_millis(lease: Lease) -> Result<i32, IllegalRow> {
    i32::try_from(lease.length().as_nanos().div_ceil(1_000_000)).map_err(|_| IllegalRow::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_never_stored_shorter_than_it_is() {
        for (nanos, millis) in [(1_000_000_000, 1_000), (1_000_000_001, 1_001), (2_999_999_999, 3_000)] {
            assert_eq!(to_millis(Lease::new(Duration::from_nanos(nanos)).unwrap()).unwrap(), millis);
        }
        assert_eq!(to_millis(Lease::MAX).unwrap(), 60_000);
    }
}
