//! Generates `apikey-proto` from `proto/`, without protoc: the code and the descriptor set are committed, so
//! that nobody who builds the service needs this step, and `check` proves that they match.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::workspace;

/// Every proto file of this repository, relative to `proto/`.
const FILES: [&str; 3] = ["pidgr/v1/api_key.proto", "pidgr/v1/api_key_verification.proto", "pidgr/v1/common.proto"];

/// The field that holds a raw key, wherever there is one. Messages with it get no `Debug` at all, so that none of
/// them can be printed by accident.
const SECRET_FIELD: &str = "raw_key";

const DESCRIPTOR_SET: &str = "descriptor.bin";

/// Numbers the calls of `generate`, which may run side by side in tests.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Writes the generated files into the crate.
pub(crate) fn write() -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let generated = generate()?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        if !generated.contains_key(&*entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    for (name, content) in &generated {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Fails if the crate's generated files differ from what `write` would write.
pub(crate) fn check() -> Result<()> {
    let folder = folder();
    let generated = generate()?;
    let mut differing = Vec::new();
    for (name, content) in &generated {
        if fs::read(folder.join(name)).ok().as_ref() != Some(content) {
            differing.push(name.clone());
        }
    }
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !generated.contains_key(&name) {
            differing.push(name);
        }
    }
    if !differing.is_empty() {
        bail!("{} does not match proto/: {} (run `cargo xtask codegen`)", folder.display(), differing.join(", "));
    }
    Ok(())
}

fn folder() -> PathBuf {
    workspace::root().join("crates/apikey-proto/src/generated")
}

/// All generated files by name.
fn generate() -> Result<BTreeMap<String, Vec<u8>>> {
    let proto = workspace::root().join("proto");
    let mut descriptors = protox::Compiler::new([&proto])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES.map(|file| proto.join(file)))?
        .file_descriptor_set();

    // prost writes to a folder only; this one is this call's alone, and gone afterwards.
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let scratch = workspace::target().join(format!("codegen-{}-{call}", process::id()));
    fs::create_dir_all(&scratch)?;
    let result = tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .emit_rerun_if_changed(false)
        .skip_debug(secret_messages(&descriptors))
        .out_dir(&scratch)
        .compile_fds(descriptors.clone())
        .context("cannot generate code")
        .and_then(|()| read_all(&scratch));
    fs::remove_dir_all(&scratch)?;

    let mut files = result?;
    // Reflection and JSON need names and types, not comments.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    files.insert(DESCRIPTOR_SET.to_owned(), descriptors.encode_to_vec());
    Ok(files)
}

/// The full names, each with a leading dot, of the messages that hold a raw key.
fn secret_messages(descriptors: &FileDescriptorSet) -> Vec<String> {
    let mut names = Vec::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            if message.field.iter().any(|field| field.name() == SECRET_FIELD) {
                names.push(format!(".{}.{}", file.package(), message.name()));
            }
        }
    }
    names
}

fn read_all(folder: &PathBuf) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, fs::read(entry.path())?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_message_with_a_raw_key_has_no_debug() {
        let files = super::generate().unwrap();
        let code = String::from_utf8(files["pidgr.v1.rs"].clone()).unwrap();
        for message in ["CreateApiKeyResponse", "VerifyApiKeyRequest"] {
            assert!(code.contains(&format!("#[prost(skip_debug)]\npub struct {message} {{")), "{message}");
        }
    }

    #[test]
    fn the_committed_code_matches_the_proto_files() {
        super::check().unwrap();
    }
}
