//! Building guests from source: from a crate to its component.
//!
//! Used by the command line, the quickstart and the tests, so that nobody ever builds a
//! guest by hand first. Runs `cargo` and, when the target is missing, `rustup`, both as
//! the person who calls would; their progress goes to stderr. Blocks.
//!
//! What a component keeps: its function names, so that a backtrace of a trap can be read.
//! What it loses: line tables and debug info, which are most of its bytes.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

pub const TARGET: &str = "wasm32-wasip2";

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("there is no Cargo.toml in {}", .0.display())]
    NoManifest(PathBuf),
    #[error("`{program}` could not be started: {error}")]
    NotStarted {
        program: &'static str,
        error: std::io::Error,
    },
    #[error(
        "the Rust target {TARGET} is not installed and there is no rustup to add it; \
         install it with the package manager that Rust came from"
    )]
    NoTarget,
    #[error("`rustup target add {TARGET}` failed: {0}")]
    TargetNotAdded(String),
    /// The compiler has said why on stderr.
    #[error("cargo could not build {0}")]
    Failed(String),
    #[error("{0} makes no component: its Cargo.toml needs `[lib] crate-type = [\"cdylib\"]`")]
    NoComponent(String),
    #[error("{0} makes more than one component")]
    SeveralComponents(String),
}

/// Build components, release profile: of these packages of the workspace at
/// `manifest_dir`, in their order, or with none of the package there.
pub fn build(manifest_dir: &Path, packages: &[&str]) -> Result<Vec<PathBuf>, BuildError> {
    let manifest = manifest_dir.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(BuildError::NoManifest(manifest_dir.to_owned()));
    }
    ensure_target()?;

    let mut cargo = tool("cargo");
    cargo
        .args(["build", "--release", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .arg("--manifest-path")
        .arg(&manifest)
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .envs(PROFILE)
        .current_dir(manifest_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let not_started = |error| BuildError::NotStarted {
        program: "cargo",
        error,
    };
    let mut child = cargo.spawn().map_err(not_started)?;
    let stdout = child.stdout.take().expect("the output is piped");
    let artifacts: Vec<Artifact> = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| Artifact::of_message(&line))
        .collect();
    let status = child.wait().map_err(not_started)?;

    let manifest = manifest.canonicalize().unwrap_or(manifest);
    let what = |package: Option<&str>| match package {
        Some(package) => format!("`{package}`"),
        None => manifest_dir.display().to_string(),
    };
    if !status.success() {
        let all = if packages.is_empty() {
            what(None)
        } else {
            packages.join(", ")
        };
        return Err(BuildError::Failed(all));
    }
    let find = |package: Option<&str>| {
        let mut found = artifacts.iter().filter(|artifact| match package {
            Some(package) => artifact.package == package,
            None => artifact.manifest == manifest,
        });
        let first = found
            .next()
            .ok_or_else(|| BuildError::NoComponent(what(package)))?;
        match found.next() {
            None => Ok(first.component.clone()),
            Some(_) => Err(BuildError::SeveralComponents(what(package))),
        }
    };
    if packages.is_empty() {
        return Ok(vec![find(None)?]);
    }
    packages.iter().map(|package| find(Some(package))).collect()
}

/// How guests are compiled, whatever profile their own workspace has. A small agent with
/// serde_json: 161 KiB by cargo's defaults, 143 KiB so, 2.4 MiB with `strip = "none"`; its
/// function names are in it each time.
const PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "none"),
    ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
];

/// A component that cargo says it has made.
#[derive(Debug, PartialEq)]
struct Artifact {
    package: String,
    manifest: PathBuf,
    component: PathBuf,
}

impl Artifact {
    fn of_message(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Message {
            reason: String,
            #[serde(default)]
            package_id: String,
            #[serde(default)]
            manifest_path: PathBuf,
            #[serde(default)]
            target: Target,
            #[serde(default)]
            filenames: Vec<PathBuf>,
        }
        #[derive(Default, Deserialize)]
        struct Target {
            kind: Vec<String>,
        }
        let message: Message = serde_json::from_str(line).ok()?;
        if message.reason != "compiler-artifact"
            || !message.target.kind.iter().any(|kind| kind == "cdylib")
        {
            return None;
        }
        Some(Self {
            package: package_name(&message.package_id)?.to_owned(),
            manifest: message.manifest_path,
            component: message.filenames.into_iter().find(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "wasm")
            })?,
        })
    }
}

/// The name in a package id: `path+file:///a/NAME#1.0.0` or `path+file:///a/b#NAME@1.0.0`.
fn package_name(id: &str) -> Option<&str> {
    let (place, version) = id.split_once('#')?;
    match version.split_once('@') {
        Some((name, _)) => Some(name),
        None => place.rsplit('/').next(),
    }
}

/// Make sure that the compiler has the standard library for guests.
fn ensure_target() -> Result<(), BuildError> {
    let output = tool("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| BuildError::NotStarted {
            program: "rustc",
            error,
        })?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && folder.is_dir() {
        return Ok(());
    }
    let output = match tool("rustup").args(["target", "add", TARGET]).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(BuildError::NoTarget);
        }
        Err(error) => {
            return Err(BuildError::NotStarted {
                program: "rustup",
                error,
            });
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no reason given");
    Err(BuildError::TargetNotAdded(last.trim().to_owned()))
}

/// A tool of the Rust installation, free of what an outer `cargo run` or `cargo test`
/// told *this* program about *its* package, and of flags meant for another target.
fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if is_of_outer_cargo(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_of_outer_cargo(name: &OsString) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    const WHOLE: [&str; 9] = [
        "CARGO",
        "CARGO_BUILD_TARGET",
        "CARGO_CRATE_NAME",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_MAKEFLAGS",
        "CARGO_BIN_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
    ];
    const BEGINNINGS: [&str; 6] = [
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_BIN_EXE_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PROFILE_",
    ];
    WHOLE.contains(&name)
        || BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_ids_of_both_forms_name_their_package() {
        assert_eq!(
            package_name("path+file:///w/agents/echo#0.1.0"),
            Some("echo")
        );
        assert_eq!(
            package_name("path+file:///w/a b/x#my-agent@0.1.0"),
            Some("my-agent")
        );
        assert_eq!(package_name("nonsense"), None);
    }

    #[test]
    fn components_are_found_among_cargos_messages() {
        let message = |kind: &str, file: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///w/echo#0.1.0",
                "manifest_path":"/w/echo/Cargo.toml","target":{{"kind":["{kind}"]}},
                "filenames":["{file}"],"fresh":true}}"#
            )
        };
        let echo = Artifact {
            package: "echo".into(),
            manifest: "/w/echo/Cargo.toml".into(),
            component: "/t/echo.wasm".into(),
        };
        assert_eq!(
            Artifact::of_message(&message("cdylib", "/t/echo.wasm")),
            Some(echo)
        );
        assert_eq!(
            Artifact::of_message(&message("lib", "/t/libecho.rlib")),
            None
        );
        assert_eq!(
            Artifact::of_message(&message("cdylib", "/t/libecho.so")),
            None
        );
        assert_eq!(
            Artifact::of_message(r#"{"reason":"build-finished","success":true}"#),
            None
        );
        assert_eq!(Artifact::of_message("warning: not JSON"), None);
    }

    #[test]
    fn what_an_outer_cargo_says_about_this_package_is_not_passed_on() {
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "RUSTFLAGS", "CARGO"] {
            assert!(is_of_outer_cargo(&name.into()), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN", "PATH"] {
            assert!(!is_of_outer_cargo(&name.into()), "{name}");
        }
    }
}
