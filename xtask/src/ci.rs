//! `cargo xtask ci` and its steps: each announced on a line of its own, the first that fails stops the run, and
//! a table at the end says how long each took.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{command, run};
use crate::{attack, chaos, codegen, conformance, examples, fuzz, layers, setup, tools, workspace};

/// A step: its name, and what it does.
type Step = (&'static str, fn() -> Result<()>);

/// Everything that a change has to pass. Cheap steps come first, but for the first, which the others need.
const CI: &[Step] = &[
    ("setup", setup::everything),
    ("fmt", fmt),
    ("codegen", codegen::check),
    ("layers", layers::check),
    ("actionlint", actionlint),
    ("buf lint", buf_lint),
    ("buf breaking", buf_breaking),
    ("deny", deny),
    ("clippy", clippy),
    ("test", test_all),
    ("fuzz", fuzz::briefly),
    ("docs", docs),
    ("examples", examples::run_all),
    ("conformance", || conformance::run_all(&[])),
    ("chaos", chaos::briefly),
    ("attack", attack::briefly),
];

/// What needs neither the container engine nor a long build.
const LINT: &[Step] = &[
    ("tools", tools::install_all),
    ("fmt", fmt),
    ("codegen", codegen::check),
    ("layers", layers::check),
    ("actionlint", actionlint),
    ("buf lint", buf_lint),
    ("buf breaking", buf_breaking),
    ("deny", deny),
    ("clippy", clippy),
];

/// Runs everything.
pub(crate) fn ci() -> Result<()> {
    steps("ci", CI)
}

/// Runs everything but the tests.
pub(crate) fn lint() -> Result<()> {
    steps("lint", LINT)
}

/// Runs the tests, with what they need; `arguments` go to `cargo test` as they are.
pub(crate) fn test(arguments: &[String]) -> Result<()> {
    setup::database()?;
    let mut tests = cargo_test()?;
    if !arguments.iter().any(|argument| argument == "-p" || argument.starts_with("--package")) {
        tests.arg("--workspace");
    }
    run(tests.args(arguments))
}

/// Compares the dependencies with RustSec's advisories. It needs the network, so it is no step of `ci`.
pub(crate) fn audit() -> Result<()> {
    tools::install_cargo_deny()?;
    run(&mut command(tools::cargo_deny(), ["check", "advisories"]))
}

fn steps(task: &str, steps: &[Step]) -> Result<()> {
    let mut durations = Vec::new();
    for (name, step) in steps {
        println!("{task}: {name}");
        let started = now();
        let result = step();
        durations.push((*name, started.elapsed()));
        if let Err(error) = result {
            table(task, &durations);
            return Err(error.context(format!("{task}: {name} failed")));
        }
    }
    table(task, &durations);
    println!("{task}: {} passed, 0 failed", steps.len());
    Ok(())
}

fn table(task: &str, durations: &[(&str, Duration)]) {
    for (name, duration) in durations {
        println!("{task}: {name:<14}{:>8.1} s", duration.as_secs_f64());
    }
    let total: Duration = durations.iter().map(|(_, duration)| *duration).sum();
    println!("{task}: {:<14}{:>8.1} s", "total", total.as_secs_f64());
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "durations for the person who waits; no rule depends on them")]
    Instant::now()
}

fn fmt() -> Result<()> {
    run(&mut command("cargo", ["fmt", "--all", "--check", "--", "--color=never"]))
}

fn clippy() -> Result<()> {
    run(&mut command(
        "cargo",
        ["clippy", "--quiet", "--workspace", "--all-targets", "--features", "xtask/bench", "--", "--deny", "warnings"],
    ))
}

fn test_all() -> Result<()> {
    run(cargo_test()?.arg("--workspace"))
}

fn cargo_test() -> Result<Command> {
    let image = setup::postgres_image().context("there is no PostgreSQL image (run `cargo xtask setup`)")?;
    let mut tests = command("cargo", ["test", "--quiet"]);
    tests.env(setup::IMAGE_VARIABLE, image);
    Ok(tests)
}

fn docs() -> Result<()> {
    run(command("cargo", ["doc", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"))
}

fn deny() -> Result<()> {
    run(&mut command(tools::cargo_deny(), ["check", "bans", "licenses", "sources"]))
}

fn actionlint() -> Result<()> {
    run(&mut command(tools::actionlint(), []))
}

fn buf_lint() -> Result<()> {
    run(&mut command(tools::buf(), ["lint"]))
}

fn buf_breaking() -> Result<()> {
    run(command(tools::buf(), ["breaking", "--against"]).arg(last_release()?))
}

/// The image of the proto files of the last release, `proto/released/v<major>.<minor>.<patch>.binpb`.
fn last_release() -> Result<PathBuf> {
    let folder = workspace::root().join("proto/released");
    let mut last = None;
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(version) = released_version(&name) else {
            bail!("{} is not named v<major>.<minor>.<patch>.binpb", path.display());
        };
        last = last.max(Some((version, path)));
    }
    let (_, path) = last.with_context(|| format!("{} is empty", folder.display()))?;
    Ok(path)
}

fn released_version(name: &str) -> Option<Vec<u32>> {
    let numbers = name.strip_prefix('v')?.strip_suffix(".binpb")?.split('.');
    let version: Vec<u32> = numbers.map(str::parse).collect::<Result<_, _>>().ok()?;
    (version.len() == 3).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::released_version;

    #[test]
    fn releases_are_ordered_by_number_and_not_by_letter() {
        assert!(released_version("v0.10.0.binpb") > released_version("v0.9.12.binpb"));
        assert_eq!(released_version("v0.1.binpb"), None);
        assert_eq!(released_version("0.1.0.binpb"), None);
        assert_eq!(released_version("v0.1.0.json"), None);
    }
}
