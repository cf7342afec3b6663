//! The Connect project's conformance suite and h2spec, against what the product serves with.
//!
//! The suite's own service is generated from its proto files, below `target/`, and put behind our protocols, layers and listener by
//! the example `conformance` of `apikey-grpc`. h2spec runs against the product itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use prost::Message as _;

use crate::{
    process::{command, run},
    service::{Service, Start, empty_folder},
    tools, workspace,
};

const FILES: [&str; 2] = ["connectrpc/conformance/v1/service.proto", "connectrpc/conformance/v1/server_compat.proto"];
const CODE: &str = "connectrpc.conformance.v1.rs";
const DESCRIPTORS: &str = "descriptors.binpb";
/// What the suite is told of the server, relative to the workspace. No case is known to fail.
const CONFIGURATION: &str = "crates/apikey-grpc/examples/conformance/suite.yaml";

/// Where h2spec's view is not ours: what it calls the case, and why.
const H2SPEC_EXPLAINED: [(&str, &str); 1] = [(
    "Sends invalid connection preface",
    "the port speaks HTTP/1.1 too, so that what is no preface of HTTP/2 is answered 400 before the connection ends",
)];

/// How often h2spec may run until each case has passed once. Some send the rest of a request only after its head, by which the service
/// may have answered it already, as RFC 9113 (section 8.1) allows: whether it has, depends on how busy the machine is.
const H2SPEC_ROUNDS: usize = 12;

/// Runs both.
///
/// # Errors
/// Where a case fails.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    tools::install_conformance()?;
    suite(arguments)?;
    h2spec()
}

fn suite(arguments: &[String]) -> Result<()> {
    let generated = workspace::target().join("xtask/conformance");
    generate(&tools::conformance_protos()?, &generated)?;
    let example = ["--package", "apikey-grpc", "--features", "conformance", "--example", "conformance"];
    for task in [&["build", "--quiet"][..], &["clippy", "--quiet"]] {
        let mut cargo = command("cargo", []);
        cargo.args(task).args(example);
        if task.contains(&"clippy") {
            cargo.args(["--", "--deny", "warnings"]);
        }
        cargo.env("APIKEYS_CONFORMANCE_CODE", generated.join(CODE));
        cargo.env("APIKEYS_CONFORMANCE_DESCRIPTORS", generated.join(DESCRIPTORS));
        run(&mut cargo)?;
    }
    let server = workspace::target().join("debug/examples/conformance");
    run(command(tools::connectconformance(), ["--mode", "server", "--conf", CONFIGURATION])
        .args(arguments)
        .arg("--")
        .arg(server))
}

/// Generates the suite's messages and service, and the descriptors for JSON.
fn generate(protos: &Path, folder: &PathBuf) -> Result<()> {
    let descriptors = protox::Compiler::new([protos])?
        .include_imports(true)
        .open_files(FILES.map(|file| protos.join(file)))?
        .file_descriptor_set();
    fs::create_dir_all(folder)?;
    fs::write(folder.join(DESCRIPTORS), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(false)
        .emit_rerun_if_changed(false)
        .out_dir(folder)
        .compile_fds(descriptors)
        .context("cannot generate the suite's service")
}

/// The groups of cases that concern a server of any application.
fn h2spec() -> Result<()> {
    let folder = empty_folder("h2spec")?;
    run(&mut command("cargo", ["build", "--quiet", "--package", "apikey-server"]))?;
    let binary = workspace::target().join("debug/apikeys");
    let service = Service::start(&Start { binary: &binary, folder: &folder, settings: &[], expects_key: false })?;
    h2spec_against(service.public.port(), &folder)
}

/// The same against a service that runs already; reports are written to the folder.
///
/// # Errors
/// A case fails in each of several rounds.
pub(crate) fn h2spec_against(port: u16, folder: &Path) -> Result<()> {
    tools::install_h2spec()?;
    let port = port.to_string();
    let mut failing: Option<BTreeSet<String>> = None;
    for _ in 0..H2SPEC_ROUNDS {
        let (summary, failed) = h2spec_round(&port, &folder.join("report.txt"))?;
        println!("h2spec: {summary}");
        let still = failing.map_or_else(|| failed.clone(), |before| before.intersection(&failed).cloned().collect());
        let explained = still.iter().all(|case| explanation(case).is_some());
        failing = Some(still);
        if explained {
            break;
        }
    }
    for case in failing.unwrap_or_default() {
        let Some(why) = explanation(&case) else {
            bail!("h2spec failed in each of {H2SPEC_ROUNDS} rounds: {case}; see {}", folder.display())
        };
        println!("h2spec: {case}: {why}");
    }
    Ok(())
}

/// One run of all cases: its summary, and the cases that failed.
fn h2spec_round(port: &str, report_file: &Path) -> Result<(String, BTreeSet<String>)> {
    let arguments = ["--host", "127.0.0.1", "--port", port, "--timeout", "5", "generic", "http2", "hpack"];
    // It fails where a case does; which, its report says.
    let report = command(tools::h2spec(), arguments).output().context("cannot start h2spec")?;
    let report = String::from_utf8_lossy(&report.stdout);
    fs::write(report_file, &*report)?;
    let summary = report.lines().rfind(|line| line.contains(" passed, ")).context("h2spec has not finished")?;
    Ok((summary.to_owned(), failed_cases(&report)))
}

/// What stands behind the cross of each failed case, without its number.
fn failed_cases(report: &str) -> BTreeSet<String> {
    let names = report.lines().filter_map(|line| line.rsplit_once('×')).map(|(_, case)| case.trim());
    names.map(|case| case.split_once(": ").map_or(case, |(_, name)| name).to_owned()).collect()
}

fn explanation(case: &str) -> Option<&'static str> {
    H2SPEC_EXPLAINED.iter().find(|(explained, _)| case == *explained).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::{explanation, failed_cases};

    #[test]
    fn failed_cases_are_read_from_the_report() {
        let report = "    1: Sends a PING      ✔ 1: Sends a PING\n    \
            2: Sends invalid connection preface      × 2: Sends invalid connection preface\n\
                  × 3: Sends a HEADERS frame\n145 tests, 143 passed, 0 skipped, 2 failed\n";
        let failed: Vec<_> = failed_cases(report).into_iter().collect();
        assert_eq!(failed, ["Sends a HEADERS frame", "Sends invalid connection preface"]);
        assert!(explanation(&failed[1]).is_some() && explanation(&failed[0]).is_none());
    }
}
