//! `create`: retry-safe by itself. An answer that is lost is asked for again under the same header; a key whose value is lost is
//! revoked, and another one is created under a new header.

use std::{fmt::Write as _, io, process::ExitCode, time::Duration};

use anyhow::anyhow;
use apikey_application::ports::Entropy as _;
use apikey_domain::Timestamp;
use apikey_grpc::client::{ClientError, Code, CreatedApiKey, ManagementClient, NewApiKey};
use clap::ArgMatches;
use serde_json::json;
use tokio::time::sleep;

use super::{connect, credential, explain::explain, instants, key_types, prompt, show, table, texts};
use crate::{
    config::{self, ClientSettings},
    failure::Failure,
    system::SystemEntropy,
};

/// How often one call is sent before its failure is final.
const ATTEMPTS: u32 = 6;
/// How many keys whose value was lost are revoked and replaced.
const REPLACEMENTS: u32 = 3;
/// The first pause between two attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that a service can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) async fn run(matches: &ArgMatches, settings: &ClientSettings) -> Result<ExitCode, Failure> {
    let new = NewApiKey {
        name: texts(matches, "name").pop().unwrap_or_default(),
        permissions: texts(matches, "permission"),
        expires_at: expires_at(matches)?,
        key_type: key_types(matches).pop(),
    };
    let credential = credential(settings)?;
    let mut client = connect(settings, &credential).await?;
    let created = create(&mut client, &new, &settings.endpoint).await?;

    let mut out = io::stdout().lock();
    if matches.get_flag("json") {
        let answer = json!({ "api_key": show::json_of(&created.key), "raw_key": created.raw_key.as_str() });
        show::print_json(&mut out, &answer)?;
    } else {
        let mut fields = show::fields_of(&created.key);
        fields.push(("raw_key", created.raw_key.to_string()));
        table::fields(&mut out, &fields)?;
        prompt::tell("Store the raw key now: it is not shown again.")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn expires_at(matches: &ArgMatches) -> Result<Option<Timestamp>, Failure> {
    if let Some(text) = texts(matches, "expires-at").pop() {
        let help = "must be an instant in RFC 3339, such as 2027-01-31T00:00:00Z";
        return instants::parse(&text).map(Some).ok_or_else(|| Failure::Usage(format!("--expires-at {help}")));
    }
    let Some(text) = texts(matches, "expires-in").pop() else { return Ok(None) };
    let duration = config::duration(&text).filter(|duration| !duration.is_zero());
    let help = "must be a whole number and a unit (s, m, h, d), such as 30d";
    duration
        .map(|duration| Some(instants::after(duration)))
        .ok_or_else(|| Failure::Usage(format!("--expires-in {help}")))
}

async fn create(client: &mut ManagementClient, new: &NewApiKey, endpoint: &str) -> Result<CreatedApiKey, Failure> {
    for _ in 0..=REPLACEMENTS {
        let idempotency_key = idempotency_key()?;
        match create_once(client, new, &idempotency_key).await {
            Ok(created) => return Ok(created),
            Err(CreateError::Failed(error)) => return Err(explain(&error, endpoint)),
            Err(CreateError::Uncertain(error)) => {
                // It may have been carried out: whoever has to clean up must know.
                prompt::tell("apikeys: a key may have been created all the same: see `apikeys list`, and revoke it")?;
                return Err(explain(&error, endpoint));
            }
            Err(CreateError::ValueLost { id }) => {
                prompt::tell(&format!(
                    "apikeys: the answer with the key {id} was lost: it is revoked, and another created"
                ))?;
                if let Err(error) = revoke(client, &id).await {
                    prompt::tell(&format!("apikeys: the key {id}, whose value was lost, could not be revoked"))?;
                    return Err(explain(&error, endpoint));
                }
            }
        }
    }
    Err(Failure::Failed(anyhow!(
        "{endpoint}: the answers to {REPLACEMENTS} attempts were lost; their keys were revoked"
    )))
}

enum CreateError {
    /// Nothing was created.
    Failed(ClientError),
    /// A key may have been created.
    Uncertain(ClientError),
    /// This key was created, and its value is lost.
    ValueLost { id: String },
}

/// Sends one request, under one header, until there is an answer to it.
async fn create_once(
    client: &mut ManagementClient,
    new: &NewApiKey,
    idempotency_key: &str,
) -> Result<CreatedApiKey, CreateError> {
    let mut uncertain = false;
    let mut attempt = 1;
    loop {
        let error = match client.create(new.clone(), idempotency_key).await {
            Ok(created) => return Ok(created),
            Err(error) => error,
        };
        if let Some(refusal) = error.refusal()
            && refusal.code == Code::AlreadyExists
            && let Some(id) = refusal.resource_name.clone()
        {
            return Err(CreateError::ValueLost { id });
        }
        uncertain |= error.may_have_happened();
        if attempt >= ATTEMPTS || !is_worth_repeating(&error) {
            return Err(if uncertain { CreateError::Uncertain(error) } else { CreateError::Failed(error) });
        }
        pause(attempt, &error).await;
        attempt += 1;
    }
}

/// Revokes a key; repeating that is harmless.
async fn revoke(client: &mut ManagementClient, id: &str) -> Result<(), ClientError> {
    let mut attempt = 1;
    loop {
        let Err(error) = client.revoke(id).await else { return Ok(()) };
        if attempt >= ATTEMPTS || !is_worth_repeating(&error) {
            return Err(error);
        }
        pause(attempt, &error).await;
        attempt += 1;
    }
}

fn is_worth_repeating(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) | ClientError::TimedOut => true,
        ClientError::Refused(refusal) => matches!(
            refusal.code,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::ResourceExhausted
        ),
        ClientError::InvalidEndpoint(_)
        | ClientError::InvalidCredential
        | ClientError::InvalidIdempotencyKey
        | ClientError::UnknownPermission(_)
        | ClientError::IllegalAnswer(_) => false,
    }
}

async fn pause(attempt: u32, error: &ClientError) {
    let asked = error.refusal().and_then(|refusal| refusal.retry_delay).unwrap_or_default();
    let own = FIRST_PAUSE * 2_u32.saturating_pow(attempt - 1);
    sleep(own.max(asked).min(LONGEST_PAUSE)).await;
}

/// A name for one request: 128 random bits in hexadecimal.
fn idempotency_key() -> Result<String, Failure> {
    let mut random = [0_u8; 16];
    SystemEntropy.fill(&mut random).map_err(anyhow::Error::new)?;
    Ok(random.iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
