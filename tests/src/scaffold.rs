//! `antiphon new`: what it writes builds and passes its test, wherever it is written.

use std::path::Path;
use std::process::Command;

use crate::process::command;

/// Both scaffolds are the same crate with the same dependencies: they are built once.
fn target() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/scaffold")
}

/// Scaffold an agent in `folder`, then test and build it as its README says.
fn scaffold_in(folder: &Path) {
    let made = command(&["new", "my-agent"])
        .current_dir(folder)
        .output()
        .expect("it runs");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let crate_folder = folder.join("my-agent");
    // As a person's shell would: without what the cargo around this test has set.
    let tested = Command::new("cargo")
        .args(["test", "--quiet"])
        .current_dir(&crate_folder)
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| !name.starts_with("CARGO_") && name != "CARGO"))
        .env("CARGO_TARGET_DIR", target())
        .output()
        .expect("cargo runs");
    let words = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(
        tested.status.success(),
        "{words}{}",
        String::from_utf8_lossy(&tested.stderr)
    );
    assert!(words.contains("test result: ok. 1 passed"), "{words}");
    let built = command(&["build"])
        .current_dir(&crate_folder)
        .env("CARGO_TARGET_DIR", target())
        .output()
        .expect("it runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
}

#[test]
fn outside_any_checkout() {
    let folder = tempfile::tempdir().expect("a folder");
    scaffold_in(folder.path());
}

#[test]
fn inside_a_workspace() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target).expect("the target folder");
    let folder = tempfile::tempdir_in(target).expect("a folder");
    scaffold_in(folder.path());
}
