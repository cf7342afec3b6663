//! `verify`: the verdict on a key. A rejected key is an answer, and exit code 1; that there is no answer has others.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use apikey_domain::RejectionReason;
use apikey_grpc::client::{ClientError, VerificationClient, VerifyAnswer, VerifyQuery};
use clap::ArgMatches;
use serde_json::{Value, json};

use super::{explain::explain, instants::rfc3339, key_types, prompt, show, table, texts};
use crate::{config::ClientSettings, failure::Failure};

pub(super) async fn run(matches: &ArgMatches, settings: &ClientSettings) -> Result<ExitCode, Failure> {
    let raw_key = match &settings.verify_key {
        Some(key) => key.clone(),
        None => prompt::secret("The key to verify")?,
    };
    let endpoint = &settings.endpoint;
    let token = settings.verify_token.as_ref().map(|token| token.as_str());
    let undecided = |error: ClientError| undecided(explain(&error, endpoint));
    let mut client = VerificationClient::connect(endpoint, token, settings.timeout).await.map_err(undecided)?;
    let (required_permissions, key_types) = (texts(matches, "permission"), key_types(matches));
    let query = VerifyQuery {
        raw_key: &raw_key,
        required_permissions: &required_permissions,
        key_types: &key_types,
        strict: matches.get_flag("strict"),
    };
    let answer = client.verify(query).await.map_err(undecided)?;

    let mut out = io::stdout().lock();
    if matches.get_flag("json") {
        show::print_json(&mut out, &json_of(&answer))?;
    } else {
        print(&mut out, &answer)?;
    }
    out.flush()?;
    Ok(if matches!(answer, VerifyAnswer::Valid { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A refusal to judge is no judgement: exit code 1 is for rejected keys alone.
fn undecided(failure: Failure) -> Failure {
    match failure {
        Failure::Refused(error) => Failure::Failed(error),
        failure => failure,
    }
}

fn print(out: &mut impl Write, answer: &VerifyAnswer) -> io::Result<()> {
    match answer {
        VerifyAnswer::Valid { api_key_id, organization_id, permissions, key_type, expires_at } => table::fields(
            out,
            &[
                ("verdict", "valid".to_owned()),
                ("id", api_key_id.clone()),
                ("organization", organization_id.clone()),
                ("type", show::type_name(*key_type).to_owned()),
                ("permissions", show::list(permissions)),
                ("expires_at", show::optional(*expires_at)),
            ],
        ),
        VerifyAnswer::Rejected { reason, api_key_id } => {
            let mut fields = vec![("verdict", "rejected".to_owned()), ("reason", reason_name(*reason).to_owned())];
            fields.extend(api_key_id.iter().map(|id| ("id", id.clone())));
            table::fields(out, &fields)
        }
    }
}

fn json_of(answer: &VerifyAnswer) -> Value {
    match answer {
        VerifyAnswer::Valid { api_key_id, organization_id, permissions, key_type, expires_at } => json!({
            "valid": {
                "api_key_id": api_key_id,
                "organization_id": organization_id,
                "permissions": permissions,
                "key_type": key_type.name(),
                "expires_at": expires_at.map(rfc3339),
            }
        }),
        VerifyAnswer::Rejected { reason, api_key_id } => json!({
            "rejected": { "reason": format!("REJECTION_REASON_{}", reason_name(*reason)), "api_key_id": api_key_id }
        }),
    }
}

fn reason_name(reason: RejectionReason) -> &'static str {
    match reason {
        RejectionReason::Malformed => "MALFORMED",
        RejectionReason::Unknown => "UNKNOWN",
        RejectionReason::Expired => "EXPIRED",
        RejectionReason::Revoked => "REVOKED",
        RejectionReason::PermissionMissing => "PERMISSION_MISSING",
        RejectionReason::KeyTypeNotAccepted => "KEY_TYPE_NOT_ACCEPTED",
    }
}
