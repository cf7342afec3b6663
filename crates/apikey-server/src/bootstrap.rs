//! Issues a first management key for an organization, by the same use case as every other key.

use std::{
    io::{self, StdoutLock, Write},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use apikey_application::{
    Caller, FieldViolation, IdempotencyKey, IssueApiKey, IssueError, IssueRequest, IssuedApiKey, Policy,
    ports::KeyStore,
};
use apikey_domain::{
    Actor, KeyName, KeyType, OrganizationId, Origin, Permission, PermissionCatalogue, PermissionSet, Principal,
    Timestamp,
};
use tokio::{sync::oneshot, time::timeout};

use crate::system::{SystemClock, SystemEntropy};

/// Under this name the first start of a service issues its key at most once, also where several start together.
const FIRST_START: &str = "first-start";

/// How long the start waits for whoever reads standard output.
const SHOW: Duration = Duration::from_secs(5);

/// Whom the first key of a new store is for.
const FIRST_ORGANIZATION: &str = "default";

/// What the names of the permissions of the platform's own staff start with.
const OF_THE_PLATFORM: &str = "PERMISSION_PLATFORM_";

/// What a bootstrap key shall be.
pub(crate) struct Bootstrap {
    pub(crate) organization_id: OrganizationId,
    pub(crate) name: KeyName,
    pub(crate) permissions: PermissionSet,
    pub(crate) expires_at: Option<Timestamp>,
}

/// Issues the key.
///
/// # Errors
/// The store fails.
pub(crate) async fn issue<S: KeyStore>(store: Arc<S>, bootstrap: Bootstrap) -> anyhow::Result<IssuedApiKey> {
    issue_once(store, bootstrap, None).await.map_err(|error| match error {
        IssueError::InvalidFields(fields) => anyhow!("{}", fields.iter().map(sentence).collect::<Vec<_>>().join("; ")),
        error => anyhow::Error::new(error).context("the key could not be issued"),
    })
}

/// Issues the first key of a new store, and prints it on a line of its own on standard output: never through the logger.
///
/// # Errors
/// The store fails, or standard output does: then the key is lost, and `bootstrap` issues another.
pub(crate) async fn issue_at_first_start<S: KeyStore>(store: Arc<S>) -> anyhow::Result<()> {
    let bootstrap = Bootstrap {
        organization_id: OrganizationId::parse(FIRST_ORGANIZATION)?,
        name: KeyName::parse("bootstrap")?,
        permissions: ordinary_permissions(),
        expires_at: None,
    };
    match issue_once(store, bootstrap, Some(IdempotencyKey::parse(FIRST_START)?)).await {
        Ok(issued) => {
            tracing::info!(
                organization = FIRST_ORGANIZATION,
                key_id = %issued.key.id(),
                "the store is new: a management key was issued, and is shown once, on standard output"
            );
            if let Ok(printed) = timeout(SHOW, print(issued)).await {
                printed.context("the key of the first start could not be shown: run `apikeys bootstrap`")
            } else {
                tracing::warn!(
                    "the key is not shown until standard output is read; `apikeys bootstrap` issues another"
                );
                Ok(())
            }
        }
        // Another process that started at the same time was faster, and showed it.
        Err(IssueError::AlreadyIssued { .. }) => Ok(()),
        Err(error) => Err(anyhow::Error::new(error).context("the first key could not be issued")),
    }
}

/// Prints the key alone. Standard output may be a pipe that nobody reads: a thread of its own waits for that.
///
/// # Errors
/// Those of standard output.
pub(crate) async fn print(issued: IssuedApiKey) -> io::Result<()> {
    let (done, printed) = oneshot::channel();
    thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let write = |mut out: StdoutLock<'_>| {
            writeln!(out, "{}", issued.raw_key.expose())?;
            out.flush()
        };
        // Whoever waited may have gone on.
        let _ = done.send(write(io::stdout().lock()));
    })?;
    printed.await.unwrap_or_else(|_| Err(io::Error::other("the thread that prints ended early")))
}

/// What a first key may do where nobody says otherwise: all but what is for the platform's own staff.
pub(crate) fn ordinary_permissions() -> PermissionSet {
    let all = Policy::pidgr().catalogue.all();
    all.iter().filter(|permission| !permission.as_str().starts_with(OF_THE_PLATFORM)).cloned().collect()
}

/// The permission of that name, which may leave `PERMISSION_` out.
pub(crate) fn permission(catalogue: PermissionCatalogue, name: &str) -> Option<&'static Permission> {
    catalogue.find(name).or_else(|| catalogue.find(&format!("PERMISSION_{name}")))
}

async fn issue_once<S: KeyStore>(
    store: Arc<S>,
    bootstrap: Bootstrap,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<IssuedApiKey, IssueError> {
    let Bootstrap { organization_id, name, permissions, expires_at } = bootstrap;
    let policy = Policy::pidgr();
    let principal = Principal { organization_id, permissions: policy.catalogue.all(), actor: Actor::operator() };
    let caller = Caller { principal, origin: Origin::default() };
    let request = IssueRequest { name, permissions, expires_at, key_type: KeyType::ApiKey, idempotency_key };
    let use_case = IssueApiKey::new(store, Arc::new(SystemClock), Arc::new(SystemEntropy), policy);
    use_case.issue(&caller, Ok(request)).await
}

fn sentence(violation: &FieldViolation) -> String {
    format!("{}: {}", violation.field, violation.description)
}
