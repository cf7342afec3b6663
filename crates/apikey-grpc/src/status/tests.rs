//! The table of errors, as callers see it.

use apikey_application::ports::EntropyError;
use apikey_domain::{Permission, PermissionSet, pidgr::CATALOGUE};

use super::*;

fn missing() -> MissingPermissions {
    PermissionSet::empty()
        .require(&CATALOGUE.iter().take(1).chain(CATALOGUE.iter().skip(31)).cloned().collect())
        .unwrap_err()
}

fn violations() -> Vec<FieldViolation> {
    vec![
        FieldViolation::new("name", "must not be blank"),
        FieldViolation::new("permissions[1]", "0 is not a permission"),
    ]
}

fn key_id() -> KeyId {
    KeyId::parse("0198c5f0-7a3b-7cde-8f01-23456789abcd").unwrap()
}

fn store_errors() -> [StoreError; 5] {
    let secret = || "connection refused by host db.internal".into();
    [
        StoreError::Unavailable(secret()),
        StoreError::TimedOut,
        StoreError::Overloaded,
        StoreError::OutcomeUnknown(secret()),
        StoreError::Defect(secret()),
    ]
}

/// Every error of every use case, with the kind that it says it is of.
fn all() -> Vec<(String, ErrorKind, Failure)> {
    let mut all = Vec::new();
    let mut add = |name: String, kind, failure| all.push((name, kind, failure));
    let name = |error: &dyn std::fmt::Debug| {
        let text = format!("{error:?}");
        text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
    };
    macro_rules! each {
        ($type:ident: $($error:expr),+) => { $({
            let error = $error;
            let (label, kind) = (format!("{}::{}", stringify!($type), name(&error)), error.kind());
            add(label, kind, Failure::from(error));
        })+ };
    }
    each!(AuthenticationError:
        AuthenticationError::Rejected { reason: "the key is revoked" },
        AuthenticationError::TooManyFailures, AuthenticationError::IssuerUnavailable("dns".into()));
    each!(IssueError:
        IssueError::PermissionDenied(missing()), IssueError::InvalidFields(violations()),
        IssueError::AlreadyIssued { key_id: key_id() }, IssueError::CallerRevoked,
        IssueError::TooManyKeys { limit: std::num::NonZeroU32::MIN }, IssueError::TooManyChanges,
        IssueError::Entropy(EntropyError("gone".into())), IssueError::DuplicateKey);
    each!(ListError: ListError::PermissionDenied(missing()), ListError::InvalidFields(violations()));
    each!(RevokeError:
        RevokeError::PermissionDenied(missing()), RevokeError::InvalidFields(violations()), RevokeError::NotFound,
        RevokeError::CallerRevoked, RevokeError::TooManyChanges, RevokeError::Contended, RevokeError::NotConfirmed(StoreError::TimedOut));
    for error in store_errors() {
        let label = format!("StoreError::{}", name(&error));
        let kind = ErrorKind::from(&error);
        add(label, kind, error.into());
    }
    // The store's errors keep their meaning, whichever use case they come through.
    for [authenticate, issue, list, revoke, verify] in std::iter::zip(store_errors(), 0..)
        .map(|(_, index)| std::array::from_fn(|_| store_errors().into_iter().nth(index).unwrap()))
    {
        let expected = code_of(ErrorKind::from(&issue));
        for failure in [
            Failure::from(AuthenticationError::Store(Arc::new(authenticate))),
            IssueError::from(issue).into(),
            ListError::from(list).into(),
            RevokeError::from(revoke).into(),
            VerifyError::from(Arc::new(verify)).into(),
        ] {
            assert_eq!(failure.code(), expected);
        }
    }
    all
}

fn row(name: &str, failure: Failure) -> String {
    let status = failure.into_status(&RequestId::missing());
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, "pidgr.com");
    assert_eq!(details.request_info().unwrap().request_id, "-");
    let mut extras = Vec::new();
    extras.extend(info.metadata.iter().map(|(key, value)| format!("{key}={value}")));
    extras.extend(details.bad_request().iter().flat_map(|bad| &bad.field_violations).map(|bad| bad.field.clone()));
    extras.extend(
        details.resource_info().map(|resource| format!("{} {}", resource.resource_type, resource.resource_name)),
    );
    extras.extend(details.retry_info().map(|retry| format!("retry after {:?}", retry.retry_delay.unwrap())));
    extras.extend(status.metadata().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned()));
    let text = format!("{name} → {} {} [{}]", code_name(status.code()), info.reason, extras.join("; "));
    assert!(
        !status.message().is_empty() && !status.message().contains("internal.") && !status.message().contains("db.")
    );
    text
}

#[test]
fn each_error_of_each_use_case_has_its_code_reason_and_details() {
    let rows: Vec<_> = all()
        .into_iter()
        .map(|(name, kind, failure)| {
            assert_eq!(failure.code(), code_of(kind), "{name}");
            row(&name, failure)
        })
        .collect();
    let expected = include_str!("table.txt");
    assert_eq!(rows.join("\n") + "\n", expected, "\n{}\n", rows.join("\n"));
}

#[test]
fn the_cause_of_a_defect_is_not_told() {
    let texts: Vec<_> = [IssueError::DuplicateKey, StoreError::Defect("column x".into()).into()]
        .into_iter()
        .map(|error| Failure::from(error).into_status(&RequestId::missing()).message().to_owned())
        .collect();
    assert_eq!(texts, vec!["an internal error; its request id identifies it in the log"; 2]);
}

#[test]
fn many_violations_stay_within_what_headers_hold() {
    let violations =
        (0..10_000).map(|index| FieldViolation::new(format!("permissions[{index}]"), "0 is not a permission"));
    let status = Failure::invalid_fields(violations.collect()).into_status(&RequestId::missing());
    assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), MAX_VIOLATIONS);
    assert!(status.message().ends_with("and 9984 more"));
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(size < 8 * 1024, "{size}");
}

#[test]
fn missing_permissions_are_named_in_the_order_of_their_numbers() {
    static ADDED_LATER: Permission = Permission::from_static("A_PERMISSION_OF_A_NEWER_VERSION");
    let all: PermissionSet = CATALOGUE.iter().chain([&ADDED_LATER]).cloned().collect();
    let failure = Failure::permission_denied(&PermissionSet::empty().require(&all).unwrap_err());
    let named: Vec<_> = failure.metadata[MISSING_PERMISSIONS].split(',').map(str::to_owned).collect();
    let expected: Vec<_> = [&ADDED_LATER].into_iter().chain(CATALOGUE.iter()).map(ToString::to_string).collect();
    assert_eq!(named, expected);
}

#[test]
fn what_tonic_refuses_gets_details_and_what_we_refused_keeps_its_own() {
    let completed = |status: Status| {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let code = complete(&mut headers, &RequestId::missing()).unwrap();
        let completed = Status::from_header_map(&headers).unwrap();
        assert_eq!(completed.code(), code);
        let reason = completed.get_error_details().error_info().map(|info| info.reason.clone());
        (code, reason.unwrap_or_default())
    };
    for (status, code, reason) in [
        (Status::out_of_range("too large"), Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
        (Status::resource_exhausted("a bomb"), Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
        (Status::internal("cannot decode"), Code::InvalidArgument, "MALFORMED_MESSAGE"),
        (Status::unimplemented(""), Code::Unimplemented, "METHOD_UNKNOWN"),
        (Status::unimplemented("gzip is not supported"), Code::Unimplemented, "UNIMPLEMENTED"),
        (Status::not_found("service"), Code::NotFound, "NOT_FOUND"),
        (Failure::internal("x").into_status(&RequestId::missing()), Code::Internal, "INTERNAL"),
    ] {
        assert_eq!(completed(status), (code, reason.to_owned()));
    }
    assert_eq!(complete(&mut HeaderMap::new(), &RequestId::missing()), None);
}

/// The page that callers read has a row for each code and reason that there is.
#[test]
fn the_page_of_errors_has_every_reason() {
    let page = include_str!("../../../../docs/errors.md");
    let of_use_cases = include_str!("table.txt").lines().map(|row| {
        let (_, told) = row.split_once(" → ").unwrap();
        told.split(' ').collect::<Vec<_>>()
    });
    let of_calls = [
        ["INVALID_ARGUMENT", "MALFORMED_MESSAGE"],
        ["RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"],
        ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"],
        ["UNIMPLEMENTED", "METHOD_UNKNOWN"],
        ["UNIMPLEMENTED", "UNIMPLEMENTED"],
        ["NOT_FOUND", "NOT_FOUND"],
    ];
    for told in of_use_cases.chain(of_calls.map(|told| told.to_vec())) {
        let [code, reason, ..] = told[..] else { panic!("{told:?}") };
        assert!(page.contains(&format!("| `{code}` | `{reason}` |")), "{code} {reason}");
    }
}
