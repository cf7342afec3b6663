//! The client: `create`, `list`, `revoke`, `verify`. It asks the service, shows the answer, and knows no rule of its own.

mod create;
mod explain;
mod instants;
mod list;
mod prompt;
mod revoke;
mod show;
mod table;
mod verify;

use std::process::ExitCode;

use anyhow::Context as _;
use apikey_domain::KeyType;
use apikey_grpc::client::ManagementClient;
use clap::ArgMatches;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::{
    config::{ClientSettings, Effective},
    failure::Failure,
};
use explain::explain;

/// Runs one of the client's commands.
///
/// # Errors
/// [`Failure`], to be reported.
pub(crate) fn run(command: &str, matches: &ArgMatches, effective: &Effective) -> Result<ExitCode, Failure> {
    let settings = match command {
        "verify" => ClientSettings::of_verification(effective)?,
        _ => ClientSettings::of_management(effective)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    finish(runtime, async {
        match command {
            "create" => create::run(matches, &settings).await,
            "list" => list::run(matches, &settings).await,
            "revoke" => revoke::run(matches, &settings).await,
            "verify" => verify::run(matches, &settings).await,
            other => Err(Failure::Usage(format!("{other} is no command"))),
        }
    })
}

/// Runs that, and waits for nothing that it leaves behind: the look-up of a name goes on after its time is over.
fn finish<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// The caller's own credential: the variable's, or what the caller types.
fn credential(settings: &ClientSettings) -> Result<Zeroizing<String>, Failure> {
    match &settings.key {
        Some(key) => Ok(key.clone()),
        None => prompt::secret("Your own API key"),
    }
}

async fn connect(settings: &ClientSettings, credential: &str) -> Result<ManagementClient, Failure> {
    let connecting = ManagementClient::connect(&settings.endpoint, credential, settings.timeout);
    connecting.await.map_err(|error| explain(&error, &settings.endpoint))
}

/// The types of key that flags name.
fn key_types(matches: &ArgMatches) -> Vec<KeyType> {
    let names = matches.get_many::<String>("key-type").into_iter().flatten();
    names.map(|name| if name == "scim-token" { KeyType::ScimToken } else { KeyType::ApiKey }).collect()
}

/// The texts that flags of that name give.
fn texts(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches.get_many::<String>(name).into_iter().flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_look_up_that_hangs_is_not_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (release, hangs) = mpsc::channel::<()>();
        let (start, started) = mpsc::channel();
        finish(runtime, async move {
            tokio::task::spawn_blocking(move || {
                start.send(()).unwrap();
                hangs.recv()
            });
            started.recv().unwrap();
        });
        drop(release);
    }
}
