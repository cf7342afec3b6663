//! `create`: retry-safe by itself. An answer that is lost is asked for again under the same header; a key whose value is lost is
//! revoked, and another one is created under a new header.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::anyhow;
use apikey_application::ports::Entropy as _;
use apikey_domain::Timestamp;
use apikey_grpc::client::{ClientError, Code, CreatedApiKey, ManagementClient, NewApiKey, ServiceAddress};
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
    let end = end(matches)?;
    let credential = credential(settings)?;
    let mut client = connect(settings, &credential).await?;
    let new = NewApiKey {
        name: texts(matches, "name").pop().unwrap_or_default(),
        permissions: texts(matches, "permission"),
        expires_at: expires_at(end, &mut client, &settings.endpoint).await?,
        key_type: key_types(matches).pop(),
    };
    let created = create(&mut client, &new, &settings.endpoint).await?;

    print(&created, matches.get_flag("json")).map_err(|error| {
        let id = &created.key.id;
        Failure::KeyLost(anyhow!("the key {id} was created and could not be shown: revoke it ({error})"))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn print(created: &CreatedApiKey, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let answer = json!({ "api_key": show::json_of(&created.key), "raw_key": created.raw_key.as_str() });
        show::print_json(&mut out, &answer)?;
    } else {
        let mut fields = show::fields_of(&created.key);
        fields.push(("raw_key", created.raw_key.to_string()));
        table::fields(&mut out, &fields)?;
    }
    out.flush()?;
    if !as_json {
        prompt::tell("Store the raw key now: it is not shown again.");
    }
    Ok(())
}

/// When a key stops being valid, as the command line has it.
enum End {
    Never,
    At(Timestamp),
    In(Duration),
}

fn end(matches: &ArgMatches) -> Result<End, Failure> {
    if let Some(text) = texts(matches, "expires-at").pop() {
        let help = "must be an instant in RFC 3339, such as 2027-01-31T00:00:00Z";
        return instants::parse(&text).map(End::At).ok_or_else(|| Failure::Usage(format!("--expires-at {help}")));
    }
    let Some(text) = texts(matches, "expires-in").pop() else { return Ok(End::Never) };
    let help = "must be a whole number and a unit (s, m, h, d), such as 30d";
    let duration = config::duration(&text).filter(|duration| !duration.is_zero());
    duration.map(End::In).ok_or_else(|| Failure::Usage(format!("--expires-in {help}")))
}

/// The instant, by the service's clock and not by this machine's, which may be wrong.
async fn expires_at(
    end: End,
    client: &mut ManagementClient,
    endpoint: &ServiceAddress,
) -> Result<Option<Timestamp>, Failure> {
    let duration = match end {
        End::Never => return Ok(None),
        End::At(instant) => return Ok(Some(instant)),
        End::In(duration) => duration,
    };
    let now = repeated(async || client.service_time().await).await.map_err(|error| explain(&error, endpoint))?;
    let instant = now.saturating_add(duration);
    if instant == Timestamp::MAX {
        return Err(Failure::Usage(
            "--expires-in ends after the year 9999: leave it out for a key without end".to_owned(),
        ));
    }
    Ok(Some(instant))
}

async fn create(
    client: &mut ManagementClient,
    new: &NewApiKey,
    endpoint: &ServiceAddress,
) -> Result<CreatedApiKey, Failure> {
    for _ in 0..=REPLACEMENTS {
        let idempotency_key = idempotency_key()?;
        match create_once(client, new, &idempotency_key).await {
            Ok(created) => return Ok(created),
            Err(CreateError::Failed(error)) => return Err(explain(&error, endpoint)),
            Err(CreateError::Uncertain(error)) => {
                let why = explain(&error, endpoint).text();
                let help = "a key may have been created all the same: see `apikeys list`, and revoke it";
                return Err(Failure::KeyLost(anyhow!("{why}; {help}")));
            }
            Err(CreateError::ValueLost { id }) => {
                prompt::tell(&format!(
                    "apikeys: the answer with the key {id} was lost: it is revoked, and another created"
                ));
                if let Err(error) = repeated(async || client.revoke(&id).await).await {
                    let why = explain(&error, endpoint).text();
                    return Err(Failure::KeyLost(anyhow!(
                        "the key {id}, whose value was lost, could not be revoked: {why}"
                    )));
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

/// Makes a call that may be repeated without harm, until there is an answer to it.
async fn repeated<T>(mut call: impl AsyncFnMut() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let mut attempt = 1;
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if attempt >= ATTEMPTS || !is_worth_repeating(&error) {
            return Err(error);
        }
        pause(attempt, &error).await;
        attempt += 1;
    }
}

fn is_worth_repeating(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) | ClientError::NotConnected(_) | ClientError::TimedOut(_) => true,
        ClientError::Refused(refusal) => matches!(
            refusal.code,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::ResourceExhausted
        ),
        ClientError::NoRootCertificates(_)
        | ClientError::Certificate { .. }
        | ClientError::AnotherProtocol(_)
        | ClientError::AnotherService(_)
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
