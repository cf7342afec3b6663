//! `cargo xtask fuzz`: the fuzz targets, which every test run tries briefly, for as long as wanted. Two run at a time.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{command, run};

/// How long each target runs in `ci`, in seconds.
const CI_SECONDS: u64 = 60;

/// A target: its package, the arguments of `cargo test` that name its binary, and its test.
type Target = (&'static str, &'static [&'static str], &'static str);

const TARGETS: [Target; 4] = [
    ("apikey-domain", &["--test", "properties"], "fuzz::key_parser"),
    ("apikey-application", &["--lib"], "page_token::fuzz::page_token"),
    ("apikey-grpc", &["--lib"], "web::fuzz::bridge"),
    ("apikey-identity", &["--test", "tokens"], "fuzz::jwt_reader"),
];

/// Runs each target for the time that a change has to stand.
pub(crate) fn briefly() -> Result<()> {
    run_all(CI_SECONDS)
}

/// Runs each target for that many seconds. What one finds it prints, with the input that shows it.
pub(crate) fn run_all(seconds: u64) -> Result<()> {
    let milliseconds =
        seconds.checked_mul(1_000).filter(|time| *time > 0).context("the time is not a number of seconds")?;
    for (package, binary, _) in TARGETS {
        run(command("cargo", ["test", "--quiet", "--no-run", "--package", package]).args(binary))?;
    }
    let mut failed = Vec::new();
    for pair in TARGETS.chunks(2) {
        let started: Vec<_> =
            pair.iter().map(|target| Ok((target, start(target, milliseconds)?))).collect::<Result<_>>()?;
        for ((package, _, test), child) in started {
            if let Err(error) = finish(child) {
                failed.push(format!("{package}, {test}: {error:#}"));
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// bolero's random engine takes its limits from the environment: here the time alone.
fn start((package, binary, test): &Target, milliseconds: u64) -> Result<Child> {
    let mut target = command("cargo", ["test", "--package", package]);
    target.args(*binary).args(["--", "--exact", test, "--nocapture"]);
    target.env("BOLERO_RANDOM_TEST_TIME_MS", milliseconds.to_string());
    target.env("BOLERO_RANDOM_ITERATIONS", usize::MAX.to_string());
    target.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    target.spawn().context("cannot start cargo")
}

/// Waits for a target, and makes sure that there was one, with its corpus: a wrong name runs nothing, and that passes.
fn finish(child: Child) -> Result<()> {
    let output = child.wait_with_output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let summary = stderr.lines().chain(stdout.lines()).find(|line| line.contains("rng inputs"));
    if !output.status.success() {
        bail!("{stdout}\n{stderr}");
    }
    let summary =
        summary.filter(|line| line.contains("corpus inputs")).context("ran without its corpus, or not at all")?;
    println!("{summary}");
    Ok(())
}
