//! List keys: newest first, page by page, without skipping or repeating one while others are issued.

use std::sync::Arc;

use apikey_domain::{ApiKey, KeyType, MissingPermissions};

use crate::{
    Caller, ErrorKind, FieldViolation, PageToken, Policy,
    error::Checked,
    ports::{KeyStore, PageQuery, Position, StoreError},
};

/// What a caller asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Keys of that type alone; `None` for all.
    pub key_type: Option<KeyType>,
    /// At most how many keys: 0 means 50, above 1000 means 1000, negative is an error.
    pub page_size: i32,
    /// The token of the page before; empty for the first page.
    pub page_token: String,
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The keys, newest first.
    pub keys: Vec<ApiKey>,
    /// The token of the next page; `None` on the last one.
    pub next_page_token: Option<PageToken>,
    /// How many keys match, on all pages.
    pub total_count: u64,
}

/// There is no page.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The caller lacks the permission to list keys.
    #[error(transparent)]
    PermissionDenied(#[from] MissingPermissions),
    /// Fields of the request are wrong.
    #[error("fields of the request are wrong")]
    InvalidFields(Vec<FieldViolation>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ListError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PermissionDenied(_) => ErrorKind::PermissionDenied,
            Self::InvalidFields(_) => ErrorKind::InvalidArgument,
            Self::Store(error) => ErrorKind::from(error),
        }
    }
}

/// The use case: lists the keys of the caller's organization, revoked and expired ones too.
pub struct ListApiKeys<S> {
    store: Arc<S>,
    policy: Policy,
}

impl<S> ListApiKeys<S> {
    /// Keys on a page where the caller does not say.
    pub const DEFAULT_PAGE_SIZE: u32 = 50;
    /// The most keys on a page.
    pub const MAX_PAGE_SIZE: u32 = 1_000;
    /// About the most bytes on a page, which ends earlier where its keys are large: what nobody reads is kept for a while.
    pub const MAX_PAGE_BYTES: usize = 512 * 1024;
}

impl<S: KeyStore> ListApiKeys<S> {
    /// Lists keys under that policy.
    pub fn new(store: Arc<S>, policy: Policy) -> Self {
        Self { store, policy }
    }

    /// Reads a page. `request` is what the transport read, or what is wrong with it: only a permitted caller learns which.
    ///
    /// # Errors
    /// [`ListError`], in this order: the caller's permission, the fields, the store.
    pub async fn list(&self, caller: &Caller, request: Checked<ListRequest>) -> Result<Listing, ListError> {
        self.policy.authorize(&caller.principal)?;
        let ListRequest { key_type, page_size, page_token } = request.map_err(ListError::InvalidFields)?;
        let organization_id = &caller.principal.organization_id;

        let mut violations = Vec::new();
        let limit = match u32::try_from(page_size) {
            Ok(0) => Self::DEFAULT_PAGE_SIZE,
            Ok(size) => size.min(Self::MAX_PAGE_SIZE),
            Err(_) => {
                violations.push(FieldViolation::new("pagination.page_size", "must not be negative"));
                0
            }
        };
        let after = if page_token.is_empty() {
            None
        } else {
            PageToken::read(&page_token, organization_id, key_type)
                .map_err(|error| violations.push(FieldViolation::new("pagination.page_token", error.to_string())))
                .ok()
        };
        if !violations.is_empty() {
            return Err(ListError::InvalidFields(violations));
        }

        let query = PageQuery { organization_id: organization_id.clone(), key_type, after, limit };
        let mut page = self.store.page(&query).await?;
        let fitting = fitting(&page.keys);
        if fitting < page.keys.len() {
            page.keys.truncate(fitting);
            page.more = true;
        }
        let last = page.keys.last().filter(|_| page.more).map(ApiKey::parts);
        let next_page_token = last.map(|last| {
            let position = Position { created_at: last.created_at, id: last.id };
            PageToken::new(position, organization_id, key_type)
        });
        Ok(Listing { next_page_token, keys: page.keys, total_count: page.total_count })
    }
}

/// What a key takes on a page besides its name and permissions, in bytes: ids, instants, tags.
const KEY_BYTES: usize = 192;
/// What a permission takes: its number, or in JSON its name.
const PERMISSION_BYTES: usize = 32;

/// How many of these keys fit onto a page; at least one.
fn fitting(keys: &[ApiKey]) -> usize {
    let mut bytes = 0;
    let fits = |key: &&ApiKey| {
        let parts = key.parts();
        bytes += KEY_BYTES + parts.name.as_str().len() + PERMISSION_BYTES * parts.permissions.iter().count();
        bytes <= ListApiKeys::<()>::MAX_PAGE_BYTES
    };
    keys.iter().take_while(fits).count().max(1)
}
