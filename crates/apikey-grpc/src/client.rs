//! A small typed client of both services, for command line tools. tonic stays inside.
//!
//! Knows the wire and no rule: what a service refuses is told as it was refused.

use std::time::Duration;

use apikey_domain::{KeyType, RejectionReason, Timestamp};
use apikey_proto::pidgr::v1::{
    self as pb, api_key_service_client::ApiKeyServiceClient,
    api_key_verification_service_client::ApiKeyVerificationServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use zeroize::Zeroizing;

pub use error::{ClientError, Code, Refusal};

use crate::convert::answer;

mod error;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for an answer; longer than the service's own limits, so that its answer is the one that is seen.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a silent connection is asked for a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Creates, lists and revokes keys.
#[derive(Clone)]
pub struct ManagementClient(ApiKeyServiceClient<InterceptedService<Channel, Present>>);

/// Verifies keys.
#[derive(Clone)]
pub struct VerificationClient(ApiKeyVerificationServiceClient<InterceptedService<Channel, Present>>);

/// Presents a credential with each request.
#[derive(Clone)]
struct Present(Option<MetadataValue<Ascii>>);

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
    /// Connects to a service at an `http://` or `https://` address, as whoever that API key or token stands for.
    ///
    /// # Errors
    /// [`ClientError`] where the address or the credential cannot be sent, or nobody answers.
    pub async fn connect(endpoint: &str, credential: &str) -> Result<Self, ClientError> {
        let present = Present::bearer(credential)?;
        Ok(Self(ApiKeyServiceClient::with_interceptor(channel(endpoint).await?, present)))
    }

    /// Creates a key, at most once under that idempotency key.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::may_have_happened`].
    pub async fn create(&mut self, new: NewApiKey, idempotency_key: &str) -> Result<CreatedApiKey, ClientError> {
        let NewApiKey { name, permissions, expires_at, key_type } = new;
        let mut request = request(pb::CreateApiKeyRequest {
            name,
            permissions: permission_numbers(&permissions)?,
            expires_at: expires_at.map(answer::wire_instant),
            key_type: answer::wire_key_type(key_type),
        });
        let header = MetadataValue::try_from(idempotency_key).map_err(|_| ClientError::InvalidIdempotencyKey)?;
        request.metadata_mut().insert("idempotency-key", header);
        let pb::CreateApiKeyResponse { api_key, raw_key } = self.0.create_api_key(request).await?.into_inner();
        let raw_key = Zeroizing::new(raw_key);
        let key = record(api_key.ok_or(ClientError::IllegalAnswer("there is no api_key"))?)?;
        Ok(CreatedApiKey { key, raw_key })
    }

    /// Reads a page of keys.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&mut self, query: ListQuery) -> Result<ListPage, ClientError> {
        let ListQuery { key_type, page_size, page_token } = query;
        let pagination = Some(pb::Pagination { page_size, page_token });
        let key_type = answer::wire_key_type(key_type);
        let answer = self.0.list_api_keys(request(pb::ListApiKeysRequest { key_type, pagination })).await?;
        let pb::ListApiKeysResponse { api_keys, pagination } = answer.into_inner();
        let pb::PaginationMeta { next_page_token, total_count } = pagination.unwrap_or_default();
        Ok(ListPage {
            keys: api_keys.into_iter().map(record).collect::<Result<_, _>>()?,
            next_page_token: Some(next_page_token).filter(|token| !token.is_empty()),
            total_count,
        })
    }

    /// Revokes a key. When this has returned, the key is accepted no more.
    ///
    /// # Errors
    /// [`ClientError`]; trying again is harmless.
    pub async fn revoke(&mut self, id: &str) -> Result<(), ClientError> {
        let answer = self.0.revoke_api_key(request(pb::RevokeApiKeyRequest { id: id.to_owned() })).await?;
        let pb::RevokeApiKeyResponse {} = answer.into_inner();
        Ok(())
    }
}

impl VerificationClient {
    /// Connects to a verification listener at an `http://` or `https://` address, with its own token where it has one.
    ///
    /// # Errors
    /// [`ClientError`] where the address or the token cannot be sent, or nobody answers.
    pub async fn connect(endpoint: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let present = token.map_or(Ok(Present(None)), Present::bearer)?;
        Ok(Self(ApiKeyVerificationServiceClient::with_interceptor(channel(endpoint).await?, present)))
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
        let pb::VerifyApiKeyResponse { verdict } = self.0.verify_api_key(request(message)).await?.into_inner();
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

impl Present {
    fn bearer(credential: &str) -> Result<Self, ClientError> {
        let visible = !credential.is_empty() && credential.bytes().all(|byte| byte.is_ascii_graphic());
        let text = Zeroizing::new(format!("Bearer {credential}"));
        let value = MetadataValue::try_from(text.as_str()).ok().filter(|_| visible);
        // The error must not hold the credential, so that it holds nothing.
        let mut value = value.ok_or(ClientError::InvalidCredential)?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Present {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(credential) = &self.0 {
            request.metadata_mut().insert("authorization", credential.clone());
        }
        Ok(request)
    }
}

async fn channel(address: &str) -> Result<Channel, ClientError> {
    let invalid = || ClientError::InvalidEndpoint(address.to_owned());
    let encrypted = address.starts_with("https://");
    if !encrypted && !address.starts_with("http://") {
        return Err(invalid());
    }
    let mut endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|_| invalid())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE);
    if encrypted {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(|_| invalid())?;
    }
    endpoint.connect().await.map_err(|error| ClientError::Unreachable(Box::new(error)))
}

fn request<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
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
