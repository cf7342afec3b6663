//! Issue a key: at most once per idempotency key, and never with more permissions than the caller holds.

use std::{num::NonZeroU32, sync::Arc};

use apikey_domain::{
    ApiKey, AuditEvent, IssueApiKeyError, KeyId, KeyName, KeyType, MissingPermissions, NewApiKey, OrganizationId,
    PermissionSet, RawKey, Timestamp,
};

use crate::{
    Caller, ErrorKind, FieldViolation, Idempotency, IdempotencyKey, Limits, Policy, RequestDigest,
    limits::Changes,
    ports::{Change, Clock, Commit, CommitError, Entropy, EntropyError, KeyStore, StoreError, StoredIdempotency},
};

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueRequest {
    /// The new key's name.
    pub name: KeyName,
    /// What the key may do.
    pub permissions: PermissionSet,
    /// When it stops being valid; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// What it is for.
    pub key_type: KeyType,
    /// The name under which this request is carried out at most once.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A request whose fields are wrong as far as they can be judged without a clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidIssueRequest {
    /// What is wrong with it.
    pub fields: Vec<FieldViolation>,
    /// When the key should stop being valid, where that could be read.
    pub expires_at: Option<Timestamp>,
}

impl InvalidIssueRequest {
    /// Everything that is wrong with it, when it is judged at `now`.
    fn judged(mut self, now: Timestamp) -> IssueError {
        if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            self.fields.push(expiry_not_in_future());
        }
        IssueError::InvalidFields(self.fields)
    }
}

/// A key that was issued, and is durable.
pub struct IssuedApiKey {
    /// Its record.
    pub key: ApiKey,
    /// The key itself, for the one answer that shows it.
    pub raw_key: RawKey,
}

/// No key was issued, except where [`StoreError::OutcomeUnknown`] says that it may have been.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The caller lacks the permission to issue keys, or one that the key should have.
    #[error(transparent)]
    PermissionDenied(#[from] MissingPermissions),
    /// Fields of the request are wrong.
    #[error("fields of the request are wrong")]
    InvalidFields(Vec<FieldViolation>),
    /// The same request was carried out before, under the same idempotency key.
    #[error("the request was carried out before and issued the key {key_id}")]
    AlreadyIssued {
        /// The key that it issued.
        key_id: KeyId,
    },
    /// The key that authorized the call was revoked or has expired meanwhile.
    #[error("the authorizing key no longer stands")]
    CallerRevoked,
    /// The organization has as many live keys as it may have.
    #[error("the organization has {limit} keys that are neither revoked nor expired, and may have no more")]
    TooManyKeys {
        /// How many that are.
        limit: NonZeroU32,
    },
    /// The organization makes keys faster than it may.
    #[error("the organization makes more keys a second than it may")]
    TooManyChanges,
    /// There is no entropy.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A random digest or id exists already: the generator is broken.
    #[error("a newly drawn key exists already")]
    DuplicateKey,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IssueError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PermissionDenied(_) => ErrorKind::PermissionDenied,
            Self::InvalidFields(_) => ErrorKind::InvalidArgument,
            Self::AlreadyIssued { .. } => ErrorKind::AlreadyExists,
            Self::CallerRevoked => ErrorKind::Unauthenticated,
            Self::TooManyKeys { .. } | Self::TooManyChanges => ErrorKind::ResourceExhausted,
            Self::Entropy(_) | Self::DuplicateKey => ErrorKind::Internal,
            Self::Store(error) => ErrorKind::from(error),
        }
    }
}

/// The use case: issues a key for the caller's organization.
pub struct IssueApiKey<S, C, E> {
    store: Arc<S>,
    clock: Arc<C>,
    entropy: Arc<E>,
    policy: Policy,
    live_keys: Option<NonZeroU32>,
    creations: Changes<OrganizationId>,
}

impl<S: KeyStore, C: Clock, E: Entropy> IssueApiKey<S, C, E> {
    /// Issues keys under that policy.
    pub fn new(store: Arc<S>, clock: Arc<C>, entropy: Arc<E>, policy: Policy) -> Self {
        Self { store, clock, entropy, policy, live_keys: None, creations: Changes::limited_to(None) }
    }

    /// The same within those limits.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        let Limits { live_keys, changes_per_second } = limits;
        Self { live_keys, creations: Changes::limited_to(changes_per_second), ..self }
    }

    /// Issues a key. `request` is what the transport read, or what is wrong with it: only a permitted caller learns which.
    ///
    /// # Errors
    /// [`IssueError`], in this order: the caller's permission, the fields, the privilege ceiling, the rate, repetition, the number of keys.
    pub async fn issue(
        &self,
        caller: &Caller,
        request: Result<IssueRequest, InvalidIssueRequest>,
    ) -> Result<IssuedApiKey, IssueError> {
        let principal = &caller.principal;
        self.policy.authorize(principal)?;
        let request = request.map_err(|invalid| invalid.judged(self.clock.now()))?;
        self.refuse_keys_in_texts(&request)?;
        self.check_catalogue(&request.permissions)?;
        principal.may_grant(&request.permissions)?;

        if !self.creations.take(&principal.organization_id, self.clock.monotonic()) {
            return Err(IssueError::TooManyChanges);
        }

        let idempotency = claim(caller, &request);
        let now = self.clock.now();
        if let Some(claim) = idempotency.as_ref()
            && request.expires_at.is_some_and(|expires_at| expires_at <= now)
        {
            // A retry that arrives after the key's expiry is a repetition all the same.
            let stored = self.store.find_idempotency(&claim.organization_id, &claim.actor, &claim.key).await?;
            if let Some(stored) = stored {
                return Err(repeated(stored, claim.request));
            }
        }

        let mut entropy = |buffer: &mut [u8]| self.entropy.fill(buffer);
        let raw_key = self.policy.format.generate(request.key_type, &mut entropy)?;
        let IssueRequest { name, permissions, expires_at, .. } = request;
        let new = NewApiKey { organization_id: principal.organization_id.clone(), name, permissions, expires_at };
        let (key, event) = ApiKey::issue(new, &raw_key, &mut entropy, now)?;

        let request_digest = idempotency.as_ref().map(|claim| claim.request);
        let commit = Commit {
            change: Change::Issue { key: key.clone(), idempotency, most_live: self.live_keys.map(NonZeroU32::get) },
            events: vec![AuditEvent { event, actor: principal.actor.clone(), origin: caller.origin.clone() }],
            on_behalf_of: principal.actor.key_id(),
            now,
        };
        match self.store.commit(commit).await {
            Ok(_) => Ok(IssuedApiKey { key, raw_key }),
            Err(CommitError::IdempotencyKeyUsed(stored)) => match request_digest {
                Some(request) => Err(repeated(stored, request)),
                None => Err(StoreError::Defect("an idempotency key was refused that was not sent".into()).into()),
            },
            Err(CommitError::AuthorizerNotStanding) => Err(IssueError::CallerRevoked),
            Err(error @ CommitError::TooManyKeys) => match self.live_keys {
                Some(limit) => Err(IssueError::TooManyKeys { limit }),
                None => Err(StoreError::Defect(Box::new(error)).into()),
            },
            Err(CommitError::DuplicateDigest) => Err(IssueError::DuplicateKey),
            Err(error @ (CommitError::StaleRevision | CommitError::NotFound)) => {
                Err(StoreError::Defect(Box::new(error)).into())
            }
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// A raw key in a text that is stored and shown would be there for all who may list.
    fn refuse_keys_in_texts(&self, request: &IssueRequest) -> Result<(), IssueError> {
        let idempotency_key = request.idempotency_key.as_ref().map(IdempotencyKey::as_str);
        let texts = [("name", Some(request.name.as_str())), ("idempotency-key", idempotency_key)];
        let holding = texts.into_iter().filter(|(_, text)| text.is_some_and(|text| self.policy.format.occurs_in(text)));
        let violations: Vec<_> = holding
            .map(|(field, _)| FieldViolation::new(field, "must not hold an API key: it would be stored and shown"))
            .collect();
        if violations.is_empty() { Ok(()) } else { Err(IssueError::InvalidFields(violations)) }
    }

    fn check_catalogue(&self, permissions: &PermissionSet) -> Result<(), IssueError> {
        let unknown: Vec<_> = permissions
            .iter()
            .filter(|permission| self.policy.catalogue.find(permission.as_str()).is_none())
            .map(|permission| FieldViolation::new("permissions", format!("{permission} is not a permission")))
            .collect();
        if unknown.is_empty() { Ok(()) } else { Err(IssueError::InvalidFields(unknown)) }
    }
}

fn expiry_not_in_future() -> FieldViolation {
    FieldViolation::new("expires_at", "must lie in the future")
}

fn claim(caller: &Caller, request: &IssueRequest) -> Option<Idempotency> {
    let key = request.idempotency_key.clone()?;
    Some(Idempotency {
        organization_id: caller.principal.organization_id.clone(),
        actor: caller.principal.actor.clone(),
        key,
        request: RequestDigest::of_issue(&request.name, &request.permissions, request.expires_at, request.key_type),
    })
}

fn repeated(stored: StoredIdempotency, request: RequestDigest) -> IssueError {
    if stored.request == request {
        return IssueError::AlreadyIssued { key_id: stored.key_id };
    }
    let description = "was used before for a request with another message";
    IssueError::InvalidFields(vec![FieldViolation::new("idempotency-key", description)])
}

impl From<IssueApiKeyError<EntropyError>> for IssueError {
    fn from(error: IssueApiKeyError<EntropyError>) -> Self {
        match error {
            IssueApiKeyError::ExpiryNotInFuture => Self::InvalidFields(vec![expiry_not_in_future()]),
            IssueApiKeyError::Entropy(error) => Self::Entropy(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_request_is_told_too_that_it_expires_in_the_past() {
        let at = |micros| Timestamp::from_unix_micros(micros).unwrap();
        let told = |expires_at| {
            let request = InvalidIssueRequest { fields: Vec::new(), expires_at: Some(at(expires_at)) };
            let IssueError::InvalidFields(fields) = request.judged(at(5)) else { panic!("no field is wrong") };
            fields.len()
        };
        assert_eq!([4, 5, 6].map(told), [1, 1, 0]);
    }
}
