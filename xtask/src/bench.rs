//! `cargo xtask bench`: how fast the service is, as it is shipped, and beside what. Figures that are compared come from one
//! run, taken in turn; none of them is asserted, since machines differ.

mod creates;
mod load;
mod pages;
mod processes;
mod protocols;
mod report;
mod revocations;
mod start;
mod verify;

use std::time::Instant;

use anyhow::{Result, ensure};
use mimalloc::MiMalloc;

use crate::{
    postgres::Postgres,
    process::{command, run},
    service::empty_folder,
    workspace,
};
use report::Report;

/// As in what is shipped: a load is no slower than what it is for.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What can be measured: time until ready, idle memory and the binary's size on SQLite; creates beside a plain INSERT and COMMIT
/// of the same rows on PostgreSQL; pages of a small and of a large organization on PostgreSQL; how long revocations take with three
/// replicas on PostgreSQL; the CPU of one call by each protocol, on SQLite;
/// verifications beside bare tonic servers, on PostgreSQL.
const SUBJECTS: [&str; 6] = ["start", "creates", "pages", "revocations", "protocols", "verify"];

/// Builds what is shipped and measures it; prints a table and writes `target/bench.json`.
pub(crate) fn run_all(subjects: &[String], keys: usize) -> Result<()> {
    for subject in subjects {
        ensure!(SUBJECTS.contains(&subject.as_str()), "{subject} is none of {}", SUBJECTS.join(", "));
    }
    run(&mut command("cargo", ["build", "--quiet", "--profile", "dist", "--package", "apikey-server"]))?;
    let binary = workspace::target().join("dist/apikeys");
    let folder = empty_folder("bench")?;
    let mut report = Report::default();
    let wanted = |name: &str| subjects.is_empty() || subjects.iter().any(|subject| subject == name);
    if wanted("start") {
        start::measure(&binary, &folder, &mut report)?;
    }
    if ["creates", "pages", "revocations", "verify"].into_iter().any(&wanted) {
        let database = Postgres::start()?;
        if wanted("creates") {
            creates::measure(&binary, &folder, &database, &mut report)?;
        }
        if wanted("pages") {
            pages::measure(&binary, &folder, &database, &mut report)?;
        }
        if wanted("revocations") {
            revocations::measure(&binary, &folder, &database, &mut report)?;
        }
        if wanted("verify") {
            verify::measure(&binary, &folder, &database, keys, &mut report)?;
        }
    }
    if wanted("protocols") {
        protocols::measure(&binary, &folder, &mut report)?;
    }
    report.print();
    report.write(&workspace::target().join("bench.json"))
}

/// The one clock of all subjects.
fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
    Instant::now()
}
