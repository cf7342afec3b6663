//! Where things are in this repository.

use std::path::{Path, PathBuf};

/// The folder that holds the root `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Build products; nothing below it is committed.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}
