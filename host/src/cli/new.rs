//! `antiphon new`: a crate for an agent, and the SDK beside it.

use std::path::{Path, PathBuf};

use antiphon::id::AgentName;
use anyhow::Context;

use super::embedded::{put, write_sdk};
use super::fault::hinted;
use super::term::out;

const MANIFEST: &str = include_str!("template/Cargo.toml.txt");
const SOURCE: &str = include_str!("template/lib.rs");
const README: &str = include_str!("template/README.md");
const AGENT: &str = "{\n  \"model\": \"default\"\n}\n";
const SDK_FOLDER: &str = "antiphon-sdk";

/// Words that cannot name a crate: of the language, or of its own crates.
const RESERVED: [&str; 50] = [
    "abstract",
    "alloc",
    "antiphon-sdk",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "use",
];

/// Make a crate for an agent
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon new poet && antiphon dev poet\n\n\
    Writes the folder NAME and, beside it, the SDK that travels in this binary, once for all\n\
    agents there.")]
pub(super) struct Args {
    /// The agent's name, and its folder's
    #[arg(value_parser = name)]
    name: AgentName,
    /// Use this folder as the SDK instead
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
}

fn name(text: &str) -> Result<AgentName, String> {
    let name = AgentName::new(text).map_err(|error| error.to_string())?;
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("an agent's name may begin with a digit, but its crate's may not".to_owned());
    }
    let unusable = [
        "unsafe", "unsized", "typeof", "virtual", "where", "while", "yield",
    ];
    if RESERVED.contains(&text) || unusable.contains(&text) {
        return Err(format!(
            "`{text}` has a meaning in Rust and cannot name a crate"
        ));
    }
    Ok(name)
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let here = std::env::current_dir().context("there is no current folder")?;
    create(&here, &args.name, args.sdk.as_deref())?;
    let name = &args.name;
    out(&format!(
        "{name}/ is ready. Go on with\n\n  cd {name}\n  cargo test      # no server, no wasm\n  \
         antiphon dev    # build, deploy and talk; again on every save\n"
    ))?;
    Ok(())
}

fn create(here: &Path, name: &AgentName, sdk: Option<&Path>) -> anyhow::Result<()> {
    let folder = here.join(name.as_str());
    if folder.exists() {
        return Err(hinted(
            format!("{} is there already", folder.display()),
            "choose another name",
        ));
    }
    let sdk = match sdk {
        Some(sdk) => {
            let sdk = here.join(sdk);
            if !sdk.join("Cargo.toml").is_file() {
                let hint = "--sdk names the folder `guest-sdk`, with its Cargo.toml";
                return Err(hinted(
                    format!("there is no SDK in {}", sdk.display()),
                    hint,
                ));
            }
            sdk.canonicalize()
                .context("the SDK's path")?
                .display()
                .to_string()
        }
        None => {
            write_sdk(&here.join(SDK_FOLDER))?;
            // Relative, so that both folders can be moved together.
            format!("../{SDK_FOLDER}/guest-sdk")
        }
    };
    let fill = |text: &str| text.replace("{NAME}", name.as_str());
    // As TOML text: a path may hold quotes and backslashes.
    let sdk = sdk.replace('\\', "\\\\").replace('"', "\\\"");
    let files = [
        ("src/lib.rs", fill(SOURCE)),
        ("agent.json", AGENT.to_owned()),
        ("README.md", fill(README)),
        (".gitignore", "/target\n".to_owned()),
        // Last: a folder with a manifest is whole.
        ("Cargo.toml", fill(MANIFEST).replace("{SDK}", &sdk)),
    ];
    for (path, text) in files {
        put(&folder.join(path), text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(folder: &Path) -> Vec<String> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                files.extend(list(&path).iter().map(|inner| format!("{name}/{inner}")));
            } else {
                files.push(name);
            }
        }
        files.sort();
        files
    }

    #[test]
    fn a_scaffold_is_a_crate_of_its_own_with_the_sdk_beside_it() {
        let here = tempfile::tempdir().unwrap();
        create(here.path(), &name("poet").unwrap(), None).unwrap();
        create(here.path(), &name("critic").unwrap(), None).unwrap();
        let poet = here.path().join("poet");
        assert_eq!(
            list(&poet),
            [
                ".gitignore",
                "Cargo.toml",
                "README.md",
                "agent.json",
                "src/lib.rs"
            ]
        );
        let manifest = std::fs::read_to_string(poet.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"poet\"") && manifest.ends_with("[workspace]\n"));
        assert!(manifest.contains("path = \"../antiphon-sdk/guest-sdk\""));
        assert!(
            here.path()
                .join("antiphon-sdk/guest-sdk/Cargo.toml")
                .is_file()
        );
        assert!(
            !std::fs::read_to_string(poet.join("src/lib.rs"))
                .unwrap()
                .contains("{NAME}")
        );
        assert!(create(here.path(), &name("poet").unwrap(), None).is_err());
    }

    #[test]
    fn a_given_sdk_is_used_and_none_is_written() {
        let here = tempfile::tempdir().unwrap();
        let sdk = here.path().join("mine");
        let missing = create(here.path(), &name("poet").unwrap(), Some(&sdk)).unwrap_err();
        assert!(
            missing.to_string().starts_with("there is no SDK in "),
            "{missing}"
        );
        put(&sdk.join("Cargo.toml"), b"").unwrap();
        create(here.path(), &name("poet").unwrap(), Some(Path::new("mine"))).unwrap();
        let manifest = std::fs::read_to_string(here.path().join("poet/Cargo.toml")).unwrap();
        assert!(manifest.contains("/mine\" }"), "{manifest}");
        assert!(!here.path().join(SDK_FOLDER).exists());
    }

    #[test]
    fn names_obey_the_agents_rule_and_the_crates() {
        for good in ["poet", "poet-2", "a"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in [
            "Poet",
            "-a",
            "a/b",
            "",
            "a_b",
            "2nd",
            "test",
            "fn",
            "antiphon-sdk",
            "while",
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(name("2nd").unwrap_err().contains("digit"));
    }
}
