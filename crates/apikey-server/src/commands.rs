//! The commands: what the command line and the settings say becomes a call.

use std::{ffi::OsString, io, process::ExitCode};

use anyhow::{Context as _, anyhow};
use apikey_application::{Policy, ports::Clock as _};
use apikey_domain::{KeyName, OrganizationId, PermissionSet};
use clap::ArgMatches;

use crate::{
    Decorate,
    bootstrap::{self, Bootstrap},
    cli, client,
    config::{self, Backend, ClientSettings, Effective, LogSettings, Scope, ServerSettings},
    core_dumps::CoreDumps,
    failure::Failure,
    runtimes::Runtimes,
    serve,
    signals::{Signals, StopSignals},
    stores,
    system::SystemClock,
    telemetry,
};

/// What was set up before anything else.
pub(crate) struct Process {
    pub(crate) signals: Signals,
    pub(crate) core_dumps: CoreDumps,
}

/// Runs the command that was asked for.
///
/// # Errors
/// [`Failure`], to be reported.
pub(crate) fn run(matches: &ArgMatches, decorate: &impl Decorate, process: Process) -> Result<ExitCode, Failure> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Failure::Usage("there is no command".to_owned()));
    };
    match name {
        "serve" => {
            // Also while settings are read: a service that is told to read them does not end.
            let Process { signals, core_dumps } = process;
            let _reload = signals.reload();
            let settings = start_server_command(matches, core_dumps)?;
            serve::run(settings, decorate, &signals)?;
            Ok(ExitCode::SUCCESS)
        }
        "migrate" => migrate(matches, process),
        "bootstrap" => run_bootstrap(matches, process),
        "config" => print_config(matches),
        _ => client::run(name, matches, &settings(Scope::Client, matches)?),
    }
}

/// The settings in force for commands of that scope.
fn settings(scope: Scope, matches: &ArgMatches) -> Result<Effective, Failure> {
    Ok(config::resolve(scope, cli::flags(matches)?, environment())?)
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

fn start_server_command(matches: &ArgMatches, core_dumps: CoreDumps) -> Result<ServerSettings, Failure> {
    let effective = settings(Scope::Server, matches)?;
    telemetry::start_logs(LogSettings::of(&effective)?)?;
    tell_of_ignored(&effective);
    core_dumps.settle(config::allows_core_dumps(&effective)?);
    let settings = ServerSettings::of(&effective)?;
    if let Backend::Postgres(_) = settings.backend {
        warn_of_variables_for_others();
    }
    Ok(settings)
}

/// Names the variables that look like settings and set nothing.
fn tell_of_ignored(effective: &Effective) {
    let ignored = effective.ignored();
    if !ignored.service_links.is_empty() {
        let variables = ignored.service_links.join(" ");
        tracing::debug!(variables, "these variables are service links of Kubernetes, not settings: ignored");
    }
    if !ignored.empty.is_empty() {
        let variables = ignored.empty.join(" ");
        tracing::info!(variables, "these variables are empty: their settings count as not set");
    }
}

/// Variables by which libpq's programs find their server. The URL alone says it here.
const OF_LIBPQ: [&str; 16] = [
    "PGCHANNELBINDING",
    "PGDATABASE",
    "PGHOST",
    "PGHOSTADDR",
    "PGOPTIONS",
    "PGPASSFILE",
    "PGPASSWORD",
    "PGPORT",
    "PGREQUIREAUTH",
    "PGSERVICE",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGTARGETSESSIONATTRS",
    "PGUSER",
];

/// Names the variables that somebody could expect to have a say.
fn warn_of_variables_for_others() {
    let set = environment().filter_map(|(name, _)| OF_LIBPQ.into_iter().find(|known| name == *known));
    let ignored = set.collect::<Vec<_>>().join(" ");
    if !ignored.is_empty() {
        tracing::warn!(ignored, "variables of libpq are not read: database_url says all of it");
    }
}

fn print_config(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    if matches.get_flag("reference") {
        config::print_reference(&mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let effective = settings(Scope::Both, matches)?;
    // Also what only shows when settings are seen together is refused here.
    ServerSettings::of(&effective)?;
    ClientSettings::of_management(&effective)?;
    ClientSettings::of_verification(&effective)?;
    config::print(&effective, matches.get_flag("json"), &mut out)?;
    Ok(ExitCode::SUCCESS)
}

fn migrate(matches: &ArgMatches, process: Process) -> Result<ExitCode, Failure> {
    let settings = start_server_command(matches, process.core_dumps)?;
    let role = matches.get_one::<String>("grant").map(String::as_str);
    if role.is_some() && matches!(settings.backend, Backend::Sqlite { .. }) {
        return Err(Failure::Usage("--grant needs database_url: SQLite has no roles".to_owned()));
    }
    let runtimes = Runtimes::start()?;
    let applied = until_told(&runtimes, process.signals.stop(), async {
        match &settings.backend {
            Backend::Sqlite { directory } => stores::migrate_sqlite(directory).await,
            Backend::Postgres(settings) => {
                let applied = stores::migrate_postgres(settings).await?;
                if let Some(role) = role {
                    stores::grant_postgres(settings, role).await?;
                }
                Ok(applied)
            }
        }
    });
    runtimes.stop();
    match applied? {
        applied if applied.is_empty() => tracing::info!("the schema was up to date"),
        applied => tracing::info!(applied = applied.join(" "), "the schema is up to date now"),
    }
    Ok(ExitCode::SUCCESS)
}

fn run_bootstrap(matches: &ArgMatches, process: Process) -> Result<ExitCode, Failure> {
    let bootstrap = read_bootstrap(matches)?;
    let settings = start_server_command(matches, process.core_dumps)?;
    let runtimes = Runtimes::start()?;
    let shown = until_told(&runtimes, process.signals.stop(), async {
        let issued = match &settings.backend {
            Backend::Sqlite { directory } => {
                let store = stores::open_sqlite(directory).await?;
                let issued = bootstrap::issue(store.clone().into(), bootstrap).await;
                store.close().await;
                issued
            }
            Backend::Postgres(settings) => {
                let (store, _) = stores::open_postgres(settings).await?;
                bootstrap::issue(store.into(), bootstrap).await
            }
        };
        let issued = issued?;
        let id = issued.key.id();
        let shown = bootstrap::print(issued).await;
        let lost = || format!("the key {id} was created and could not be shown: revoke it");
        Ok(shown.with_context(lost).map_err(Failure::KeyLost))
    });
    runtimes.stop();
    shown??;
    Ok(ExitCode::SUCCESS)
}

/// Runs that to its end, or until the process is told to stop: also as the first process of a container, for which the system ends
/// nothing by itself.
fn until_told<T>(
    runtimes: &Runtimes,
    mut signals: StopSignals,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    runtimes.store().block_on(async {
        tokio::select! {
            done = work => done,
            signal = signals.received() => Err(anyhow!("ended by {signal}")),
        }
    })
}

fn read_bootstrap(matches: &ArgMatches) -> Result<Bootstrap, Failure> {
    let text = |name| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let refused = |flag: &str, error: &dyn std::fmt::Display| Failure::Usage(format!("--{flag}: {error}"));
    let catalogue = Policy::pidgr().catalogue;
    let permissions: PermissionSet = match matches.get_many::<String>("permission") {
        None => bootstrap::ordinary_permissions(),
        Some(names) => names
            .map(|name| {
                let found = bootstrap::permission(catalogue, name).cloned();
                found.ok_or_else(|| refused("permission", &format!("{name:?} is not a permission")))
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Bootstrap {
        organization_id: OrganizationId::parse(text("organization"))
            .map_err(|error| refused("organization", &error))?,
        name: KeyName::parse(text("name")).map_err(|error| refused("name", &error))?,
        permissions,
        expires_at: match matches.get_one::<String>("expires-in") {
            None => None,
            Some(text) => {
                let duration = config::duration(text).filter(|duration| !duration.is_zero());
                let duration =
                    duration.ok_or_else(|| refused("expires-in", &"must be a duration such as 90d or 12h"))?;
                Some(SystemClock.now().saturating_add(duration))
            }
        },
    })
}
