//! `cargo xtask mutants`: changes the code in small ways and checks that a test fails each time.
//!
//! cargo-mutants makes the changes, in a copy of the tracked files below `target/mutants/tree`: an interrupted run never leaves a change
//! in a developer's files. A change that no test notices fails the run, unless `xtask/mutants.toml` explains it; so does an
//! explanation that is no longer needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{
    process::{command, output, run},
    setup, tools, workspace,
};

/// Files that are changed together, and the tests that should notice.
struct Suite {
    package: &'static str,
    /// Globs of the files that are changed.
    files: &'static [&'static str],
    /// Globs of those that are not.
    without: &'static [&'static str],
    /// Arguments of `cargo test`.
    tests: &'static [&'static str],
    /// Arguments of every cargo command.
    cargo: &'static [&'static str],
    /// Whether the tests need PostgreSQL.
    needs_database: bool,
}

/// The model of the fence takes long, so that only the fence's own files are judged by it. The others need no optimized code.
const SUITES: [Suite; 7] = [
    Suite {
        package: "apikey-domain",
        files: &["crates/apikey-domain/src/**"],
        without: &[],
        tests: &["--lib", "--test", "properties"],
        cargo: &[],
        needs_database: false,
    },
    Suite {
        package: "apikey-application",
        files: &["crates/apikey-application/src/**"],
        without: &["crates/apikey-application/src/fence.rs", "crates/apikey-application/src/fence/**"],
        tests: &["--lib", "--test", "use_cases"],
        cargo: &["--config=profile.dev.package.apikey-application.opt-level=0"],
        needs_database: false,
    },
    Suite {
        package: "apikey-application",
        files: &["crates/apikey-application/src/fence.rs", "crates/apikey-application/src/fence/**"],
        without: &[],
        tests: &["--lib", "--test", "use_cases", "--test", "fence"],
        cargo: &[],
        needs_database: false,
    },
    Suite {
        package: "apikey-identity",
        files: &["crates/apikey-identity/src/**"],
        without: &[],
        tests: &["--lib", "--test", "tokens"],
        cargo: &[],
        needs_database: false,
    },
    Suite {
        package: "apikey-grpc",
        files: &["crates/apikey-grpc/src/credential.rs"],
        without: &[],
        tests: &["--lib", "--test", "grpc", "credential"],
        cargo: &[],
        needs_database: false,
    },
    Suite {
        package: "apikey-store-sqlite",
        files: &["crates/apikey-store-sqlite/src/commit.rs"],
        without: &[],
        tests: &["--lib", "--test", "store"],
        cargo: &[],
        needs_database: false,
    },
    Suite {
        package: "apikey-store-postgres",
        files: &["crates/apikey-store-postgres/src/{audit,commit,issue,revoke}.rs"],
        without: &[],
        tests: &["--lib", "--test", "store", "contract::"],
        cargo: &[],
        needs_database: true,
    },
];

/// A change without its line and column: those move too often to be written down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mutant {
    file: String,
    mutation: String,
}

/// `xtask/mutants.toml`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explanations {
    #[serde(default)]
    survivor: Vec<Survivor>,
}

/// A change that no test can notice. One entry for each: a function may hold the same change twice.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Survivor {
    file: String,
    mutation: String,
    reason: String,
}

/// What became of the changes that were tried.
#[derive(Default)]
struct Outcome {
    /// A test failed, or did not end.
    caught: Vec<Mutant>,
    missed: Vec<Mutant>,
    /// It did not compile.
    unviable: Vec<Mutant>,
}

/// Tries the changes of these packages, or of all; `shard` is `K/N`, and `arguments` go to cargo-mutants as they are.
///
/// # Errors
/// The tests fail without any change, a change that survives is not explained, or an explanation is not needed.
pub(crate) fn run_all(packages: &[String], shard: Option<&str>, arguments: &[String]) -> Result<()> {
    for package in packages {
        ensure!(SUITES.iter().any(|suite| suite.package == package), "no mutants are made of {package}");
    }
    tools::install_cargo_mutants()?;
    copy_sources()?;
    let explained = explanations()?;
    let mut scores: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut complaints = unknown_files(&explained);
    for (place, suite) in SUITES.iter().enumerate() {
        if !packages.is_empty() && !packages.iter().any(|package| package == suite.package) {
            continue;
        }
        let listed = suite.list()?;
        let outcome = suite.run(place, shard, arguments)?;
        complaints.extend(judge(&listed, &outcome, &explained));
        let (caught, viable) = scores.entry(suite.package).or_default();
        *caught += outcome.caught.len();
        *viable += outcome.caught.len() + outcome.missed.len();
    }
    for (package, (caught, viable)) in scores {
        println!("mutants: {package}: {caught} of {viable} caught");
    }
    for line in &complaints {
        eprintln!("mutants: {line}");
    }
    ensure!(complaints.is_empty(), "{} mutants need a test, or another line in xtask/mutants.toml", complaints.len());
    Ok(())
}

impl Suite {
    fn list(&self) -> Result<Vec<Mutant>> {
        let list = output(self.cargo_mutants().arg("--list"))?;
        list.lines().map(Mutant::read).collect()
    }

    fn run(&self, place: usize, shard: Option<&str>, arguments: &[String]) -> Result<Outcome> {
        let folder = folder().join(format!("{place}-{}", self.package));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let mut mutants = self.cargo_mutants();
        mutants.args(["--in-place", "--no-times", "--output"]).arg(&folder);
        if let Some(shard) = shard {
            mutants.args(["--shard", shard]);
        }
        mutants.args(arguments);
        for argument in self.cargo {
            mutants.arg(format!("--cargo-arg={argument}"));
        }
        mutants.arg("--").args(self.tests);
        if self.needs_database {
            setup::database()?;
            let image = setup::postgres_image().context("there is no PostgreSQL image (run `cargo xtask setup`)")?;
            mutants.env(setup::IMAGE_VARIABLE, image);
        }
        let status = mutants.stdin(Stdio::null()).status().context("cannot start cargo-mutants")?;
        // 2: some were missed; 3: some did not end.
        ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo-mutants failed for {} ({status})", self.package);
        Outcome::read(&folder.join("mutants.out"))
    }

    fn cargo_mutants(&self) -> Command {
        let mut mutants = command(tools::cargo_mutants(), ["mutants", "--no-config", "--package", self.package]);
        for glob in self.files {
            mutants.args(["--file", glob]);
        }
        for glob in self.without {
            mutants.args(["--exclude", glob]);
        }
        mutants.current_dir(tree());
        // Products of their own, without line tables: no other command ever meets with a changed one.
        mutants.env("CARGO_TARGET_DIR", folder().join("build")).env("CARGO_PROFILE_DEV_DEBUG", "0");
        mutants
    }
}

impl Mutant {
    /// Reads `file:line:column: mutation`.
    fn read(line: &str) -> Result<Self> {
        let mut parts = line.splitn(4, ':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(file), Some(_), Some(_), Some(mutation)) => {
                Ok(Self { file: file.to_owned(), mutation: mutation.trim().to_owned() })
            }
            _ => bail!("cargo-mutants names a mutant in an unknown way: {line}"),
        }
    }
}

impl Outcome {
    fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| -> Result<Vec<Mutant>> {
            let path = folder.join(name);
            // A shard may hold none.
            let text = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
            text.lines().map(Mutant::read).collect()
        };
        let mut caught = read("caught.txt")?;
        caught.extend(read("timeout.txt")?);
        Ok(Self { caught, missed: read("missed.txt")?, unviable: read("unviable.txt")? })
    }
}

/// What is wrong with the outcome of one suite: `listed` holds all changes that it knows, of which this run may have tried a part.
fn judge(listed: &[Mutant], outcome: &Outcome, explained: &[Survivor]) -> Vec<String> {
    let count = |mutants: &[Mutant], one: &Mutant| mutants.iter().filter(|mutant| *mutant == one).count();
    let files: BTreeSet<&str> = listed.iter().map(|mutant| mutant.file.as_str()).collect();
    let of_explained = explained
        .iter()
        .filter(|survivor| files.contains(survivor.file.as_str()))
        .map(|survivor| Mutant { file: survivor.file.clone(), mutation: survivor.mutation.clone() });
    let of_explained: Vec<Mutant> = of_explained.collect();
    let mut complaints = Vec::new();
    for mutant in outcome.missed.iter().chain(&of_explained).collect::<BTreeSet<_>>() {
        let Mutant { file, mutation } = mutant;
        let (all, missed, entries) =
            (count(listed, mutant), count(&outcome.missed, mutant), count(&of_explained, mutant));
        let tried = missed + count(&outcome.caught, mutant) + count(&outcome.unviable, mutant);
        if missed > entries {
            complaints.push(format!("no test notices, and nothing explains: {file}: {mutation}"));
        } else if entries > all {
            complaints.push(format!("xtask/mutants.toml explains what does not exist: {file}: {mutation}"));
        } else if tried == all && entries > missed {
            complaints.push(format!("xtask/mutants.toml explains what a test notices: {file}: {mutation}"));
        }
    }
    complaints
}

/// Explanations for files that are not there: no suite would meet with them.
fn unknown_files(explained: &[Survivor]) -> Vec<String> {
    let unknown = explained.iter().filter(|survivor| !workspace::root().join(&survivor.file).is_file());
    unknown.map(|survivor| format!("xtask/mutants.toml names a file that is not there: {}", survivor.file)).collect()
}

fn explanations() -> Result<Vec<Survivor>> {
    let path = workspace::root().join("xtask/mutants.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Explanations { survivor } = toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    for entry in &survivor {
        ensure!(!entry.reason.trim().is_empty(), "{}: {} has no reason", entry.file, entry.mutation);
    }
    Ok(survivor)
}

/// Brings the copy up to date, with changes that are not committed yet; files that git does not know are not copied. What did not change
/// keeps its time, so that it is not built again.
fn copy_sources() -> Result<()> {
    fs::create_dir_all(tree())?;
    // Nothing is stashed: this makes a commit that no branch knows, or none where nothing has changed.
    let changed = output(&mut command("git", ["stash", "create"]))?;
    let commit = if changed.is_empty() { "HEAD".to_owned() } else { changed };
    let mut copy = command("git", ["--work-tree"]);
    copy.arg(tree()).args(["read-tree", "-u", "--reset", &commit]);
    run(copy.env("GIT_INDEX_FILE", folder().join("index")))
}

fn tree() -> PathBuf {
    folder().join("tree")
}

fn folder() -> PathBuf {
    workspace::target().join("mutants")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "crates/a/src/b.rs:1:2: replace f -> bool with true";
    const SECOND: &str = "crates/a/src/b.rs:9:9: replace f -> bool with true";
    const OTHER: &str = "crates/a/src/b.rs:3:1: replace == with != in <impl A for B>::g";

    fn mutants(lines: &[&str]) -> Vec<Mutant> {
        lines.iter().map(|line| Mutant::read(line).unwrap()).collect()
    }

    fn outcome(caught: &[&str], missed: &[&str]) -> Outcome {
        Outcome { caught: mutants(caught), missed: mutants(missed), unviable: Vec::new() }
    }

    fn explained(lines: &[&str]) -> Vec<Survivor> {
        let survivors = mutants(lines).into_iter();
        survivors.map(|Mutant { file, mutation }| Survivor { file, mutation, reason: "equal".to_owned() }).collect()
    }

    #[test]
    fn a_mutant_is_known_without_its_place() {
        let mutant = &mutants(&[OTHER])[0];
        assert_eq!(mutant.file, "crates/a/src/b.rs");
        assert_eq!(mutant.mutation, "replace == with != in <impl A for B>::g");
        assert!(Mutant::read("2 mutants").is_err());
    }

    #[test]
    fn each_survivor_needs_an_explanation_of_its_own() {
        let listed = mutants(&[FIRST, SECOND, OTHER]);
        let both = outcome(&[OTHER], &[FIRST, SECOND]);
        assert!(judge(&listed, &both, &explained(&[FIRST]))[0].starts_with("no test notices"));
        assert!(judge(&listed, &both, &explained(&[FIRST, FIRST])).is_empty());
        assert!(judge(&listed, &outcome(&[FIRST, SECOND, OTHER], &[]), &[]).is_empty());
    }

    #[test]
    fn an_explanation_that_is_not_needed_is_refused() {
        let listed = mutants(&[FIRST, SECOND, OTHER]);
        let one = outcome(&[SECOND, OTHER], &[FIRST]);
        assert!(judge(&listed, &one, &explained(&[FIRST])).is_empty());
        assert!(judge(&listed, &one, &explained(&[FIRST, FIRST]))[0].contains("what a test notices"));
        assert!(judge(&listed, &one, &explained(&[FIRST, OTHER]))[0].contains("what a test notices"));
        let gone = "crates/a/src/b.rs:1:1: replace h with ()";
        assert!(judge(&listed, &one, &explained(&[FIRST, gone]))[0].contains("what does not exist"));
    }

    #[test]
    fn a_shard_says_nothing_of_what_it_did_not_try() {
        let listed = mutants(&[FIRST, SECOND, OTHER]);
        assert!(judge(&listed, &outcome(&[SECOND], &[]), &explained(&[FIRST, OTHER])).is_empty());
    }

    #[test]
    fn the_list_can_be_read() {
        assert!(unknown_files(&explanations().unwrap()).is_empty());
    }
}
