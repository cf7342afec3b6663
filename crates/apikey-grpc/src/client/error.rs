//! What can go wrong for a client, without a type of tonic in it. Never holds a credential or a key.

use std::{error::Error, fmt, io, iter, time::Duration};

use apikey_application::FieldViolation;
use http::StatusCode;
use rustls::CertificateError;
use tonic::Status;
use tonic_types::StatusExt;

use crate::status::{MISSING_PERMISSIONS, code_name};

/// A call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The credential cannot be sent in a header.
    #[error("the credential is empty or holds other characters than visible ASCII")]
    InvalidCredential,
    /// The idempotency key cannot be sent in a header.
    #[error("the idempotency key holds other characters than visible ASCII")]
    InvalidIdempotencyKey,
    /// There is no such permission.
    #[error("{0:?} is not a permission")]
    UnknownPermission(String),
    /// The machine trusts no CA, so that no `https://` address can be proven.
    #[error(
        "the machine has no CA certificates, which https:// needs: install them (ca-certificates), or name a file by SSL_CERT_FILE"
    )]
    NoRootCertificates(#[source] Option<rustls_native_certs::Error>),
    /// The service's certificate is not accepted.
    #[error("the service's certificate is not accepted: {advice}")]
    Certificate {
        /// What to do about it.
        advice: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// There was no connection in that time: no look-up of the name, no TCP, or no TLS.
    #[error("no connection was set up within {0:?}")]
    NotConnected(Duration),
    /// There is no connection, or it broke.
    #[error("the service cannot be reached")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// What is there is another protocol, or not encrypted as the address says.
    #[error("this is not how the service is reached: {0}")]
    AnotherProtocol(&'static str),
    /// What answered speaks HTTP/2 and is not this service.
    #[error("what answers is not this service, or not this listener of it")]
    AnotherService(#[source] NotGrpc),
    /// No answer came in that time.
    #[error("the service did not answer within {0:?}")]
    TimedOut(Duration),
    /// The service answered with an error.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The answer is not one that this version understands.
    #[error("the answer cannot be understood: {0}")]
    IllegalAnswer(&'static str),
}

impl ClientError {
    /// Whether the request may have been carried out all the same, so that only a repetition tells.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut(_) | Self::IllegalAnswer(_) => true,
            Self::Refused(refusal) => matches!(
                refusal.code,
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal | Code::Unknown
            ),
            Self::InvalidCredential
            | Self::InvalidIdempotencyKey
            | Self::UnknownPermission(_)
            | Self::NoRootCertificates(_)
            | Self::Certificate { .. }
            | Self::NotConnected(_)
            | Self::AnotherProtocol(_)
            | Self::AnotherService(_) => false,
        }
    }

    /// The service's own answer, where there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }
}

/// An error as the service told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// What is wrong, for people.
    pub message: String,
    /// What is wrong, for programs; stable.
    pub reason: Option<String>,
    /// The fields that are wrong.
    pub field_violations: Vec<FieldViolation>,
    /// The permissions that the caller lacks, by name.
    pub missing_permissions: Vec<String>,
    /// The name of the resource that the error is about: a key's id.
    pub resource_name: Option<String>,
    /// The request's id, under which the service's log has more.
    pub request_id: Option<String>,
    /// How long to wait before another attempt.
    pub retry_delay: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl Error for Refusal {}

/// The codes of gRPC that are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "defined by gRPC, name by name")]
pub enum Code {
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl Code {
    const fn from_tonic(code: tonic::Code) -> Self {
        use tonic::Code as Wire;
        match code {
            // An error with the code of success is none that anybody knows.
            Wire::Ok | Wire::Unknown => Self::Unknown,
            Wire::Cancelled => Self::Cancelled,
            Wire::InvalidArgument => Self::InvalidArgument,
            Wire::DeadlineExceeded => Self::DeadlineExceeded,
            Wire::NotFound => Self::NotFound,
            Wire::AlreadyExists => Self::AlreadyExists,
            Wire::PermissionDenied => Self::PermissionDenied,
            Wire::ResourceExhausted => Self::ResourceExhausted,
            Wire::FailedPrecondition => Self::FailedPrecondition,
            Wire::Aborted => Self::Aborted,
            Wire::OutOfRange => Self::OutOfRange,
            Wire::Unimplemented => Self::Unimplemented,
            Wire::Internal => Self::Internal,
            Wire::Unavailable => Self::Unavailable,
            Wire::DataLoss => Self::DataLoss,
            Wire::Unauthenticated => Self::Unauthenticated,
        }
    }

    const fn into_tonic(self) -> tonic::Code {
        use tonic::Code as Wire;
        match self {
            Self::Unknown => Wire::Unknown,
            Self::Cancelled => Wire::Cancelled,
            Self::InvalidArgument => Wire::InvalidArgument,
            Self::DeadlineExceeded => Wire::DeadlineExceeded,
            Self::NotFound => Wire::NotFound,
            Self::AlreadyExists => Wire::AlreadyExists,
            Self::PermissionDenied => Wire::PermissionDenied,
            Self::ResourceExhausted => Wire::ResourceExhausted,
            Self::FailedPrecondition => Wire::FailedPrecondition,
            Self::Aborted => Wire::Aborted,
            Self::OutOfRange => Wire::OutOfRange,
            Self::Unimplemented => Wire::Unimplemented,
            Self::Internal => Wire::Internal,
            Self::Unavailable => Wire::Unavailable,
            Self::DataLoss => Wire::DataLoss,
            Self::Unauthenticated => Wire::Unauthenticated,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(code_name(self.into_tonic()))
    }
}

/// An answer of HTTP that is none of gRPC.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("an answer with HTTP status {0}, which is none of gRPC")]
pub struct NotGrpc(pub(super) StatusCode);

impl NotGrpc {
    /// What proxies answer in the place of a service that they cannot reach.
    fn is_of_a_proxy(self) -> bool {
        matches!(
            self.0,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        )
    }
}

impl ClientError {
    /// No connection was made.
    pub(super) fn connecting(source: Box<dyn Error + Send + Sync>) -> Self {
        match advice(source.as_ref()) {
            Some(advice) => Self::Certificate { advice, source },
            None => Self::Unreachable(source),
        }
    }

    /// What a call that had so much time came to.
    pub(super) fn of(status: Status, timeout: Duration) -> Self {
        let details = status.get_error_details();
        if details.request_info().is_none() {
            // Not from the service, or not from this one.
            if cause::<tonic::TimeoutExpired>(&status).is_some() {
                return Self::TimedOut(timeout);
            }
            if let Some(answer) = cause::<NotGrpc>(&status) {
                let answer = *answer;
                return if answer.is_of_a_proxy() {
                    Self::Unreachable(Box::new(answer))
                } else {
                    Self::AnotherService(answer)
                };
            }
            if cause::<tonic::transport::Error>(&status).is_some() || cause::<hyper::Error>(&status).is_some() {
                return Self::connecting(Box::new(status));
            }
        }
        let info = details.error_info();
        let missing = info.and_then(|info| info.metadata.get(MISSING_PERMISSIONS));
        let violations = details.bad_request().map(|bad_request| bad_request.field_violations.as_slice());
        Self::Refused(Box::new(Refusal {
            code: Code::from_tonic(status.code()),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()),
            field_violations: violations
                .unwrap_or_default()
                .iter()
                .map(|violation| FieldViolation::new(violation.field.clone(), violation.description.clone()))
                .collect(),
            missing_permissions: missing.map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default(),
            resource_name: details.resource_info().map(|resource| resource.resource_name.clone()),
            request_id: details.request_info().map(|request| request.request_id.clone()),
            retry_delay: details.retry_info().and_then(|retry| retry.retry_delay),
        }))
    }
}

impl From<&'static str> for ClientError {
    fn from(what: &'static str) -> Self {
        Self::IllegalAnswer(what)
    }
}

/// An error and what it was made of; an `io::Error` does not name that as its source.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error| match (*error).downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => (*error).source(),
    })
}

fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// What to do about a certificate, where that was why there is no connection.
fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let Some(rustls::Error::InvalidCertificate(refused)) = cause::<rustls::Error>(error) else { return None };
    Some(match refused {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no CA that this machine trusts has signed it; name the file of its CA by SSL_CERT_FILE"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for other names than the host in the address"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet",
        // The library's own errors have no type of their own here.
        CertificateError::Other(error) if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            "it is a CA's (a self-signed one as openssl makes it); make one for the server with basicConstraints=CA:FALSE and a \
             subjectAltName, signed by that CA"
        }
        _ => "it cannot be used",
    })
}
