//! PURE: what requests of the OpenAI API ask for.
//!
//! A list of messages becomes three things: system text, which are instructions for the turn; what was said up to
//! the last message of the assistant, which is told again; and what follows it, which is new. Fields that nobody
//! knows are ignored here and nowhere else, since clients send what their version has; a field whose meaning
//! would be lost is refused by name.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::id::{AgentName, Author};
use crate::journal::entry::{Recounted, Writer};

/// A request that cannot be: which field of it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) code: &'static str,
    /// As `messages[0].content`; none for the whole.
    pub(super) param: Option<String>,
    pub(super) message: String,
}

impl Unfit {
    /// Of the wrong type, or out of bounds.
    fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: "invalid_json",
            param: Some(param.into()),
            message: message.into(),
        }
    }

    /// Well formed, and nothing that is done here.
    pub(super) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: "unsupported_value",
            ..Self::invalid(param, message)
        }
    }
}

/// `POST /v1/chat/completions`, as far as it matters.
#[derive(Debug, Deserialize)]
pub(super) struct Chat {
    pub(super) model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    user: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

/// Of either API: there an item of the input.
#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Option<Value>,
    #[serde(default)]
    name: Option<String>,
}

/// What a list of messages comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Talk {
    pub(super) instructions: Option<String>,
    pub(super) earlier: Vec<Recounted>,
    pub(super) author: Option<Author>,
    pub(super) input: String,
}

impl Chat {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unfit> {
        let chat: Self = json(bytes)?;
        if chat.n.is_some_and(|n| n != 1) {
            return Err(Unfit::unsupported("n", "`n` is 1: a turn answers once"));
        }
        Ok(chat)
    }

    pub(super) fn is_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether the stream tells what the turn used.
    pub(super) fn includes_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options.and_then(|it| it.include_usage) == Some(true)
    }

    pub(super) fn talk(self, agent: &AgentName) -> Result<Talk, Unfit> {
        talk("messages", self.messages, self.user, None, agent)
    }
}

/// `POST /v1/responses`, as far as it matters.
#[derive(Debug, Deserialize)]
pub(super) struct NewResponse {
    pub(super) model: String,
    input: Value,
    #[serde(default)]
    instructions: Option<String>,
    #[serde(default)]
    pub(super) previous_response_id: Option<String>,
    #[serde(default)]
    background: Option<bool>,
    #[serde(default)]
    store: Option<bool>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    metadata: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    conversation: Option<Value>,
    #[serde(default)]
    prompt: Option<Value>,
}

/// Fields that answers tell again.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub(super) struct Echo {
    #[serde(default)]
    pub(super) previous_response_id: Option<String>,
    #[serde(default)]
    pub(super) background: bool,
    #[serde(default = "yes")]
    pub(super) store: bool,
    #[serde(default)]
    pub(super) metadata: std::collections::BTreeMap<String, String>,
    /// The session was made for this response.
    #[serde(default)]
    pub(super) opened: bool,
}

fn yes() -> bool {
    true
}

/// Pairs of `metadata`, as OpenAI bounds them: the answers tell them again.
const METADATA_MAX: usize = 16;
const METADATA_KEY_CHARS_MAX: usize = 64;
const METADATA_CHARS_MAX: usize = 512;

impl NewResponse {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unfit> {
        let response: Self = json(bytes)?;
        for (param, value) in [
            ("conversation", &response.conversation),
            ("prompt", &response.prompt),
        ] {
            if value.is_some() {
                let message = format!("`{param}` names what this server does not keep");
                return Err(Unfit::unsupported(param, message));
            }
        }
        if response.background == Some(true) && response.store == Some(false) {
            let message = "a response in the background is stored: nobody could fetch it else";
            return Err(Unfit::unsupported("store", message));
        }
        let metadata = response.metadata.iter().flatten();
        let is_long = |(key, value): (&String, &String)| {
            key.chars().count() > METADATA_KEY_CHARS_MAX
                || value.chars().count() > METADATA_CHARS_MAX
        };
        if metadata.clone().count() > METADATA_MAX || metadata.clone().any(is_long) {
            let message = format!(
                "`metadata` has at most {METADATA_MAX} pairs, of {METADATA_KEY_CHARS_MAX} and {METADATA_CHARS_MAX} characters"
            );
            return Err(Unfit::invalid("metadata", message));
        }
        Ok(response)
    }

    pub(super) fn is_stream(&self) -> bool {
        self.stream == Some(true)
    }

    pub(super) fn is_background(&self) -> bool {
        self.background == Some(true)
    }

    pub(super) fn is_stored(&self) -> bool {
        self.store != Some(false)
    }

    pub(super) fn echo(&self, opened: bool) -> Echo {
        Echo {
            previous_response_id: self.previous_response_id.clone(),
            background: self.is_background(),
            store: self.is_stored(),
            metadata: self.metadata.clone().unwrap_or_default(),
            opened,
        }
    }

    pub(super) fn talk(self, agent: &AgentName) -> Result<Talk, Unfit> {
        let items = match self.input {
            Value::String(text) => vec![Message {
                role: "user".to_owned(),
                content: Some(Value::String(text)),
                name: None,
            }],
            Value::Array(items) => {
                let items = items.into_iter().enumerate();
                items
                    .filter_map(|(at, item)| item_of_input(at, item).transpose())
                    .collect::<Result<Vec<Message>, Unfit>>()?
            }
            _ => return Err(Unfit::invalid("input", "`input` is a text or a list")),
        };
        talk("input", items, self.user, self.instructions, agent)
    }
}

/// A message of the input; none for what a model thought.
fn item_of_input(at: usize, item: Value) -> Result<Option<Message>, Unfit> {
    let param = format!("input[{at}]");
    match item.get("type").and_then(Value::as_str) {
        None | Some("message") => {
            let message = serde_json::from_value(item);
            let invalid = |error: serde_json::Error| Unfit::invalid(param, error.to_string());
            message.map(Some).map_err(invalid)
        }
        // What a model thought is its agent's affair.
        Some("reasoning") => Ok(None),
        Some(other) => {
            let message = format!("items of the type `{other}` are not taken");
            Err(Unfit::unsupported(param, message))
        }
    }
}

/// A body, with the field that is wrong named.
fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unfit> {
    let whole = |message: String| Unfit {
        code: "invalid_json",
        param: None,
        message,
    };
    // serde takes an array for an object, by the order of the fields.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(whole("the body is an object".to_owned()));
    }
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        // What is no JSON at all has no place.
        let path = match error.inner().is_data() {
            true => error.path().to_string(),
            false => ".".to_owned(),
        };
        let message = error.into_inner().to_string();
        let missing = message
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next());
        let param = match (path.as_str(), missing) {
            (".", missing) => missing.map(str::to_owned),
            (path, Some(missing)) => Some(format!("{path}.{missing}")),
            (path, None) => Some(path.to_owned()),
        };
        Unfit {
            param,
            ..whole(message)
        }
    });
    let read = read?;
    from.end().map_err(|error| whole(error.to_string()))?;
    Ok(read)
}

fn author(param: String, name: &str) -> Result<Author, Unfit> {
    Author::new(name).map_err(|error| Unfit {
        code: "invalid_name",
        ..Unfit::invalid(param, error.to_string())
    })
}

/// `param` is what the list is called.
fn talk(
    param: &str,
    messages: Vec<Message>,
    user: Option<String>,
    instructions: Option<String>,
    agent: &AgentName,
) -> Result<Talk, Unfit> {
    let user = user.map(|user| author("user".to_owned(), &user));
    let user = user.transpose()?;
    let mut instructions: Vec<String> = instructions.into_iter().collect();
    let mut said: Vec<Recounted> = Vec::new();
    for (at, message) in messages.into_iter().enumerate() {
        let place = format!("{param}[{at}]");
        let by = match message.role.as_str() {
            "system" | "developer" => None,
            "user" => {
                let name = message.name.as_deref();
                let named = name.map(|name| author(format!("{place}.name"), name));
                let by = named.transpose()?.or_else(|| user.clone());
                Some(Writer::Author(by.unwrap_or_else(anybody)))
            }
            "assistant" => Some(Writer::Agent(agent.clone())),
            other => {
                let message = format!("messages of the role `{other}` are not taken");
                return Err(Unfit::unsupported(format!("{place}.role"), message));
            }
        };
        let text = text(&place, message.content)?;
        match by {
            None if text.is_empty() => {}
            None => instructions.push(text),
            // An assistant that said nothing only called tools.
            Some(Writer::Agent(_)) if text.is_empty() => {}
            Some(by) => said.push(Recounted { by, text }),
        }
    }
    let last = said
        .iter()
        .rposition(|it| matches!(it.by, Writer::Agent(_)))
        .map_or(0, |at| at + 1);
    let input = said.split_off(last);
    if input.is_empty() {
        let message =
            format!("`{param}` ends with a message of the user: that is what is answered");
        return Err(Unfit::invalid(param, message));
    }
    let name = input.last().and_then(|it| match &it.by {
        Writer::Author(author) => Some(author.clone()),
        Writer::Agent(_) => None,
    });
    // Nobody named is whoever the key speaks for.
    let author = user.or(name.filter(|name| *name != anybody()));
    let texts: Vec<String> = input.into_iter().map(|it| it.text).collect();
    Ok(Talk {
        instructions: (!instructions.is_empty()).then(|| instructions.join("\n\n")),
        earlier: said,
        author,
        input: texts.join("\n\n"),
    })
}

/// Who speaks where nobody is named, here as with `invoke`.
fn anybody() -> Author {
    Author::new("user").expect("it obeys the rule of names")
}

/// The text of a message: as it is, or of its parts, one after the other.
fn text(place: &str, content: Option<Value>) -> Result<String, Unfit> {
    let param = format!("{place}.content");
    let parts = match content {
        None | Some(Value::Null) => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        Some(_) => {
            let message = "`content` is a text or a list of parts";
            return Err(Unfit::invalid(param, message));
        }
    };
    let mut texts = String::new();
    for (at, part) in parts.iter().enumerate() {
        let param = format!("{param}[{at}]");
        let field = |name: &str| part.get(name).and_then(Value::as_str);
        let kind = field("type")
            .ok_or_else(|| Unfit::invalid(format!("{param}.type"), "a part says its `type`"))?;
        let name = match kind {
            "text" | "input_text" | "output_text" => "text",
            "refusal" => "refusal",
            other => {
                let message =
                    format!("parts of the type `{other}` are not taken: messages are text");
                return Err(Unfit::unsupported(param, message));
            }
        };
        let missing = || Unfit::invalid(format!("{param}.{name}"), "it is a text");
        texts.push_str(field(name).ok_or_else(missing)?);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests;
