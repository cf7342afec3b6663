//! Breaks a running system in many ways while it is used, and checks that every promise held: three replicas as real
//! processes, a real PostgreSQL, and a link of its own between each replica and the database.
//!
//! It drives the executable from outside alone and knows nothing of what is inside. It asserts safety, that failures are clean,
//! and that everything answers again; how long anything takes is only reported.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program whose purpose is to report on the terminal")]

mod clients;
mod cluster;
mod database;
mod faults;
mod judge;
mod load;
mod planted;
mod proxy;
mod replica;
mod report;
mod run;
mod tally;
mod world;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};

use cluster::Plan;
use database::Server;
use faults::{Fault, Means};
use load::Rates;
use report::Outcome;
use run::{Pace, Servers, run};

/// Breaks the service and checks what it promises.
#[derive(Parser)]
struct Arguments {
    /// Which faults; all of them if none is named.
    faults: Vec<Fault>,
    /// Go on with the faults, again and again, for at least so many minutes.
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// A subset, and each fault briefly.
    #[arg(long)]
    brief: bool,
    /// Also, or alone where no fault is named, run replicas that misbehave; each must be caught.
    #[arg(long)]
    planted: bool,
    /// Verifications per second.
    #[arg(long, default_value_t = 3_000)]
    rate: u32,
    /// What all choices follow from, but for the order of events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The executable `apikeys`.
    #[arg(long)]
    binary: PathBuf,
    /// The example `misbehaving`.
    #[arg(long)]
    misbehaving: PathBuf,
    /// The image of PostgreSQL.
    #[arg(long)]
    image: String,
    /// The library that moves the wall clock of a process.
    #[arg(long)]
    faketime: Option<String>,
    /// Where logs are written.
    #[arg(long)]
    folder: PathBuf,
    /// Where the report is written.
    #[arg(long)]
    report: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match all(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes all runs that are asked for. Says whether everything held and every planted fault was caught.
async fn all(arguments: Arguments) -> Result<bool> {
    fs::create_dir_all(&arguments.folder)?;
    let has_lease = replica::settings_reference(&arguments.binary).await?.contains("APIKEYS_LEASE");
    let shared = Arc::new(Server::start(&arguments.image).await?);
    let servers = Servers { image: arguments.image.clone(), shared };
    let mut settings = Vec::new();
    if has_lease && arguments.brief {
        // So that leases end within a short fault.
        settings.push(("APIKEYS_LEASE".to_owned(), "1s".to_owned()));
    }
    let plan = Plan {
        binary: arguments.binary.clone(),
        first: None,
        parameters: "",
        settings,
        folder: arguments.folder.clone(),
        seed: arguments.seed,
    };
    let pace = pace(&arguments);
    let mut reports = Reports::default();
    for (name, fault) in chosen(&arguments) {
        reports.add(&name, run(&name, fault, &servers, &plan, &pace).await);
        reports.write(&arguments, &[])?;
    }
    repeat(&arguments, &servers, &plan, &pace, &mut reports).await?;
    let planted = if arguments.planted || arguments.brief {
        planted::run_all(&arguments.misbehaving, has_lease, &servers, &plan, &pace).await
    } else {
        Vec::new()
    };
    reports.finish(&arguments, &planted)
}

fn pace(arguments: &Arguments) -> Pace {
    let seconds = |brief, full| Duration::from_secs(if arguments.brief { brief } else { full });
    let rate = if arguments.brief { arguments.rate.min(1_000) } else { arguments.rate };
    let means = Means {
        lasts: seconds(3, 15),
        rounds: if arguments.brief { 2 } else { 6 },
        faketime: arguments.faketime.clone(),
        folder: arguments.folder.clone(),
    };
    Pace { calm: seconds(1, 5), rates: Rates::around(rate), means }
}

fn chosen(arguments: &Arguments) -> Vec<(String, Fault)> {
    let faults = match &*arguments.faults {
        [] if arguments.brief => Fault::BRIEF.to_vec(),
        [] if arguments.planted => Vec::new(),
        [] => Fault::value_variants().to_vec(),
        named => named.to_vec(),
    };
    faults.into_iter().map(|fault| (name(fault), fault)).collect()
}

fn name(fault: Fault) -> String {
    fault.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Goes on until the time is over.
async fn repeat(
    arguments: &Arguments,
    servers: &Servers,
    plan: &Plan,
    pace: &Pace,
    reports: &mut Reports,
) -> Result<()> {
    let chosen = chosen(arguments);
    let mut round = 2;
    while !chosen.is_empty() {
        for (name, fault) in &chosen {
            if reports.began.elapsed() >= Duration::from_secs(arguments.minutes * 60) {
                return Ok(());
            }
            let name = format!("{name}-{round}");
            let plan = Plan { seed: plan.seed + round, ..plan.clone() };
            reports.add(&name, run(&name, *fault, servers, &plan, pace).await);
            reports.write(arguments, &[])?;
        }
        round += 1;
    }
    Ok(())
}

/// What came of everything so far.
struct Reports {
    began: Instant,
    outcomes: Vec<Outcome>,
    errors: Vec<(String, String)>,
}

impl Default for Reports {
    fn default() -> Self {
        #[expect(clippy::disallowed_methods, reason = "how long to go on; no verdict depends on it")]
        let began = Instant::now();
        Self { began, outcomes: Vec::new(), errors: Vec::new() }
    }
}

impl Reports {
    fn add(&mut self, name: &str, outcome: Result<Outcome>) {
        match outcome {
            Ok(outcome) => {
                outcome.print();
                self.outcomes.push(outcome);
            }
            Err(error) => {
                println!("{name:<18} ERROR   {error:#}");
                self.errors.push((name.to_owned(), format!("{error:#}")));
            }
        }
    }

    /// Writes what came of everything so far: a long run that is interrupted has still said something.
    fn write(&self, arguments: &Arguments, planted: &[planted::Caught]) -> Result<()> {
        let mut json = report::json(&self.outcomes, &self.errors);
        if let Some(report) = json.as_object_mut() {
            report.insert("planted".to_owned(), planted::json(planted));
        }
        fs::write(&arguments.report, serde_json::to_string_pretty(&json)?)
            .with_context(|| format!("cannot write {}", arguments.report.display()))
    }

    fn finish(self, arguments: &Arguments, planted: &[planted::Caught]) -> Result<bool> {
        self.write(arguments, planted)?;
        let failed =
            self.outcomes.iter().filter(|outcome| !outcome.complaints().is_empty()).count() + self.errors.len();
        let missed = planted.iter().filter(|planted| !planted.caught()).count();
        let answered: u64 = self.outcomes.iter().map(Outcome::answered).sum();
        println!(
            "chaos: {} faults, {answered} verifications checked, {failed} runs failed; {} planted faults, {missed} not caught",
            self.outcomes.len() + self.errors.len(),
            planted.len(),
        );
        println!("chaos: {:.0} s; {}", self.began.elapsed().as_secs_f64(), arguments.report.display());
        Ok(failed == 0 && missed == 0)
    }
}
