//! The service under faults: builds what is run, and has the example `chaos` of `apikey-server` run it.
//!
//! The harness is no part of this program: it needs `apikey-testing`, which nothing but tests may know.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    process::{command, run},
    service::empty_folder,
    setup, workspace,
};

/// Builds in the release profile, breaks what was built, and writes `target/chaos.json`.
///
/// # Errors
/// A promise was broken, a fault did not happen, or a planted fault was not caught.
pub(crate) fn run_all(arguments: &[String]) -> Result<()> {
    setup::database()?;
    let image = setup::postgres_image().context("there is no PostgreSQL image (run `cargo xtask setup`)")?;
    let products = build()?;
    let product = |name: &str| products.join(name);
    let folder = empty_folder("chaos")?;
    let mut chaos = command(product("examples/chaos"), ["--image", &image]);
    chaos.arg("--binary").arg(product("apikeys")).arg("--misbehaving").arg(product("examples/misbehaving"));
    chaos.arg("--folder").arg(&folder).arg("--report").arg(workspace::target().join("chaos.json"));
    if let Some(library) = faketime() {
        chaos.arg("--faketime").arg(library);
    }
    run(chaos.args(arguments))
}

/// Builds the service and the harness in the release profile, always together: by itself the service has other features of its
/// dependencies, which would all be built twice. Returns the folder.
pub(crate) fn build() -> Result<PathBuf> {
    let build = ["build", "--quiet", "--release", "--package", "apikey-server", "--bin", "apikeys"];
    run(command("cargo", build).args(["--example", "chaos", "--example", "misbehaving"]))?;
    Ok(workspace::target().join("release"))
}

/// What `cargo xtask ci` asks for: a subset, and the harness itself.
pub(crate) fn briefly() -> Result<()> {
    run_all(&["--brief".to_owned()])
}

/// The library that moves a process's wall clock, where Debian's package puts it, whatever the architecture.
pub(crate) fn faketime() -> Option<PathBuf> {
    let libraries =
        fs::read_dir("/usr/lib").ok()?.flatten().map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    libraries.into_iter().find(|library| library.is_file())
}
