//! The one table of errors: every failure of a call, its code, its stable reason and its `google.rpc` details.
//!
//! A failure carries its cause for the log; the caller sees the message and the details, which never hold one.

use std::{collections::HashMap, error::Error, fmt::Write as _, sync::Arc, time::Duration};

use apikey_application::{
    AuthenticationError, ErrorKind, FieldViolation, IssueError, ListError, RevokeError, VerifyError, ports::StoreError,
};
use apikey_domain::{KeyId, MissingPermissions};
use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{call_span, convert, request_id::RequestId};

/// The domain of `google.rpc.ErrorInfo`: who defines the reasons.
pub(crate) const ERROR_DOMAIN: &str = "pidgr.com";

/// The key of `ErrorInfo.metadata` under which missing permissions stand, by name, separated by commas.
pub(crate) const MISSING_PERMISSIONS: &str = "missing_permissions";

/// The type of resource in `google.rpc.ResourceInfo`.
pub(crate) const API_KEY_RESOURCE: &str = "pidgr.v1.ApiKey";

/// When a caller may try again. Long enough that a thousand waiting callers are no burden, short enough for a person.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The most field violations in one answer. They travel in headers, of which common clients take 8 KiB.
const MAX_VIOLATIONS: usize = 16;

type Cause = Box<dyn Error + Send + Sync>;

/// A call that failed: what the caller is told, and what the log is.
pub(crate) struct Failure {
    code: Code,
    reason: &'static str,
    message: String,
    details: Box<ErrorDetails>,
    metadata: HashMap<String, String>,
    cause: Option<Cause>,
}

/// The only translation of kinds into codes.
const fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    }
}

impl Failure {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let (details, metadata) = (Box::default(), HashMap::new());
        Self { code, reason, message: message.into(), details, metadata, cause: None }
    }

    fn of(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(code_of(kind), reason, message)
    }

    fn retryable(mut self) -> Self {
        self.details.set_retry_info(Some(RETRY_DELAY));
        self
    }

    fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// There is no valid credential. The caller is told just that, whatever the reason for the log is.
    pub(crate) fn unauthenticated(reason: &'static str) -> Self {
        Self::of(ErrorKind::Unauthenticated, "UNAUTHENTICATED", "exactly one valid credential is required")
            .caused_by(reason)
    }

    /// The caller lacks these permissions; it learns which.
    pub(crate) fn permission_denied(missing: &MissingPermissions) -> Self {
        let mut permissions: Vec<_> = missing.permissions().iter().collect();
        permissions.sort_by_key(|permission| convert::permission_number(permission));
        let names: Vec<_> = permissions.into_iter().map(apikey_domain::Permission::as_str).collect();
        let names = names.join(",");
        let message = format!("the credential lacks {}", names.replace(',', ", "));
        let mut failure = Self::of(ErrorKind::PermissionDenied, "PERMISSION_MISSING", message);
        failure.metadata.insert(MISSING_PERMISSIONS.to_owned(), names);
        failure
    }

    /// Fields of the request are wrong.
    pub(crate) fn invalid_fields(violations: Vec<FieldViolation>) -> Self {
        let mut message = "the request is not valid".to_owned();
        let mut details = ErrorDetails::new();
        let more = violations.len().saturating_sub(MAX_VIOLATIONS);
        for (index, FieldViolation { field, description }) in violations.into_iter().take(MAX_VIOLATIONS).enumerate() {
            let separator = if index == 0 { ": " } else { "; " };
            let _ = write!(message, "{separator}{field} {description}");
            details.add_bad_request_violation(field, description);
        }
        if more > 0 {
            let _ = write!(message, "; and {more} more");
        }
        let details = Box::new(details);
        Self { details, ..Self::of(ErrorKind::InvalidArgument, "INVALID_FIELDS", message) }
    }

    /// The message cannot be decoded.
    pub(crate) fn malformed_message(description: &str) -> Self {
        let message = format!("the message cannot be decoded: {description}");
        let mut failure = Self::of(ErrorKind::InvalidArgument, "MALFORMED_MESSAGE", message);
        failure.details.add_bad_request_violation("message", description);
        failure
    }

    /// A field of the message cannot be decoded.
    pub(crate) fn malformed_field(field: String, description: String) -> Self {
        let message = format!("the message cannot be decoded: {field} {description}");
        let mut failure = Self::of(ErrorKind::InvalidArgument, "MALFORMED_MESSAGE", message);
        failure.details.add_bad_request_violation(field, description);
        failure
    }

    /// There is no such key in the caller's organization. Nothing in it tells one id from another.
    pub(crate) fn api_key_not_found() -> Self {
        Self::of(ErrorKind::NotFound, "API_KEY_NOT_FOUND", "the organization has no such API key")
    }

    /// The request was carried out before and issued that key.
    pub(crate) fn already_issued(key_id: KeyId) -> Self {
        let message = "the request was carried out before; its answer cannot be repeated";
        let mut failure = Self::of(ErrorKind::AlreadyExists, "API_KEY_ALREADY_ISSUED", message);
        let description = "the API key that the request issued; revoke it if its value was lost";
        failure.details.set_resource_info(API_KEY_RESOURCE, key_id.to_string(), "", description);
        failure
    }

    /// The service sheds load before it has begun with the call.
    pub(crate) fn overloaded() -> Self {
        Self::of(ErrorKind::ResourceExhausted, "OVERLOADED", "the service is overloaded; try again later").retryable()
    }

    /// A stream that waited has lasted as long as it may, or the listener stops.
    pub(crate) fn stream_ended() -> Self {
        let message = "the stream has lasted as long as it may, or the service stops: ask again";
        Self::of(ErrorKind::Unavailable, "STREAM_ENDED", message).retryable()
    }

    /// The organization, or the caller, changes more in a second than it may.
    fn too_many_changes(kind: ErrorKind) -> Self {
        Self::of(kind, "TOO_MANY_CHANGES", "more changes were asked for than are allowed in a second").retryable()
    }

    /// The message is larger than the limit.
    fn message_too_large(description: &str) -> Self {
        Self::of(ErrorKind::ResourceExhausted, "MESSAGE_TOO_LARGE", description)
    }

    /// The caller's or the service's own time limit has passed.
    pub(crate) fn deadline_exceeded() -> Self {
        let message = "the call took longer than its time limit; a change may have been made";
        Self::of(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", message).retryable()
    }

    /// A defect of ours: a fixed text for the caller, the cause for the log.
    pub(crate) fn internal(cause: impl Into<Cause>) -> Self {
        Self::of(ErrorKind::Internal, "INTERNAL", "an internal error; its request id identifies it in the log")
            .caused_by(cause)
    }

    /// A status that tonic or one of its services made.
    fn foreign(status: &Status) -> Self {
        let message = status.message();
        match status.code() {
            // What tonic says of a message that it cannot read. A defect of ours has details by now.
            Code::Internal | Code::Unknown => Self::malformed_message(message),
            // Too large as it was announced, or once it was decompressed.
            Code::OutOfRange | Code::ResourceExhausted => Self::message_too_large(message),
            Code::Unimplemented if message.is_empty() => {
                Self::new(Code::Unimplemented, "METHOD_UNKNOWN", "there is no such method")
            }
            code => Self::new(code, reason_of(code), message),
        }
    }

    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    /// Says what happened in the log, once, and becomes what the caller is told.
    pub(crate) fn into_status(self, request_id: &RequestId) -> Status {
        self.report();
        let Self { code, reason, message, mut details, metadata, cause: _ } = self;
        details.set_error_info(reason, ERROR_DOMAIN, metadata).set_request_info(request_id.as_str(), "");
        let mut headers = HeaderMap::new();
        if code == Code::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Status::with_error_details_and_metadata(code, message, *details, MetadataMap::from_headers(headers))
    }

    fn report(&self) {
        let Some(cause) = &self.cause else { return };
        let (reason, cause) = (self.reason, chain(cause.as_ref()));
        let _said_in = call_span().entered();
        match self.code {
            Code::Internal => tracing::error!(reason, cause, "the call failed by a defect"),
            Code::Unauthenticated => tracing::info!(reason, cause, "the call was refused"),
            _ => tracing::warn!(reason, cause, "the call failed"),
        }
    }
}

/// An error and what caused it, on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// The reason of a status that has no better one: the code's own name.
fn reason_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The name of a code, as metrics and logs show it.
pub(crate) fn code_name(code: Code) -> &'static str {
    reason_of(code)
}

/// Gives an error that does not have them its details: one that tonic made. `headers` are those of an answer without a body, or
/// the trailers of a stream. Returns the code that they tell.
pub(crate) fn complete(headers: &mut HeaderMap, request_id: &RequestId) -> Option<Code> {
    if headers.get(Status::GRPC_STATUS)? == "0" {
        return Some(Code::Ok);
    }
    let status = Status::from_header_map(headers)?;
    if status.code() == Code::Ok || !status.details().is_empty() {
        return Some(status.code());
    }
    let failure = Failure::foreign(&status);
    let code = failure.code();
    // Fails only where a text is no header; then the status stays as it was, which is an error all the same.
    let _ = failure.into_status(request_id).add_header(headers);
    Some(code)
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of_store(Arc::new(error))
    }
}

impl Failure {
    /// A failure of the store, which others may share.
    fn of_store(error: Arc<StoreError>) -> Self {
        let kind = ErrorKind::from(&*error);
        let failure = match &*error {
            StoreError::Unavailable(_) => {
                Self::of(kind, "STORE_UNAVAILABLE", "the store cannot be reached").retryable()
            }
            StoreError::TimedOut => Self::of(kind, "STORE_TIMED_OUT", "the store did not answer in time").retryable(),
            StoreError::Overloaded => Self::overloaded(),
            StoreError::OutcomeUnknown(_) => {
                Self::of(kind, "OUTCOME_UNKNOWN", "the change may have been made or not").retryable()
            }
            StoreError::Defect(_) => return Self::internal(error),
        };
        failure.caused_by(error)
    }
}

impl From<AuthenticationError> for Failure {
    fn from(error: AuthenticationError) -> Self {
        match error {
            AuthenticationError::Rejected { reason } => Self::unauthenticated(reason),
            AuthenticationError::TooManyFailures => {
                let message = "too many attempts to authenticate from this address have failed; try again later";
                Self::of(error.kind(), "TOO_MANY_FAILED_ATTEMPTS", message).retryable()
            }
            AuthenticationError::Store(error) => Self::of_store(error),
            AuthenticationError::IssuerUnavailable(_) => {
                let message = "the credential's issuer cannot be reached";
                Self::of(error.kind(), "ISSUER_UNAVAILABLE", message).retryable().caused_by(error)
            }
        }
    }
}

/// What the log says where the authorizing key fell between its check and the commit.
const CALLER_REVOKED: &str = "the authorizing key was revoked or has expired during the call";

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::PermissionDenied(missing) => Self::permission_denied(&missing),
            IssueError::InvalidFields(violations) => Self::invalid_fields(violations),
            IssueError::AlreadyIssued { key_id } => Self::already_issued(key_id),
            IssueError::CallerRevoked => Self::unauthenticated(CALLER_REVOKED),
            IssueError::TooManyKeys { limit } => {
                let message = format!(
                    "the organization has {limit} keys that are neither revoked nor expired, and may have no more"
                );
                Self::of(error.kind(), "TOO_MANY_KEYS", message)
            }
            IssueError::TooManyChanges => Self::too_many_changes(error.kind()),
            IssueError::Entropy(_) | IssueError::DuplicateKey => Self::internal(error),
            IssueError::Store(error) => error.into(),
        }
    }
}

impl From<ListError> for Failure {
    fn from(error: ListError) -> Self {
        match error {
            ListError::PermissionDenied(missing) => Self::permission_denied(&missing),
            ListError::InvalidFields(violations) => Self::invalid_fields(violations),
            ListError::Store(error) => error.into(),
        }
    }
}

impl From<RevokeError> for Failure {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::PermissionDenied(missing) => Self::permission_denied(&missing),
            RevokeError::InvalidFields(violations) => Self::invalid_fields(violations),
            RevokeError::NotFound => Self::api_key_not_found(),
            RevokeError::CallerRevoked => Self::unauthenticated(CALLER_REVOKED),
            RevokeError::TooManyChanges => Self::too_many_changes(error.kind()),
            RevokeError::Contended => Self::of(error.kind(), "CONTENDED", "the key was changed by others meanwhile")
                .retryable()
                .caused_by(error),
            RevokeError::NotConfirmed(_) => {
                let message = "the key is revoked, but it is not certain yet that every replica knows; try again";
                Self::of(error.kind(), "REVOCATION_NOT_CONFIRMED", message).retryable().caused_by(error)
            }
            RevokeError::Store(error) => error.into(),
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Store(error) => Self::of_store(error),
        }
    }
}

#[cfg(test)]
mod tests;
