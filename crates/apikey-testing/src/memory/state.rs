//! What the fake holds, and the unit of work on it. Knows no faults and no futures.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use apikey_application::{
    IdempotencyKey,
    ports::{Change, Commit, CommitError, Page, PageQuery, Position, Seq, StoreError, StoredIdempotency, Use},
};
use apikey_domain::{Actor, ApiKey, AuditEvent, KeyDigest, KeyId, KeyType, OrganizationId, Timestamp};

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) keys: BTreeMap<KeyId, Record>,
    pub(super) counts: HashMap<(OrganizationId, KeyType), u64>,
    pub(super) audit: Vec<AuditEvent>,
    pub(super) idempotency: HashMap<(OrganizationId, Actor, IdempotencyKey), StoredIdempotency>,
    pub(super) head: u64,
    pub(super) audit_is_broken: bool,
    digests: HashMap<KeyDigest, KeyId>,
    /// Each organization's keys in the order of a listing.
    listings: HashMap<OrganizationId, BTreeMap<Reverse<(i64, KeyId)>, KeyType>>,
}

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) key: ApiKey,
    pub(super) narrowed_seq: Option<u64>,
}

impl State {
    pub(super) fn head(&self) -> Seq {
        seq(self.head)
    }

    pub(super) fn find_by_digest(&self, digest: &KeyDigest) -> Option<&ApiKey> {
        self.digests.get(digest).and_then(|id| self.keys.get(id)).map(|record| &record.key)
    }

    pub(super) fn find_by_id(&self, organization_id: &OrganizationId, key_id: KeyId) -> Option<&Record> {
        self.keys.get(&key_id).filter(|record| record.key.organization_id() == organization_id)
    }

    pub(super) fn find_idempotency(
        &self,
        organization_id: &OrganizationId,
        actor: &Actor,
        key: &IdempotencyKey,
    ) -> Option<StoredIdempotency> {
        self.idempotency.get(&(organization_id.clone(), actor.clone(), key.clone())).copied()
    }

    pub(super) fn page(&self, query: &PageQuery) -> Page {
        let PageQuery { organization_id, key_type, after, limit } = query;
        let selected = |of: KeyType| key_type.is_none_or(|wanted| wanted == of);
        let after = after.map(|Position { created_at, id }| Reverse((created_at.unix_micros(), id)));
        let mut found: Vec<KeyId> = self
            .listings
            .get(organization_id)
            .into_iter()
            .flatten()
            .filter(|(place, of)| selected(**of) && after.as_ref().is_none_or(|after| *place > after))
            .map(|(Reverse((_, id)), _)| *id)
            .take(*limit as usize + 1)
            .collect();
        let more = found.len() > *limit as usize;
        found.truncate(*limit as usize);
        let total_count = KeyType::ALL
            .into_iter()
            .filter(|of| selected(*of))
            .filter_map(|of| self.counts.get(&(organization_id.clone(), of)))
            .sum();
        Page { keys: found.iter().map(|id| self.keys[id].key.clone()).collect(), more, total_count }
    }

    pub(super) fn record_uses(&mut self, uses: &[Use]) {
        for Use { key_id, at } in uses {
            if let Some(record) = self.keys.get_mut(key_id) {
                let mut parts = record.key.parts().clone();
                parts.last_used_at = parts.last_used_at.max(Some(*at));
                record.key = legal(parts);
            }
        }
    }

    /// How many keys of that organization stand.
    fn live(&self, organization_id: &OrganizationId, now: Timestamp) -> usize {
        let of_organization = self.keys.values().filter(|record| record.key.organization_id() == organization_id);
        of_organization.filter(|record| record.key.stands(now)).count()
    }

    pub(super) fn put(&mut self, key: ApiKey) {
        let parts = key.parts();
        self.digests.insert(parts.digest, parts.id);
        *self.counts.entry((parts.organization_id.clone(), parts.key_type)).or_default() += 1;
        self.listings
            .entry(parts.organization_id.clone())
            .or_default()
            .insert(Reverse((parts.created_at.unix_micros(), parts.id)), parts.key_type);
        let narrowed_seq = parts.revoked_at.map(|_| {
            self.head += 1;
            self.head
        });
        self.keys.insert(key.id(), Record { key, narrowed_seq });
    }

    /// Applies all of it or nothing: whatever can refuse comes before the first change.
    pub(super) fn commit(&mut self, commit: Commit) -> Result<Seq, CommitError> {
        let Commit { change, events, on_behalf_of, now } = commit;
        let stands = |id| self.keys.get(&id).is_some_and(|record| record.key.stands(now));
        if on_behalf_of.is_some_and(|id| !stands(id)) {
            return Err(CommitError::AuthorizerNotStanding);
        }
        let broken = || CommitError::Store(StoreError::Defect("the test broke the audit trail".into()));
        let audit_fails = self.audit_is_broken && !events.is_empty();
        let committed = match change {
            Change::Issue { key, idempotency, most_live } => {
                let claim = idempotency.map(|claim| {
                    let stored = StoredIdempotency { key_id: key.id(), request: claim.request };
                    ((claim.organization_id, claim.actor, claim.key), stored)
                });
                if let Some(used) = claim.as_ref().and_then(|(claim, _)| self.idempotency.get(claim)) {
                    return Err(CommitError::IdempotencyKeyUsed(*used));
                }
                if most_live.is_some_and(|most| self.live(key.organization_id(), now) >= most as usize) {
                    return Err(CommitError::TooManyKeys);
                }
                if self.digests.contains_key(key.digest()) {
                    return Err(CommitError::DuplicateDigest);
                }
                if self.keys.contains_key(&key.id()) {
                    return Err(StoreError::Defect("a key with that id exists".into()).into());
                }
                if audit_fails {
                    return Err(broken());
                }
                self.idempotency.extend(claim);
                self.put(key);
                self.head()
            }
            Change::Revoke { key } => {
                let record = self.find_by_id(key.organization_id(), key.id()).ok_or(CommitError::NotFound)?;
                let mut stored = record.key.parts().clone();
                if stored.revision.checked_add(1) != Some(key.parts().revision) {
                    return Err(CommitError::StaleRevision);
                }
                if audit_fails {
                    return Err(broken());
                }
                stored.revoked_at = key.parts().revoked_at;
                stored.revision = key.parts().revision;
                self.head += 1;
                self.keys.insert(key.id(), Record { key: legal(stored), narrowed_seq: Some(self.head) });
                self.head()
            }
            Change::ConfirmRevoked { organization_id, key_id, digest: _ } => {
                let record = self.find_by_id(&organization_id, key_id).ok_or(CommitError::NotFound)?;
                let revoked = record.key.parts().revoked_at.is_some();
                let narrowed_seq = record.narrowed_seq.filter(|_| revoked).ok_or(CommitError::NotFound)?;
                if audit_fails {
                    return Err(broken());
                }
                seq(narrowed_seq)
            }
        };
        self.audit.extend(events);
        Ok(committed)
    }
}

const fn seq(number: u64) -> Seq {
    Seq::new(0, number)
}

fn legal(parts: apikey_domain::ApiKeyParts) -> ApiKey {
    ApiKey::from_parts(parts).expect("parts that came from a key, and a change of a key")
}
