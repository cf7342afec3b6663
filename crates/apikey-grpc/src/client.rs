//! A small typed client of both services, for command line tools. tonic stays inside.
//!
//! Knows the wire and no rule: what a service refuses is told as it was refused.

use std::time::{Duration, UNIX_EPOCH};

use apikey_domain::{KeyType, RejectionReason, Timestamp};
use apikey_proto::pidgr::v1::{
    self as pb, api_key_service_client::ApiKeyServiceClient,
    api_key_verification_service_client::ApiKeyVerificationServiceClient,
};
use tonic::{Response, metadata::MetadataValue};
use zeroize::Zeroizing;

pub use address::{ServiceAddress, ServiceAddressError};
pub use error::{ClientError, Code, NotGrpc, Refusal};

use crate::convert::answer;
use connection::{Caller, Connection, bearer};

mod address;
mod connection;
mod error;

/// Creates, lists and revokes keys.
#[derive(Clone)]
pub struct ManagementClient {
    service: ApiKeyServiceClient<Caller>,
    connection: Connection,
}

/// Verifies keys.
#[derive(Clone)]
pub struct VerificationClient {
    service: ApiKeyVerificationServiceClient<Caller>,
    connection: Connection,
}

/// What to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewApiKey {
    /// Its name.
    pub name: String,
    /// Its permissions, by name, with or without `PERMISSION_`.
    pub permissions: Vec<String>,
    /// When it stops being valid; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// What it is for; `None` for an API key.
    pub key_type: Option<KeyType>,
}

/// A key's record, as the service shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// The key's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its first characters.
    pub prefix: String,
    /// Its permissions by name, in the order of their numbers; one that this version does not know is its number.
    pub permissions: Vec<String>,
    /// What it is for.
    pub key_type: KeyType,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
    /// When it stops being valid.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A key that was created, and the one showing of its value. Cannot be printed as a whole.
pub struct CreatedApiKey {
    /// Its record.
    pub key: ApiKeyRecord,
    /// The key itself; wiped from memory when it is dropped.
    pub raw_key: Zeroizing<String>,
}

/// Which keys to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only keys of that type.
    pub key_type: Option<KeyType>,
    /// The most keys on the page; 0 for the service's own choice.
    pub page_size: i32,
    /// The token of the page before; empty for the first one.
    pub page_token: String,
}

/// One page of keys, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// The keys.
    pub keys: Vec<ApiKeyRecord>,
    /// The token of the next page; `None` on the last one.
    pub next_page_token: Option<String>,
    /// How many keys match, on all pages.
    pub total_count: i32,
}

/// What to verify. Cannot be printed.
#[derive(Clone, Copy, Default)]
pub struct VerifyQuery<'a> {
    /// The key as it was presented.
    pub raw_key: &'a str,
    /// What it must be permitted to do, by name, with or without `PERMISSION_`.
    pub required_permissions: &'a [String],
    /// The types that are accepted; none for API keys alone.
    pub key_types: &'a [KeyType],
    /// Whether freshness must be proved against the store.
    pub strict: bool,
}

/// The answer to a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyAnswer {
    /// The key is good.
    Valid {
        /// Its id.
        api_key_id: String,
        /// Who owns it.
        organization_id: String,
        /// What it may do, by name.
        permissions: Vec<String>,
        /// What it is for.
        key_type: KeyType,
        /// When it stops being valid.
        expires_at: Option<Timestamp>,
    },
    /// The key is not good.
    Rejected {
        /// Why.
        reason: RejectionReason,
        /// Its id, where it exists.
        api_key_id: Option<String>,
    },
}

impl ManagementClient {
    /// Connects to a service, as whoever that API key or token stands for. Every call takes at most `timeout`; what the look-up of
    /// the name, TCP and TLS take is part of the first call's.
    ///
    /// # Errors
    /// [`ClientError`] where the credential cannot be sent, or nobody answers.
    pub async fn connect(address: &ServiceAddress, credential: &str, timeout: Duration) -> Result<Self, ClientError> {
        let (caller, connection) = Connection::open(address, Some(bearer(credential)?), timeout).await?;
        Ok(Self { service: ApiKeyServiceClient::new(caller), connection })
    }

    /// Creates a key, at most once under that idempotency key.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::may_have_happened`].
    pub async fn create(&mut self, new: NewApiKey, idempotency_key: &str) -> Result<CreatedApiKey, ClientError> {
        let NewApiKey { name, permissions, expires_at, key_type } = new;
        let mut request = self.connection.request(pb::CreateApiKeyRequest {
            name,
            permissions: permission_numbers(&permissions)?,
            expires_at: expires_at.map(answer::wire_instant),
            key_type: answer::wire_key_type(key_type),
        });
        let header = MetadataValue::try_from(idempotency_key).map_err(|_| ClientError::InvalidIdempotencyKey)?;
        request.metadata_mut().insert("idempotency-key", header);
        let pb::CreateApiKeyResponse { api_key, raw_key } =
            self.connection.answer(self.service.create_api_key(request)).await?.into_inner();
        let raw_key = Zeroizing::new(raw_key);
        let key = record(api_key.ok_or(ClientError::IllegalAnswer("there is no api_key"))?)?;
        Ok(CreatedApiKey { key, raw_key })
    }

    /// Reads a page of keys.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&mut self, query: ListQuery) -> Result<ListPage, ClientError> {
        let pb::ListApiKeysResponse { api_keys, pagination } = self.ask_for_page(query).await?.into_inner();
        let pb::PaginationMeta { next_page_token, total_count } = pagination.unwrap_or_default();
        Ok(ListPage {
            keys: api_keys.into_iter().map(record).collect::<Result<_, _>>()?,
            next_page_token: Some(next_page_token).filter(|token| !token.is_empty()),
            total_count,
        })
    }

    /// The service's time to the second, out of the `date` of an answer to whoever may list keys.
    ///
    /// # Errors
    /// [`ClientError`], also where the answer has no date.
    pub async fn service_time(&mut self) -> Result<Timestamp, ClientError> {
        let answer = self.ask_for_page(ListQuery { page_size: 1, ..ListQuery::default() }).await?;
        let date = answer.metadata().get("date").and_then(|date| date.to_str().ok());
        date.and_then(|date| httpdate::parse_http_date(date).ok()?.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| Timestamp::from_unix_micros(i64::try_from(since.as_micros()).ok()?).ok())
            .ok_or(ClientError::IllegalAnswer("there is no date"))
    }

    async fn ask_for_page(&mut self, query: ListQuery) -> Result<Response<pb::ListApiKeysResponse>, ClientError> {
        let ListQuery { key_type, page_size, page_token } = query;
        let pagination = Some(pb::Pagination { page_size, page_token });
        let key_type = answer::wire_key_type(key_type);
        let request = self.connection.request(pb::ListApiKeysRequest { key_type, pagination });
        self.connection.answer(self.service.list_api_keys(request)).await
    }

    /// Revokes a key. When this has returned, the key is accepted no more.
    ///
    /// # Errors
    /// [`ClientError`]; trying again is harmless.
    pub async fn revoke(&mut self, id: &str) -> Result<(), ClientError> {
        let request = self.connection.request(pb::RevokeApiKeyRequest { id: id.to_owned() });
        let answer = self.connection.answer(self.service.revoke_api_key(request)).await?;
        let pb::RevokeApiKeyResponse {} = answer.into_inner();
        Ok(())
    }
}

impl VerificationClient {
    /// Connects to a verification listener, with its own token where it has one. For `timeout` see [`ManagementClient::connect`].
    ///
    /// # Errors
    /// [`ClientError`] where the token cannot be sent, or nobody answers.
    pub async fn connect(
        address: &ServiceAddress,
        token: Option<&str>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let (caller, connection) = Connection::open(address, token.map(bearer).transpose()?, timeout).await?;
        Ok(Self { service: ApiKeyVerificationServiceClient::new(caller), connection })
    }

    /// Asks for a verdict on a key.
    ///
    /// # Errors
    /// [`ClientError`]; it says nothing about the key.
    pub async fn verify(&mut self, query: VerifyQuery<'_>) -> Result<VerifyAnswer, ClientError> {
        use pb::verify_api_key_response::Verdict;
        let VerifyQuery { raw_key, required_permissions, key_types, strict } = query;
        let message = pb::VerifyApiKeyRequest {
            raw_key: raw_key.to_owned(),
            required_permissions: permission_numbers(required_permissions)?,
            key_types: key_types.iter().map(|key_type| answer::wire_key_type(Some(*key_type))).collect(),
            strict,
        };
        let request = self.connection.request(message);
        let answer = self.connection.answer(self.service.verify_api_key(request)).await?;
        let pb::VerifyApiKeyResponse { verdict } = answer.into_inner();
        match verdict.ok_or(ClientError::IllegalAnswer("there is no verdict"))? {
            Verdict::Valid(valid) => {
                let pb::VerifiedApiKey { api_key_id, organization_id, permissions, key_type, expires_at } = valid;
                Ok(VerifyAnswer::Valid {
                    api_key_id,
                    organization_id,
                    permissions: permissions.into_iter().map(answer::permission_name).collect(),
                    key_type: answer::key_type(key_type)?,
                    expires_at: answer::instant(expires_at.as_ref())?,
                })
            }
            Verdict::Rejected(pb::ApiKeyRejection { reason, api_key_id }) => Ok(VerifyAnswer::Rejected {
                reason: answer::rejection(reason)?,
                api_key_id: Some(api_key_id).filter(|id| !id.is_empty()),
            }),
        }
    }
}

fn permission_numbers(names: &[String]) -> Result<Vec<i32>, ClientError> {
    let number = |name: &String| {
        pb::Permission::from_str_name(name)
            .or_else(|| pb::Permission::from_str_name(&format!("PERMISSION_{name}")))
            .filter(|permission| *permission != pb::Permission::Unspecified)
            .map(i32::from)
            .ok_or_else(|| ClientError::UnknownPermission(name.clone()))
    };
    names.iter().map(number).collect()
}

fn record(key: pb::ApiKey) -> Result<ApiKeyRecord, ClientError> {
    let pb::ApiKey { id, name, prefix, permissions, created_at, last_used_at, expires_at, key_type, revoked_at } = key;
    Ok(ApiKeyRecord {
        id,
        name,
        prefix,
        permissions: permissions.into_iter().map(answer::permission_name).collect(),
        key_type: answer::key_type(key_type)?,
        created_at: answer::instant(created_at.as_ref())?
            .ok_or(ClientError::IllegalAnswer("there is no created_at"))?,
        last_used_at: answer::instant(last_used_at.as_ref())?,
        expires_at: answer::instant(expires_at.as_ref())?,
        revoked_at: answer::instant(revoked_at.as_ref())?,
    })
}
