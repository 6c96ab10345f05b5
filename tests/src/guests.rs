//! The guests under test, built from source once per run.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The workspace.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("tests/ is in the workspace")
        .to_owned()
}

const PACKAGES: [&str; 12] = [
    "hostile", "puppet", "caller", "asker", "envoy", "worker", "echo", "talker", "thinker",
    "clerk", "debater", "judge",
];

/// The component of a package of this workspace.
pub(crate) fn component(package: &str) -> &'static [u8] {
    static BUILT: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let paths = antiphon::guest::build(&root(), &PACKAGES).expect("the guests build");
        let read = |path: &PathBuf| std::fs::read(path).expect("cargo wrote the component");
        paths.iter().map(read).collect()
    });
    let at = PACKAGES.iter().position(|name| *name == package);
    &built[at.expect("PACKAGES names every guest")]
}

/// A component from its text form.
pub(crate) fn of_text(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's WAT is valid")
}
