//! `cargo xtask …`: the one entry point for everything that CI runs.
//!
//! It drives cargo and other programs and knows the layout of this repository. It must never know a rule of
//! the service: what is true of keys is checked by the crates' own tests.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program whose purpose is to report on the terminal")]

mod attack;
#[cfg(feature = "bench")]
mod bench;
mod chaos;
mod ci;
mod codegen;
mod conformance;
mod examples;
mod fuzz;
mod layers;
mod mutants;
mod postgres;
mod process;
mod service;
mod setup;
mod tools;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The tasks of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that a change has to pass.
    Ci,
    /// Install and start what the build and the tests need, or say what is missing.
    Setup,
    /// Everything that `ci` checks without running the tests.
    Lint,
    /// Run the tests, with the PostgreSQL image that they need.
    Test {
        /// Arguments of `cargo test`; without `-p` it tests the whole workspace.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check which crate knows which.
    Layers,
    /// Generate the Rust code and the descriptor set of `apikey-proto` from `proto/`.
    Codegen {
        /// Write nothing; fail if what is committed differs from what would be generated.
        #[arg(long)]
        check: bool,
    },
    /// Run the Connect project's conformance suite and h2spec.
    Conformance {
        /// Arguments of `connectconformance`, such as `--run PATTERN`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every client of `examples/` against the service.
    Examples,
    /// Run the fuzz targets, two at a time.
    Fuzz {
        /// How long each of them runs, in seconds.
        #[arg(default_value_t = 60)]
        seconds: u64,
    },
    /// Measure the service as it is shipped; prints a table and writes `target/bench.json`.
    Bench {
        /// What to measure: `start`, `creates`, `pages`, `revocations`, `protocols`, `verify`; everything if nothing is named.
        subjects: Vec<String>,
        /// How many keys `verify` has.
        #[arg(long, default_value_t = 1_000_000)]
        keys: usize,
    },
    /// Break a running system in many ways, and check what it promises; prints a table and writes `target/chaos.json`.
    Chaos {
        /// Arguments of the harness: names of faults, `--minutes N`, `--brief`, `--planted`, `--rate N`; `-- --help` tells all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Attack a running service in many ways while others call it; prints a table and writes `target/attack.json`.
    Attack {
        /// Which attacks; all if nothing is named.
        names: Vec<String>,
        /// An executable to attack; without it one is built in the release profile.
        #[arg(long)]
        binary: Option<PathBuf>,
        /// Those of `cargo xtask ci`, and shorter.
        #[arg(long)]
        brief: bool,
    },
    /// Change the code in small ways, and check that a test fails each time.
    Mutants {
        /// Which crates; all that have tests for it if none is named.
        #[arg(long = "package", short)]
        packages: Vec<String>,
        /// One part of the changes, `K/N`, with K from 0.
        #[arg(long)]
        shard: Option<String>,
        /// Arguments of cargo-mutants, such as `--re PATTERN` or `--baseline skip --timeout 60`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Compare the dependencies with RustSec's advisories (needs the network).
    Audit,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Ci => ci::ci(),
        Task::Setup => setup::everything(),
        Task::Lint => ci::lint(),
        Task::Test { arguments } => ci::test(&arguments),
        Task::Layers => layers::check(),
        Task::Codegen { check: true } => codegen::check(),
        Task::Codegen { check: false } => codegen::write(),
        Task::Conformance { arguments } => conformance::run_all(&arguments),
        Task::Examples => examples::run_all(),
        Task::Fuzz { seconds } => fuzz::run_all(seconds),
        Task::Bench { subjects, keys } => bench(&subjects, keys),
        Task::Chaos { arguments } => chaos::run_all(&arguments),
        Task::Attack { names, binary, brief } => attack::run_all(&names, binary, brief),
        Task::Mutants { packages, shard, arguments } => mutants::run_all(&packages, shard.as_deref(), &arguments),
        Task::Audit => ci::audit(),
    }
}

#[cfg(feature = "bench")]
fn bench(subjects: &[String], keys: usize) -> Result<()> {
    bench::run_all(subjects, keys)
}

/// Starts this program again with what a bench needs, optimized as what is shipped: it has to be faster than what it measures.
#[cfg(not(feature = "bench"))]
fn bench(subjects: &[String], keys: usize) -> Result<()> {
    let mut cargo = process::command("cargo", ["run", "--quiet", "--profile", "dist"]);
    cargo.args(["--package", "xtask", "--features", "bench", "--", "bench", "--keys", &keys.to_string()]);
    process::run(cargo.args(subjects))
}
