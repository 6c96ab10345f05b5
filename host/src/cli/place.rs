//! Which server a command talks to, and with which key.

use std::path::{Path, PathBuf};

use antiphon::id::{AgentName, Author, SessionId};
use antiphon::secret::Secret;
use anyhow::Context;

use super::fault::{Hint, hinted};

/// A server's address.
pub(super) const URL_FILE: &str = "url";
/// The key of tenant `default`.
pub(super) const KEY_FILE: &str = "default.key";
/// The operator's key, which administers tenants.
const OPERATOR_KEY_FILE: &str = "operator.key";
const LOCAL_URL: &str = "http://127.0.0.1:7171";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Remote {
    /// The server's address; without it, that of the local server in --data
    #[arg(long, env = "ANTIPHON_URL", value_name = "URL")]
    pub(super) url: Option<String>,
    /// The key; without it, that of the local server in --data
    #[arg(long, env = "ANTIPHON_KEY", value_name = "KEY", hide_env_values = true)]
    pub(super) key: Option<String>,
    /// The data folder of a local server
    #[arg(
        long,
        env = "ANTIPHON_DATA",
        value_name = "FOLDER",
        default_value = "antiphon-data"
    )]
    pub(super) data: PathBuf,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    /// Without a `/` at its end.
    pub(super) url: String,
    pub(super) key: Secret,
}

impl Remote {
    pub(super) fn find(&self) -> anyhow::Result<Place> {
        self.find_with(KEY_FILE)
    }

    /// The same for whoever runs the server.
    pub(super) fn find_operator(&self) -> anyhow::Result<Place> {
        self.find_with(OPERATOR_KEY_FILE)
    }

    fn find_with(&self, key_file: &str) -> anyhow::Result<Place> {
        let given = self.url.as_deref().filter(|url| !url.is_empty());
        let local = read(&self.data.join(URL_FILE))?;
        let url = given.map(clean).or_else(|| local.as_deref().map(clean));
        let url = match (url, &self.key) {
            (Some(url), _) => url,
            (None, Some(_)) => LOCAL_URL.to_owned(),
            (None, None) => {
                let message = format!("no server: there is none in {}", self.data.display());
                let hint = "start one with `antiphon serve`, or say --url URL and --key KEY";
                return Err(hinted(message, hint));
            }
        };
        if let Some(key) = self.key.as_deref().filter(|key| !key.is_empty()) {
            return Ok(Place {
                url,
                key: Secret::new(key.trim()),
            });
        }
        // A local server's key is for that server only and is sent nowhere else.
        let is_local = local.as_deref().map(clean).is_none_or(|local| local == url);
        let key = if is_local {
            read(&self.data.join(key_file))?
        } else {
            None
        };
        match key {
            Some(key) => Ok(Place {
                url,
                key: Secret::new(key),
            }),
            None => Err(hinted(
                format!("no key for {url}"),
                "say --key KEY, set ANTIPHON_KEY, or name the server's data folder with --data",
            )),
        }
    }
}

fn clean(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error)
            .with_context(|| format!("cannot read {}", path.display()))
            .hint("only the one who runs the server may read its key"),
    }
}

/// Whoever sits here, as an author's name.
pub(super) fn person() -> String {
    let user = std::env::var("USER").unwrap_or_default();
    Author::new(&user).map_or_else(|_| "person".to_owned(), |author| author.to_string())
}

pub(super) fn agent_name(text: &str) -> Result<AgentName, String> {
    AgentName::new(text).map_err(|error| error.to_string())
}

pub(super) fn session_id(text: &str) -> Result<SessionId, String> {
    SessionId::new(text).map_err(|error| error.to_string())
}

pub(super) fn author(text: &str) -> Result<Author, String> {
    Author::new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(
        files: &[(&str, &str)],
        url: Option<&str>,
        key: Option<&str>,
    ) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let remote = Remote {
            url: url.map(Into::into),
            key: key.map(Into::into),
            data: folder.path().to_owned(),
        };
        remote
            .find()
            .map(|place| format!("{} {}", place.url, place.key.reveal()))
            .map_err(|error| {
                error
                    .to_string()
                    .replace(&folder.path().display().to_string(), "D")
            })
    }

    const LOCAL: [(&str, &str); 2] = [(URL_FILE, "http://127.0.0.1:9\n"), (KEY_FILE, "local\n")];

    #[test]
    fn what_is_said_wins_over_the_data_folder() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(find(&LOCAL, None, None), ok("http://127.0.0.1:9 local"));
        assert_eq!(
            find(&LOCAL, Some("http://127.0.0.1:9/"), None),
            ok("http://127.0.0.1:9 local")
        );
        assert_eq!(
            find(&LOCAL, None, Some("mine")),
            ok("http://127.0.0.1:9 mine")
        );
        assert_eq!(
            find(&[], None, Some("mine")),
            ok("http://127.0.0.1:7171 mine")
        );
        assert_eq!(
            find(&LOCAL, Some("http://h"), Some("mine")),
            ok("http://h mine")
        );
    }

    #[test]
    fn a_local_key_is_sent_nowhere_else() {
        assert_eq!(
            find(&LOCAL, Some("http://h"), None),
            Err("no key for http://h".into())
        );
    }

    #[test]
    fn without_a_server_it_says_so() {
        assert_eq!(
            find(&[], None, None),
            Err("no server: there is none in D".into())
        );
    }
}
