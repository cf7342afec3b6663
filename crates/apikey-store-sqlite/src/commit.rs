//! What is written: each function is one transaction.

use apikey_application::{
    Idempotency,
    ports::{Change, Commit, CommitError, Seq, Use},
};
use apikey_domain::{ApiKey, AuditEvent, KeyEvent, KeyId, OrganizationId, Origin, Timestamp};
use diesel::prelude::*;

use crate::{
    connections::write,
    error::Failure,
    read::{find_by_id, find_idempotency, head, seq},
    rows::{KeyRow, id_bytes},
    schema::{api_keys, audit_events, idempotency_records, key_counts, revocation_head},
};

/// Applies a unit of work.
pub(crate) fn apply(connection: &mut SqliteConnection, commit: Commit) -> Result<Seq, Failure> {
    let Commit { change, events, on_behalf_of, now } = commit;
    write(connection, |connection| {
        if let Some(key_id) = on_behalf_of {
            authorize(connection, key_id, now)?;
        }
        match change {
            Change::Issue { key, idempotency, most_live } => {
                issue(connection, key, idempotency, most_live, now)?;
                record_events(connection, &events)?;
                head(connection)
            }
            Change::Revoke { key } => {
                expect_revision(connection, &key)?;
                record_events(connection, &events)?;
                revoke(connection, &key)
            }
            Change::ConfirmRevoked { organization_id, key_id, digest: _ } => {
                record_events(connection, &events)?;
                confirm(connection, &organization_id, key_id)
            }
        }
    })
}

/// Nothing commits in the name of a key that no longer stands. The transaction is the only writer, so that it stays so.
fn authorize(connection: &mut SqliteConnection, key_id: KeyId, now: Timestamp) -> Result<(), Failure> {
    let row: Option<KeyRow> =
        api_keys::table.find(id_bytes(&key_id)).select(KeyRow::as_select()).first(connection).optional()?;
    let stands = row.map(ApiKey::try_from).transpose()?.is_some_and(|key| key.stands(now));
    if stands { Ok(()) } else { Err(CommitError::AuthorizerNotStanding.into()) }
}

fn issue(
    connection: &mut SqliteConnection,
    key: ApiKey,
    idempotency: Option<Idempotency>,
    most_live: Option<u32>,
    now: Timestamp,
) -> Result<(), Failure> {
    let key_id = key.id();
    if let Some(Idempotency { organization_id, actor, key, request: _ }) = &idempotency
        && let Some(used) = find_idempotency(connection, organization_id, &actor.to_string(), key)?
    {
        return Err(CommitError::IdempotencyKeyUsed(used).into());
    }
    if let Some(most) = most_live
        && live_keys(connection, key.organization_id(), most, now)? >= u64::from(most)
    {
        return Err(CommitError::TooManyKeys.into());
    }
    let (organization_id, key_type) = (key.organization_id().clone(), key.parts().key_type.name());
    let inserted = diesel::insert_into(api_keys::table)
        .values(KeyRow::from(key))
        .on_conflict(api_keys::digest)
        .do_nothing()
        .execute(connection)?;
    if inserted == 0 {
        return Err(CommitError::DuplicateDigest.into());
    }
    diesel::insert_into(key_counts::table)
        .values((
            key_counts::organization_id.eq(organization_id.as_str()),
            key_counts::key_type.eq(key_type),
            key_counts::shard.eq(0),
            key_counts::keys.eq(1),
        ))
        .on_conflict((key_counts::organization_id, key_counts::key_type, key_counts::shard))
        .do_update()
        .set(key_counts::keys.eq(key_counts::keys + 1))
        .execute(connection)?;
    if let Some(Idempotency { organization_id, actor, key, request }) = idempotency {
        diesel::insert_into(idempotency_records::table)
            .values((
                idempotency_records::organization_id.eq(organization_id.as_str()),
                idempotency_records::actor.eq(actor.to_string()),
                idempotency_records::idempotency_key.eq(key.as_str()),
                idempotency_records::request_digest.eq(request.as_bytes().as_slice()),
                idempotency_records::key_id.eq(id_bytes(&key_id)),
                idempotency_records::created_at.eq(now.unix_micros()),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// How many keys of that organization are neither revoked nor expired; no more are counted than are asked about.
fn live_keys(
    connection: &mut SqliteConnection,
    organization_id: &OrganizationId,
    most: u32,
    now: Timestamp,
) -> Result<u64, Failure> {
    let live: Vec<Vec<u8>> = api_keys::table
        .filter(api_keys::organization_id.eq(organization_id.as_str()))
        .filter(api_keys::revoked_at.is_null())
        .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.gt(now.unix_micros())))
        .select(api_keys::id)
        .limit(i64::from(most))
        .load(connection)?;
    Ok(live.len() as u64)
}

/// The stored key must be the one that the change was made from.
fn expect_revision(connection: &mut SqliteConnection, changed: &ApiKey) -> Result<(), Failure> {
    let stored = find_by_id(connection, changed.organization_id(), changed.id())?.value.ok_or(CommitError::NotFound)?;
    if stored.parts().revision.checked_add(1) == Some(changed.parts().revision) {
        Ok(())
    } else {
        Err(CommitError::StaleRevision.into())
    }
}

/// Stores the revocation alone: the use of the key, say, may have been recorded since it was read.
fn revoke(connection: &mut SqliteConnection, key: &ApiKey) -> Result<Seq, Failure> {
    let number: i64 = diesel::update(revocation_head::table)
        .set(revocation_head::seq.eq(revocation_head::seq + 1))
        .returning(revocation_head::seq)
        .get_result(connection)?;
    diesel::update(api_keys::table.find(id_bytes(&key.id())))
        .set((
            api_keys::revoked_at.eq(key.parts().revoked_at.map(Timestamp::unix_micros)),
            api_keys::revision.eq(i64::from(key.parts().revision)),
            api_keys::narrowed_seq.eq(number),
        ))
        .execute(connection)?;
    seq(number)
}

fn confirm(connection: &mut SqliteConnection, organization_id: &OrganizationId, key_id: KeyId) -> Result<Seq, Failure> {
    let number: Option<Option<i64>> = api_keys::table
        .filter(api_keys::id.eq(id_bytes(&key_id)))
        .filter(api_keys::organization_id.eq(organization_id.as_str()))
        .filter(api_keys::revoked_at.is_not_null())
        .select(api_keys::narrowed_seq)
        .first(connection)
        .optional()?;
    seq(number.flatten().ok_or(CommitError::NotFound)?)
}

fn record_events(connection: &mut SqliteConnection, events: &[AuditEvent]) -> Result<(), Failure> {
    for AuditEvent { event, actor, origin } in events {
        let KeyEvent { key_id, organization_id, kind, at } = event;
        let Origin { address, request_id } = origin;
        diesel::insert_into(audit_events::table)
            .values((
                audit_events::organization_id.eq(organization_id.as_str()),
                audit_events::key_id.eq(id_bytes(key_id)),
                audit_events::kind.eq(kind.name()),
                audit_events::actor.eq(actor.to_string()),
                audit_events::origin_address.eq(address.as_deref()),
                audit_events::origin_request_id.eq(request_id.as_deref()),
                audit_events::at.eq(at.unix_micros()),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// Records a batch of uses in one transaction, so with one fsync. A use that is not later than the recorded one changes nothing.
pub(crate) fn record_uses(connection: &mut SqliteConnection, uses: &[Use]) -> Result<(), Failure> {
    write(connection, |connection| {
        for Use { key_id, at } in uses {
            let at = at.unix_micros();
            diesel::update(api_keys::table.find(id_bytes(key_id)))
                .filter(api_keys::last_used_at.is_null().or(api_keys::last_used_at.lt(at)))
                .set(api_keys::last_used_at.eq(at))
                .execute(connection)?;
        }
        Ok(())
    })
}
