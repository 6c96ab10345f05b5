//! What travels inside the binary: the SDK, the WIT and the example agents, so that
//! agents can be built wherever the binary runs.
//!
//! Invariant: a folder that this writes carries a marker with the digest of what was
//! written, and only a folder that carries one is ever written again.

use std::path::{Path, PathBuf};

use antiphon::id::Digest;
use anyhow::Context;
use include_dir::{Dir, include_dir};

use super::fault::hinted;

static GUEST_SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk");
static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../wit");
static AGENTS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../agents");
const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const LOCK: &[u8] = include_bytes!("../../../Cargo.lock");

const MARKER: &str = ".antiphon";
const SDK_MANIFEST: &str = "guest-sdk/Cargo.toml";

/// Files by their path in the folder that they are written to.
type Files = Vec<(PathBuf, Vec<u8>)>;

/// Write the SDK as `folder/{guest-sdk,wit}`, or leave it when it is there. Answers the
/// SDK's crate.
pub(super) fn write_sdk(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut files = sdk();
    let manifest = files
        .iter_mut()
        .find(|(path, _)| path == Path::new(SDK_MANIFEST))
        .context("the binary carries no SDK")?;
    // So that it is no part of a workspace which it happens to be written into.
    manifest.1.extend_from_slice(b"\n[workspace]\n");
    write(folder, files)?;
    Ok(folder.join("guest-sdk"))
}

/// Write a workspace of the SDK and the example agents, or leave it when it is there.
pub(super) fn write_examples(folder: &Path) -> anyhow::Result<()> {
    let mut files = sdk();
    files.extend(files_of(&AGENTS, Path::new("agents")));
    files.push(("Cargo.toml".into(), examples_manifest().into_bytes()));
    // The same versions of everything that the binary was tested with.
    files.push(("Cargo.lock".into(), LOCK.to_vec()));
    write(folder, files)
}

fn sdk() -> Files {
    let mut files = files_of(&GUEST_SDK, Path::new("guest-sdk"));
    files.extend(files_of(&WIT, Path::new("wit")));
    files
}

/// The workspace's manifest without what does not travel.
fn examples_manifest() -> String {
    let mut manifest = String::new();
    for line in WORKSPACE.lines() {
        if line.starts_with("members =") {
            manifest.push_str("members = [\"guest-sdk\", \"agents/*\"]\n");
        } else if !line.starts_with("default-members =") && !line.starts_with("antiphon =") {
            manifest.push_str(line);
            manifest.push('\n');
        }
    }
    manifest
}

fn files_of(dir: &Dir<'_>, under: &Path) -> Files {
    let mut files = Files::new();
    for file in dir.files() {
        files.push((under.join(file.path()), file.contents().to_vec()));
    }
    for dir in dir.dirs().filter(|dir| !dir.path().ends_with("target")) {
        files.extend(files_of(dir, under));
    }
    files
}

fn marker(files: &Files) -> String {
    let parts: Vec<&[u8]> = files
        .iter()
        .flat_map(|(path, bytes)| [path.as_os_str().as_encoded_bytes(), bytes.as_slice()])
        .collect();
    format!(
        "antiphon {} {}\n",
        env!("CARGO_PKG_VERSION"),
        Digest::of_parts(&parts)
    )
}

fn write(folder: &Path, mut files: Files) -> anyhow::Result<()> {
    files.sort();
    let marker = marker(&files);
    let marker_file = folder.join(MARKER);
    if folder.exists() {
        match std::fs::read_to_string(&marker_file) {
            Ok(there) if there == marker => return Ok(()),
            Ok(_) => remove_old(folder)?,
            Err(_) => {
                return Err(hinted(
                    format!(
                        "{} is there already and was not made by antiphon",
                        folder.display()
                    ),
                    "move it away, or name an SDK with --sdk PATH",
                ));
            }
        }
    }
    // First, so that a folder half written is known as ours and written again.
    put(&marker_file, b"being written\n")?;
    for (path, bytes) in &files {
        put(&folder.join(path), bytes)?;
    }
    put(&marker_file, marker.as_bytes())
}

/// Files of an older version must not stay among the new. What cargo built does.
fn remove_old(folder: &Path) -> anyhow::Result<()> {
    for part in ["guest-sdk/src", "guest-sdk/tests", "wit", "agents"] {
        let part = folder.join(part);
        if part.exists() {
            std::fs::remove_dir_all(&part)
                .with_context(|| format!("cannot replace {}", part.display()))?;
        }
    }
    Ok(())
}

/// Write a file and the folders above it.
pub(super) fn put(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, bytes)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_written_once_and_renewed_only_where_it_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let sdk = folder.path().join("antiphon-sdk");
        assert_eq!(write_sdk(&sdk).unwrap(), sdk.join("guest-sdk"));
        let manifest = std::fs::read_to_string(sdk.join(SDK_MANIFEST)).unwrap();
        assert!(manifest.ends_with("\n[workspace]\n"));
        assert!(sdk.join("wit/world.wit").is_file() && sdk.join("guest-sdk/src/lib.rs").is_file());

        // The same again changes nothing; another version's is replaced whole.
        std::fs::write(sdk.join("wit/old.wit"), "old").unwrap();
        write_sdk(&sdk).unwrap();
        assert!(sdk.join("wit/old.wit").exists());
        std::fs::write(sdk.join(MARKER), "antiphon 0.0.9 0\n").unwrap();
        write_sdk(&sdk).unwrap();
        assert!(!sdk.join("wit/old.wit").exists() && sdk.join("wit/world.wit").is_file());

        std::fs::remove_file(sdk.join(MARKER)).unwrap();
        let error = write_sdk(&sdk).unwrap_err().to_string();
        assert!(
            error.ends_with("is there already and was not made by antiphon"),
            "{error}"
        );
    }

    #[test]
    fn the_examples_are_a_workspace_without_the_host() {
        let manifest = examples_manifest();
        assert!(manifest.contains("members = [\"guest-sdk\", \"agents/*\"]"));
        assert!(manifest.contains("antiphon-sdk = { path = \"guest-sdk\" }"));
        assert!(!manifest.contains("\"host\""), "{manifest}");
        let folder = tempfile::tempdir().unwrap();
        write_examples(folder.path().join("examples").as_path()).unwrap();
        assert!(
            folder
                .path()
                .join("examples/agents/echo/src/lib.rs")
                .is_file()
        );
    }
}
