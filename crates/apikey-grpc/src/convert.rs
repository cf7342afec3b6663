//! Wire ⇄ domain. Every message is destructured, so that a new field fails to compile until it is dealt with.
//!
//! Knows names and numbers, and no rule beyond what makes a value of the domain.

use std::mem;

use apikey_application::{
    FieldViolation, IdempotencyKey, InvalidIssueRequest, IssueRequest, IssuedApiKey, ListRequest, Listing,
    Verification, VerificationRequest,
};
use apikey_domain::{
    ApiKey, ApiKeyParts, KeyId, KeyName, KeyType, KeyTypes, Permission, PermissionSet, RejectionReason, Timestamp,
    pidgr::CATALOGUE,
};
use apikey_proto::pidgr::v1 as pb;
use zeroize::Zeroizing;

/// What is wrong with a request, gathered field by field, so that a caller learns of everything at once.
#[derive(Default)]
struct Violations(Vec<FieldViolation>);

impl Violations {
    fn add(&mut self, field: impl Into<String>, description: &impl ToString) {
        self.0.push(FieldViolation::new(field, description.to_string()));
    }

    /// The value, or `None` and a violation of that field.
    fn check<T, E: ToString>(&mut self, field: &str, outcome: Result<T, E>) -> Option<T> {
        outcome.map_err(|error| self.add(field, &error)).ok()
    }

    fn finish<T>(self, value: Option<T>) -> Result<T, Vec<FieldViolation>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }
}

/// The request of `CreateApiKey`, with the values of its `idempotency-key` headers.
pub(crate) fn issue_request<'a>(
    request: pb::CreateApiKeyRequest,
    idempotency_keys: impl Iterator<Item = Option<&'a str>>,
) -> Result<IssueRequest, InvalidIssueRequest> {
    let pb::CreateApiKeyRequest { name, permissions, expires_at, key_type } = request;
    let mut violations = Violations::default();
    let name = violations.check("name", KeyName::parse(&name));
    let permissions = permission_set("permissions", &permissions, &mut violations);
    let expires_at = expires_at.and_then(|expires_at| violations.check("expires_at", timestamp(&expires_at)));
    let key_type = match optional_key_type(key_type) {
        Ok(key_type) => key_type.unwrap_or(KeyType::ApiKey),
        Err(error) => {
            violations.add("key_type", &error);
            KeyType::ApiKey
        }
    };
    let idempotency_key = idempotency_key(idempotency_keys, &mut violations);
    let request = name.map(|name| IssueRequest { name, permissions, expires_at, key_type, idempotency_key });
    violations.finish(request).map_err(|fields| InvalidIssueRequest { fields, expires_at })
}

fn idempotency_key<'a>(
    mut values: impl Iterator<Item = Option<&'a str>>,
    violations: &mut Violations,
) -> Option<IdempotencyKey> {
    let value = values.next()?;
    if values.next().is_some() {
        violations.add("idempotency-key", &"must be sent once");
        return None;
    }
    // A value that is no ASCII at all is as illegal as an empty one.
    violations.check("idempotency-key", IdempotencyKey::parse(value.unwrap_or_default()))
}

/// The request of `ListApiKeys`.
pub(crate) fn list_request(request: pb::ListApiKeysRequest) -> Result<ListRequest, Vec<FieldViolation>> {
    let pb::ListApiKeysRequest { key_type, pagination } = request;
    let pb::Pagination { page_size, page_token } = pagination.unwrap_or_default();
    let mut violations = Violations::default();
    let key_type = violations.check("key_type", optional_key_type(key_type));
    if key_type.is_none() && page_size < 0 {
        // The use case, which judges it otherwise, is not given a request whose filter cannot be read.
        violations.add("pagination.page_size", &"must not be negative");
    }
    violations.finish(key_type.map(|key_type| ListRequest { key_type, page_size, page_token }))
}

/// The request of `RevokeApiKey`.
pub(crate) fn revoke_request(request: &pb::RevokeApiKeyRequest) -> Result<KeyId, Vec<FieldViolation>> {
    let pb::RevokeApiKeyRequest { id } = request;
    KeyId::parse(id).map_err(|error| vec![FieldViolation::new("id", error.to_string())])
}

/// A request of `VerifyApiKey`, checked. The raw key is wiped from memory when this is dropped.
pub(crate) struct VerifyRequest {
    raw_key: Zeroizing<String>,
    required_permissions: PermissionSet,
    key_types: KeyTypes,
    strict: bool,
}

impl VerifyRequest {
    /// What the use case asks for, once.
    pub(crate) fn take(&mut self) -> VerificationRequest<'_> {
        let Self { raw_key, required_permissions, key_types, strict } = self;
        VerificationRequest {
            raw_key,
            required_permissions: mem::take(required_permissions),
            key_types: *key_types,
            strict: *strict,
        }
    }
}

/// The request of `VerifyApiKey`.
pub(crate) fn verify_request(request: pb::VerifyApiKeyRequest) -> Result<VerifyRequest, Vec<FieldViolation>> {
    let pb::VerifyApiKeyRequest { raw_key, required_permissions, key_types, strict } = request;
    let raw_key = Zeroizing::new(raw_key);
    let mut violations = Violations::default();
    let required_permissions = permission_set("required_permissions", &required_permissions, &mut violations);
    let mut accepted: Option<KeyTypes> = None;
    for (index, number) in key_types.into_iter().enumerate() {
        match optional_key_type(number).and_then(|key_type| key_type.ok_or("must not be KEY_TYPE_UNSPECIFIED")) {
            Ok(key_type) => {
                accepted = Some(accepted.map_or(KeyTypes::only(key_type), |accepted| accepted.and(key_type)));
            }
            Err(error) => violations.add(format!("key_types[{index}]"), &error),
        }
    }
    let key_types = accepted.unwrap_or_default();
    violations.finish(Some(VerifyRequest { raw_key, required_permissions, key_types, strict }))
}

/// Reads permissions by their numbers. A number that was refused is missing in the set, and there is a violation.
fn permission_set(field: &str, numbers: &[i32], violations: &mut Violations) -> PermissionSet {
    let read = |(index, number): (usize, &i32)| {
        let permission = permission(*number);
        if permission.is_none() {
            violations.add(format!("{field}[{index}]"), &format_args!("{number} is not a permission"));
        }
        permission
    };
    numbers.iter().enumerate().filter_map(read).collect()
}

/// The permission with that number; none has 0.
fn permission(number: i32) -> Option<Permission> {
    let name = pb::Permission::try_from(number).ok()?.as_str_name();
    CATALOGUE.find(name).cloned()
}

/// The number of a permission; `None` for a name that this version's protocol does not have.
pub(crate) fn permission_number(permission: &Permission) -> Option<i32> {
    pb::Permission::from_str_name(permission.as_str()).map(i32::from)
}

/// The numbers of a set in ascending order. A name that a newer version stored and this one does not know is left out: no
/// number could be told for it, and leaving it out only narrows what the key is said to do.
fn permission_numbers(permissions: &PermissionSet) -> Vec<i32> {
    let mut numbers: Vec<i32> = permissions.iter().filter_map(permission_number).collect();
    numbers.sort_unstable();
    numbers
}

/// `None` for 0, which stands for "unspecified".
fn optional_key_type(number: i32) -> Result<Option<KeyType>, &'static str> {
    match pb::KeyType::try_from(number) {
        Ok(pb::KeyType::Unspecified) => Ok(None),
        Ok(pb::KeyType::ApiKey) => Ok(Some(KeyType::ApiKey)),
        Ok(pb::KeyType::ScimToken) => Ok(Some(KeyType::ScimToken)),
        Err(_) => Err("is not a type of key"),
    }
}

const fn key_type_number(key_type: KeyType) -> i32 {
    match key_type {
        KeyType::ApiKey => pb::KeyType::ApiKey as i32,
        KeyType::ScimToken => pb::KeyType::ScimToken as i32,
    }
}

/// Nanoseconds below a microsecond are cut off: that is what is stored.
fn timestamp(wire: &prost_types::Timestamp) -> Result<Timestamp, &'static str> {
    let prost_types::Timestamp { seconds, nanos } = *wire;
    if !(0..=999_999_999).contains(&nanos) {
        return Err("nanos must be 0 to 999999999");
    }
    seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(i64::from(nanos / 1_000)))
        .and_then(|micros| Timestamp::from_unix_micros(micros).ok())
        .ok_or("must lie in the years 0001 to 9999")
}

fn wire_timestamp(timestamp: Timestamp) -> prost_types::Timestamp {
    let micros = timestamp.unix_micros();
    // Below 1 000 000 000 by construction.
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

/// A key's record on the wire. Organization and digest stay inside: the caller knows the one, nobody needs the other.
pub(crate) fn wire_api_key(key: &ApiKey) -> pb::ApiKey {
    let ApiKeyParts {
        id,
        organization_id: _,
        name,
        prefix,
        digest: _,
        key_type,
        permissions,
        created_at,
        expires_at,
        revoked_at,
        last_used_at,
        revision: _,
    } = key.parts();
    pb::ApiKey {
        id: id.to_string(),
        name: name.as_str().to_owned(),
        prefix: prefix.as_str().to_owned(),
        permissions: permission_numbers(permissions),
        created_at: Some(wire_timestamp(*created_at)),
        last_used_at: last_used_at.map(wire_timestamp),
        expires_at: expires_at.map(wire_timestamp),
        key_type: key_type_number(*key_type),
        revoked_at: revoked_at.map(wire_timestamp),
    }
}

/// The answer of `CreateApiKey`: the one place where a raw key leaves.
pub(crate) fn create_response(issued: &IssuedApiKey) -> pb::CreateApiKeyResponse {
    let IssuedApiKey { key, raw_key } = issued;
    pb::CreateApiKeyResponse { api_key: Some(wire_api_key(key)), raw_key: raw_key.expose().to_owned() }
}

/// The answer of `ListApiKeys`.
pub(crate) fn list_response(listing: &Listing) -> pb::ListApiKeysResponse {
    let Listing { keys, next_page_token, total_count } = listing;
    pb::ListApiKeysResponse {
        api_keys: keys.iter().map(wire_api_key).collect(),
        pagination: Some(pb::PaginationMeta {
            next_page_token: next_page_token.as_ref().map(ToString::to_string).unwrap_or_default(),
            total_count: i32::try_from(*total_count).unwrap_or(i32::MAX),
        }),
    }
}

/// The answer of `VerifyApiKey`.
pub(crate) fn verify_response(verification: &Verification) -> pb::VerifyApiKeyResponse {
    use pb::verify_api_key_response::Verdict;
    let verdict = match verification {
        Verification::Valid(key) => Verdict::Valid(pb::VerifiedApiKey {
            api_key_id: key.id().to_string(),
            organization_id: key.organization_id().as_str().to_owned(),
            permissions: permission_numbers(key.permissions()),
            key_type: key_type_number(key.key_type()),
            expires_at: key.expires_at().map(wire_timestamp),
        }),
        Verification::Rejected { reason, key_id } => Verdict::Rejected(pb::ApiKeyRejection {
            reason: wire_rejection(*reason) as i32,
            api_key_id: key_id.map(|id| id.to_string()).unwrap_or_default(),
        }),
    };
    pb::VerifyApiKeyResponse { verdict: Some(verdict) }
}

const fn wire_rejection(reason: RejectionReason) -> pb::RejectionReason {
    match reason {
        RejectionReason::Malformed => pb::RejectionReason::Malformed,
        RejectionReason::Unknown => pb::RejectionReason::Unknown,
        RejectionReason::Revoked => pb::RejectionReason::Revoked,
        RejectionReason::Expired => pb::RejectionReason::Expired,
        RejectionReason::KeyTypeNotAccepted => pb::RejectionReason::KeyTypeNotAccepted,
        RejectionReason::PermissionMissing => pb::RejectionReason::PermissionMissing,
    }
}

/// The other direction, for our own client.
pub(crate) mod answer {
    use super::{KeyType, RejectionReason, Timestamp, optional_key_type, pb, timestamp};

    /// A permission's name; a number that this version does not know stays a number.
    pub(crate) fn permission_name(number: i32) -> String {
        pb::Permission::try_from(number)
            .map_or_else(|_| number.to_string(), |permission| permission.as_str_name().to_owned())
    }

    pub(crate) fn instant(wire: Option<&prost_types::Timestamp>) -> Result<Option<Timestamp>, &'static str> {
        wire.map(timestamp).transpose()
    }

    pub(crate) fn key_type(number: i32) -> Result<KeyType, &'static str> {
        optional_key_type(number)?.ok_or("is not a type of key")
    }

    pub(crate) fn rejection(number: i32) -> Result<RejectionReason, &'static str> {
        match pb::RejectionReason::try_from(number) {
            Ok(pb::RejectionReason::Malformed) => Ok(RejectionReason::Malformed),
            Ok(pb::RejectionReason::Unknown) => Ok(RejectionReason::Unknown),
            Ok(pb::RejectionReason::Revoked) => Ok(RejectionReason::Revoked),
            Ok(pb::RejectionReason::Expired) => Ok(RejectionReason::Expired),
            Ok(pb::RejectionReason::KeyTypeNotAccepted) => Ok(RejectionReason::KeyTypeNotAccepted),
            Ok(pb::RejectionReason::PermissionMissing) => Ok(RejectionReason::PermissionMissing),
            Ok(pb::RejectionReason::Unspecified) | Err(_) => Err("is not a reason to reject a key"),
        }
    }

    pub(crate) fn wire_key_type(key_type: Option<KeyType>) -> i32 {
        key_type.map_or(pb::KeyType::Unspecified as i32, super::key_type_number)
    }

    pub(crate) fn wire_instant(instant: Timestamp) -> prost_types::Timestamp {
        super::wire_timestamp(instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(violations: Vec<FieldViolation>) -> Vec<String> {
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn the_catalogue_and_the_enum_have_the_same_names_in_the_same_order() {
        let catalogue: Vec<_> = CATALOGUE.iter().map(Permission::as_str).collect();
        let wire: Vec<_> = (1..=2_000)
            .filter_map(|number| pb::Permission::try_from(number).ok())
            .map(|permission| permission.as_str_name())
            .collect();
        assert_eq!(catalogue, wire);
        assert_eq!(permission_numbers(&CATALOGUE.all()), (1..=31).chain([1000]).collect::<Vec<_>>());
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let request = pb::CreateApiKeyRequest {
            name: String::new(),
            permissions: vec![1, 0, 1000, 32, -1],
            expires_at: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }),
            key_type: 3,
        };
        let violations = issue_request(request, [Some("a"), Some("a")].into_iter()).unwrap_err().fields;
        assert_eq!(
            fields(violations),
            ["name", "permissions[1]", "permissions[3]", "permissions[4]", "expires_at", "key_type", "idempotency-key"]
        );
    }

    #[test]
    fn duplicates_collapse_and_unspecified_means_an_api_key() {
        let request =
            pb::CreateApiKeyRequest { name: "a".into(), permissions: vec![1000, 1, 1], expires_at: None, key_type: 0 };
        let read = issue_request(request, [Some("once")].into_iter()).unwrap();
        assert_eq!(permission_numbers(&read.permissions), [1, 1000]);
        assert_eq!(read.key_type, KeyType::ApiKey);
        assert_eq!(read.idempotency_key.unwrap().as_str(), "once");
    }

    #[test]
    fn an_idempotency_key_that_is_empty_or_no_ascii_is_refused() {
        for value in [Some(""), None, Some("a b")] {
            let request = pb::CreateApiKeyRequest { name: "a".into(), ..Default::default() };
            let violations = issue_request(request, [value].into_iter()).unwrap_err().fields;
            assert_eq!(fields(violations), ["idempotency-key"], "{value:?}");
        }
    }

    #[test]
    fn instants_outside_the_calendar_are_refused_and_nanoseconds_are_cut() {
        let read = |seconds, nanos| timestamp(&prost_types::Timestamp { seconds, nanos });
        assert_eq!(read(1, 999).map(Timestamp::unix_micros), Ok(1_000_000));
        assert_eq!(read(-1, 1_999).map(Timestamp::unix_micros), Ok(-999_999));
        assert_eq!(read(253_402_300_799, 999_999_999), Ok(Timestamp::MAX));
        assert_eq!(read(-62_135_596_800, 0), Ok(Timestamp::MIN));
        for (seconds, nanos) in
            [(253_402_300_800, 0), (-62_135_596_801, 0), (i64::MAX, 0), (i64::MIN, 0), (0, 1_000_000_000)]
        {
            assert!(read(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
        for instant in [Timestamp::MIN, Timestamp::MAX, Timestamp::from_unix_micros(-1).unwrap()] {
            assert_eq!(timestamp(&wire_timestamp(instant)), Ok(instant));
        }
    }

    #[test]
    fn only_types_that_were_asked_for_are_accepted() {
        let types = |key_types: &[i32]| {
            let request = pb::VerifyApiKeyRequest { key_types: key_types.to_vec(), ..Default::default() };
            verify_request(request).map(|request| request.key_types).map_err(fields)
        };
        assert_eq!(types(&[]), Ok(KeyTypes::only(KeyType::ApiKey)));
        assert_eq!(types(&[2]), Ok(KeyTypes::only(KeyType::ScimToken)));
        assert_eq!(types(&[2, 1, 2]), Ok(KeyTypes::default().and(KeyType::ScimToken)));
        assert_eq!(types(&[1, 0, 3]), Err(vec!["key_types[1]".into(), "key_types[2]".into()]));
    }

    #[test]
    fn reasons_survive_the_wire() {
        use RejectionReason as Reason;
        let numbered = [
            (Reason::Malformed, 1),
            (Reason::Unknown, 2),
            (Reason::Expired, 3),
            (Reason::Revoked, 4),
            (Reason::PermissionMissing, 5),
            (Reason::KeyTypeNotAccepted, 6),
        ];
        for (reason, number) in numbered {
            assert_eq!(wire_rejection(reason) as i32, number);
            assert_eq!(answer::rejection(number), Ok(reason));
        }
    }
}
