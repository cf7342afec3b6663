//! Rows of keys, and the conversion of values between the database and the domain. Decides nothing.

use apikey_application::fence::LeaseOutOfRange;
use apikey_domain::{
    ApiKey, ApiKeyParts, InvalidApiKeyParts, InvalidKeyPrefix, KeyDigest, KeyId, KeyName, KeyNameError, KeyPrefix,
    KeyType, OrganizationId, OrganizationIdError, Permission, PermissionError, Timestamp, TimestampOutOfRange,
};
use diesel::{
    QueryableByName, deserialize,
    pg::{Pg, data_types::PgTimestamp},
    row::NamedRow,
    sql_types::{Array, Bytea, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use uuid::Uuid;

/// The columns of a [`KeyRow`] from the table or the subquery `k`.
macro_rules! key_columns {
    () => {
        "k.id, k.organization_id, k.name, k.prefix, k.digest, k.key_type, k.permissions, \
         k.created_at, k.expires_at, k.revoked_at, k.last_used_at, k.revision"
    };
}

/// The timeline of the server's history: the first eight digits of the name of a segment of its log. Fails on a standby, which
/// is as it should be: only a primary knows the newest of everything.
macro_rules! timeline {
    () => {
        "pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8)"
    };
}

pub(crate) use {key_columns, timeline};

#[derive(Debug, QueryableByName)]
pub(crate) struct KeyRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    organization_id: String,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    prefix: String,
    #[diesel(sql_type = Bytea)]
    digest: Vec<u8>,
    #[diesel(sql_type = Text)]
    key_type: String,
    #[diesel(sql_type = Array<Text>)]
    permissions: Vec<String>,
    #[diesel(sql_type = Timestamptz)]
    created_at: PgTimestamp,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<PgTimestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    revoked_at: Option<PgTimestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    last_used_at: Option<PgTimestamp>,
    #[diesel(sql_type = Integer)]
    revision: i32,
}

/// The row of a key from the outer side of a join: all of its columns are null, or none that must not be.
#[derive(Debug)]
pub(crate) struct JoinedKeyRow(pub(crate) Option<KeyRow>);

impl QueryableByName<Pg> for JoinedKeyRow {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        let id: Option<Uuid> = NamedRow::get::<Nullable<SqlUuid>, _>(row, "id")?;
        id.map(|_| KeyRow::build(row)).transpose().map(Self)
    }
}

/// What is stored is not what this version stores.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IllegalRow {
    #[error("a stored organization is illegal")]
    Organization(#[from] OrganizationIdError),
    #[error("a stored name is illegal")]
    Name(#[from] KeyNameError),
    #[error("a stored prefix is illegal")]
    Prefix(#[from] InvalidKeyPrefix),
    #[error("a stored digest is not of 32 bytes")]
    Digest,
    #[error("a stored key type is unknown")]
    KeyType,
    #[error("a stored permission is illegal")]
    Permission(#[from] PermissionError),
    #[error("a stored instant is out of range")]
    Timestamp(#[from] TimestampOutOfRange),
    #[error("a stored number is negative or too large")]
    Number,
    #[error("a stored lease is too short or too long")]
    Lease(#[from] LeaseOutOfRange),
    #[error("a stored key contradicts itself")]
    Key(#[from] InvalidApiKeyParts),
    #[error("the server's timeline is not a number of eight hexadecimal digits")]
    Timeline,
    #[error("a statement did not return the rows that it returns")]
    Rows,
}

impl KeyRow {
    pub(crate) fn into_key(self) -> Result<ApiKey, IllegalRow> {
        let Self {
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
        } = self;
        let parts = ApiKeyParts {
            id: KeyId::from_uuid(id),
            organization_id: OrganizationId::parse(&organization_id)?,
            name: KeyName::parse(&name)?,
            prefix: KeyPrefix::parse(&prefix)?,
            digest: KeyDigest::from_bytes(digest.try_into().map_err(|_| IllegalRow::Digest)?),
            key_type: KeyType::from_name(&key_type).ok_or(IllegalRow::KeyType)?,
            permissions: permissions.iter().map(|name| Permission::parse(name)).collect::<Result<_, _>>()?,
            created_at: from_database(created_at)?,
            expires_at: expires_at.map(from_database).transpose()?,
            revoked_at: revoked_at.map(from_database).transpose()?,
            last_used_at: last_used_at.map(from_database).transpose()?,
            revision: u32::try_from(revision).map_err(|_| IllegalRow::Number)?,
        };
        Ok(ApiKey::from_parts(parts)?)
    }
}

/// 2000-01-01T00:00:00Z in microseconds since the Unix epoch: PostgreSQL counts from there (`POSTGRES_EPOCH_JDATE`).
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Whatever is the domain's is the database's too: it reaches from the year -4713 to 294276.
pub(crate) const fn to_database(instant: Timestamp) -> PgTimestamp {
    PgTimestamp(instant.unix_micros() - POSTGRES_EPOCH)
}

pub(crate) fn from_database(PgTimestamp(micros): PgTimestamp) -> Result<Timestamp, TimestampOutOfRange> {
    Timestamp::from_unix_micros(micros.saturating_add(POSTGRES_EPOCH))
}
