//! Keys as rows, and back. A row that no version of ours could have written is an error, never a guess.

use std::error::Error;

use apikey_domain::{
    ApiKey, ApiKeyParts, KeyDigest, KeyId, KeyName, KeyPrefix, KeyType, OrganizationId, Permission, PermissionSet,
    Timestamp,
};
use diesel::{prelude::*, sqlite::Sqlite};
use uuid::Uuid;

use crate::{error::Failure, schema::api_keys};

/// A row of `api_keys`, but for `narrowed_seq`, which is the store's own.
#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = api_keys, check_for_backend(Sqlite))]
pub(crate) struct KeyRow {
    id: Vec<u8>,
    organization_id: String,
    name: String,
    prefix: String,
    digest: Vec<u8>,
    key_type: String,
    permissions: String,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    last_used_at: Option<i64>,
    revision: i64,
}

impl From<ApiKey> for KeyRow {
    fn from(key: ApiKey) -> Self {
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
        Self {
            id: id.as_uuid().as_bytes().to_vec(),
            organization_id: organization_id.to_string(),
            name: name.to_string(),
            prefix: prefix.to_string(),
            digest: digest.as_bytes().to_vec(),
            key_type: key_type.name().to_owned(),
            permissions: permissions.iter().map(Permission::as_str).collect::<Vec<_>>().join(" "),
            created_at: created_at.unix_micros(),
            expires_at: expires_at.map(Timestamp::unix_micros),
            revoked_at: revoked_at.map(Timestamp::unix_micros),
            last_used_at: last_used_at.map(Timestamp::unix_micros),
            revision: i64::from(revision),
        }
    }
}

impl TryFrom<KeyRow> for ApiKey {
    type Error = Failure;

    fn try_from(row: KeyRow) -> Result<Self, Failure> {
        read(row).map_err(Failure::Illegal)
    }
}

fn read(row: KeyRow) -> Result<ApiKey, Box<dyn Error + Send + Sync>> {
    let KeyRow {
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
    } = row;
    let optional = |micros: Option<i64>| micros.map(Timestamp::from_unix_micros).transpose();
    let parts = ApiKeyParts {
        id: KeyId::from_uuid(Uuid::from_slice(&id)?),
        organization_id: OrganizationId::parse(&organization_id)?,
        name: KeyName::parse(&name)?,
        prefix: KeyPrefix::parse(&prefix)?,
        digest: KeyDigest::from_bytes(digest.as_slice().try_into()?),
        key_type: KeyType::from_name(&key_type).ok_or_else(|| format!("there is no type of key {key_type:?}"))?,
        permissions: read_permissions(&permissions)?,
        created_at: Timestamp::from_unix_micros(created_at)?,
        expires_at: optional(expires_at)?,
        revoked_at: optional(revoked_at)?,
        last_used_at: optional(last_used_at)?,
        revision: u32::try_from(revision)?,
    };
    Ok(ApiKey::from_parts(parts)?)
}

fn read_permissions(text: &str) -> Result<PermissionSet, apikey_domain::PermissionError> {
    if text.is_empty() { Ok(PermissionSet::empty()) } else { text.split(' ').map(Permission::parse).collect() }
}

/// A key's id as it is stored.
pub(crate) fn id_bytes(id: &KeyId) -> &[u8] {
    id.as_uuid().as_bytes()
}

/// A key's id as it was stored.
pub(crate) fn read_id(bytes: &[u8]) -> Result<KeyId, Failure> {
    Uuid::from_slice(bytes).map(KeyId::from_uuid).map_err(|error| Failure::Illegal(error.into()))
}

/// A head's number as it was stored.
pub(crate) fn read_number(number: i64) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|error| Failure::Illegal(error.into()))
}
