//! `cargo xtask setup`: what the build and the tests need from the machine.
//!
//! As root on Debian it installs what is missing, starts the container engine and makes the PostgreSQL image
//! where none can be pulled; elsewhere it says in one line each what is missing and how to get it. Where
//! nothing is missing it changes nothing and takes well under a second.

mod engine;
mod packages;
mod postgres_image;

use std::fs::{self, File};

use anyhow::{Context, Result, bail};

use crate::{tools, workspace};

pub(crate) use postgres_image::{IMAGE_VARIABLE, present as postgres_image};

/// Makes sure of everything that `cargo xtask ci` needs.
pub(crate) fn everything() -> Result<()> {
    let _lock = lock()?;
    let mut missing = packages::install(&packages::missing())?;
    match engine::start() {
        Ok(()) => {
            if let Err(error) = postgres_image::make() {
                missing.push(format!("{error:#}"));
            }
        }
        Err(error) => missing.push(format!("{error:#}")),
    }
    complain(&missing)?;
    tools::install_all()
}

/// Makes sure of what the tests need: the container engine, the PostgreSQL image and `PgBouncer`.
pub(crate) fn database() -> Result<()> {
    let _lock = lock()?;
    complain(&packages::install(&packages::missing_for_tests())?)?;
    engine::start()?;
    postgres_image::make()
}

/// Makes sure of what the bench of verifications needs besides.
#[cfg(feature = "bench")]
pub(crate) fn for_bench() -> Result<()> {
    let _lock = lock()?;
    complain(&packages::install(&packages::missing_for_bench())?)
}

fn complain(missing: &[String]) -> Result<()> {
    for line in missing {
        eprintln!("missing: {line}");
    }
    if !missing.is_empty() {
        bail!("{} of the things that are needed cannot be installed here", missing.len());
    }
    Ok(())
}

/// Two runs at once must not install, or make the image, twice.
fn lock() -> Result<File> {
    fs::create_dir_all(workspace::target())?;
    let path = workspace::target().join("setup.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
