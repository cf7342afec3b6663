//! One clear line for everything that a service can answer instead of what was asked for.

use std::error::Error;

use anyhow::anyhow;
use apikey_grpc::client::{ClientError, Code, Refusal, ServiceAddress};

use crate::failure::Failure;

/// What a person needs to know: the reason, the fields, the permissions that are missing, and the request's id.
pub(super) fn explain(error: &ClientError, endpoint: &ServiceAddress) -> Failure {
    match error {
        ClientError::InvalidCredential | ClientError::InvalidIdempotencyKey | ClientError::UnknownPermission(_) => {
            Failure::Usage(error.to_string())
        }
        ClientError::IllegalAnswer(_)
        | ClientError::NoRootCertificates(_)
        | ClientError::Certificate { .. }
        | ClientError::NotConnected(_)
        | ClientError::Unreachable(_)
        | ClientError::AnotherProtocol(_)
        | ClientError::AnotherService(_)
        | ClientError::TimedOut(_) => Failure::Failed(anyhow!("{endpoint}: {}", chain(error))),
        ClientError::Refused(refusal) if is_final(refusal) => Failure::Refused(anyhow!("{}", line(refusal))),
        ClientError::Refused(refusal) => Failure::Failed(anyhow!("{}", line(refusal))),
    }
}

/// Whether the request itself was judged, so that the same one will be refused again.
fn is_final(refusal: &Refusal) -> bool {
    match refusal.code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated => true,
        // A limit that time alone does not lift.
        Code::ResourceExhausted => refusal.retry_delay.is_none(),
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}

fn line(refusal: &Refusal) -> String {
    let Refusal {
        code,
        message,
        reason,
        field_violations,
        missing_permissions,
        resource_name,
        request_id,
        retry_delay,
    } = refusal;
    let mut parts = vec![format!("{code}: {message}")];
    // The message may say it already.
    let new = field_violations.iter().filter(|violation| !message.contains(&violation.description));
    parts.extend(new.map(|violation| format!("{}: {}", violation.field, violation.description)));
    if !missing_permissions.is_empty() {
        parts.push(format!("missing permissions: {}", missing_permissions.join(", ")));
    }
    parts.extend(resource_name.iter().map(|name| format!("resource {name}")));
    parts.extend(retry_delay.iter().map(|delay| format!("try again in {delay:?}")));
    parts.extend(reason.iter().map(|reason| format!("reason {reason}")));
    parts.extend(request_id.iter().map(|id| format!("request {id}")));
    parts.join("; ")
}

/// The error and its causes, each said once.
fn chain(error: &dyn Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use apikey_application::FieldViolation;

    #[test]
    fn a_refusal_is_told_with_everything_that_helps() {
        let refusal = Refusal {
            code: Code::PermissionDenied,
            message: "no".to_owned(),
            reason: Some("PERMISSION_MISSING".to_owned()),
            field_violations: vec![FieldViolation::new("name", "must not be blank")],
            missing_permissions: vec!["A".to_owned(), "B".to_owned()],
            resource_name: Some("key".to_owned()),
            request_id: Some("7".to_owned()),
            retry_delay: Some(Duration::from_secs(1)),
        };
        assert_eq!(
            line(&refusal),
            "PERMISSION_DENIED: no; name: must not be blank; missing permissions: A, B; resource key; try again in 1s; \
             reason PERMISSION_MISSING; request 7"
        );
    }
}
