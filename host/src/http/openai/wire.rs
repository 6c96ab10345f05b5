//! PURE: what requests of the OpenAI API ask for.
//!
//! A list of messages becomes three things: system text, which are instructions for the turn; what was said up to
//! the last message of the assistant, which is told again; and what follows it, which is new. What tools of the caller's
//! answered is a JSON document, with the calls that it answers: whoever reads it needs nothing else. Fields that nobody
//! knows are ignored here and nowhere else, since clients send what their version has; a field whose meaning
//! would be lost is refused by name.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::id::{AgentName, Author};
use crate::journal::entry::{Recounted, Tool, ToolCall, Writer};

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
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

/// Of either API: there an item of the input.
#[derive(Debug, Default, Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Option<Value>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Call {
    id: String,
    function: Function,
}

#[derive(Debug, Deserialize)]
struct Function {
    name: String,
    arguments: String,
}

/// What a list of messages comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Talk {
    pub(super) instructions: Option<String>,
    pub(super) earlier: Vec<Recounted>,
    pub(super) author: Option<Author>,
    /// The body of the new message.
    pub(super) input: Value,
    pub(super) tools: Vec<Tool>,
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
        let tools = tools(self.tools, self.tool_choice)?;
        let talk = Reading {
            param: "messages",
            user: self.user,
            instructions: None,
            agent,
            known: Vec::new(),
        };
        Ok(Talk {
            tools,
            ..talk.of(self.messages)?
        })
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
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Option<Value>,
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

    /// Items of the input that stand for items of responses: their places and their ids.
    pub(super) fn references(&self) -> Vec<(usize, String)> {
        let items = self.input.as_array().into_iter().flatten().enumerate();
        items
            .filter(|(_, item)| item["type"] == "item_reference")
            .filter_map(|(at, item)| Some((at, item["id"].as_str()?.to_owned())))
            .collect()
    }

    /// Put an item where one stands for it.
    pub(super) fn resolve(&mut self, at: usize, item: Value) {
        if let Some(place) = self.input.get_mut(at) {
            *place = item;
        }
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

    /// `known` are calls that the response before it asked for.
    pub(super) fn talk(self, agent: &AgentName, known: Vec<ToolCall>) -> Result<Talk, Unfit> {
        let items = match self.input {
            Value::String(text) => vec![Message {
                role: "user".to_owned(),
                content: Some(Value::String(text)),
                ..Message::default()
            }],
            Value::Array(items) => {
                let items = items.into_iter().enumerate();
                items
                    .filter_map(|(at, item)| item_of_input(at, item).transpose())
                    .collect::<Result<Vec<Message>, Unfit>>()?
            }
            _ => return Err(Unfit::invalid("input", "`input` is a text or a list")),
        };
        let tools = tools(self.tools, self.tool_choice)?;
        let talk = Reading {
            param: "input",
            user: self.user,
            instructions: self.instructions,
            agent,
            known,
        };
        Ok(Talk {
            tools,
            ..talk.of(items)?
        })
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
        Some("function_call") => {
            let call = |name: &str| text_of(&param, &item, name);
            let call = Call {
                id: call("call_id")?,
                function: Function {
                    name: call("name")?,
                    arguments: call("arguments")?,
                },
            };
            Ok(Some(Message {
                role: "assistant".to_owned(),
                tool_calls: Some(vec![call]),
                ..Message::default()
            }))
        }
        Some("function_call_output") => Ok(Some(Message {
            role: "tool".to_owned(),
            tool_call_id: Some(text_of(&param, &item, "call_id")?),
            content: item.get("output").cloned(),
            ..Message::default()
        })),
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

/// A list of messages being read.
struct Reading<'a> {
    /// What the list is called.
    param: &'a str,
    user: Option<String>,
    instructions: Option<String>,
    agent: &'a AgentName,
    /// Calls that tools were asked for.
    known: Vec<ToolCall>,
}

/// Something that was said, or that tools answered.
struct Said {
    by: Writer,
    text: String,
    results: Vec<Value>,
}

impl Said {
    /// As a text of the transcript.
    fn recounted(self) -> Recounted {
        let (by, text) = (self.by, self.text);
        match self.results.is_empty() {
            true => Recounted { by, text },
            false => Recounted {
                by,
                text: json!({"tool_results": self.results}).to_string(),
            },
        }
    }
}

impl Reading<'_> {
    fn of(mut self, messages: Vec<Message>) -> Result<Talk, Unfit> {
        let user = self.user.take();
        let user = user.map(|user| author("user".to_owned(), &user));
        let user = user.transpose()?;
        let mut instructions: Vec<String> = self.instructions.take().into_iter().collect();
        let mut said: Vec<Said> = Vec::new();
        for (at, message) in messages.into_iter().enumerate() {
            let place = format!("{}[{at}]", self.param);
            let text = text(&place, message.content.as_ref())?;
            match message.role.as_str() {
                "system" | "developer" if text.is_empty() => {}
                "system" | "developer" => instructions.push(text),
                _ => {
                    let next = self.said(&place, message, text, user.as_ref())?;
                    match (said.last_mut(), next) {
                        // Calls that were made together are answered together.
                        (Some(last), next)
                            if !last.results.is_empty() && !next.results.is_empty() =>
                        {
                            last.results.extend(next.results);
                        }
                        (_, next) => said.push(next),
                    }
                }
            }
        }
        let last = said
            .iter()
            .rposition(|it| matches!(it.by, Writer::Agent(_)))
            .map_or(0, |at| at + 1);
        let input = said.split_off(last);
        if input.is_empty() {
            let param = self.param;
            let message =
                format!("`{param}` ends with a message of the user: that is what is answered");
            return Err(Unfit::invalid(param, message));
        }
        let name = input.last().and_then(|it| match &it.by {
            Writer::Author(author) => Some(author.clone()),
            Writer::Agent(_) => None,
        });
        // An assistant that said nothing only called tools.
        let said = said.into_iter();
        let said = said.filter(|it| !matches!(it.by, Writer::Agent(_)) || !it.text.is_empty());
        Ok(Talk {
            instructions: (!instructions.is_empty()).then(|| instructions.join("\n\n")),
            earlier: said.map(Said::recounted).collect(),
            // Nobody named is whoever the key speaks for.
            author: user.or(name.filter(|name| *name != Author::anybody())),
            input: body(input),
            tools: Vec::new(),
        })
    }

    /// A message of somebody but the system.
    fn said(
        &mut self,
        place: &str,
        message: Message,
        text: String,
        user: Option<&Author>,
    ) -> Result<Said, Unfit> {
        let person = |name: Option<Author>| {
            let by = name.or_else(|| user.cloned());
            Writer::Author(by.unwrap_or_else(Author::anybody))
        };
        let words = |by| Said {
            by,
            text: text.clone(),
            results: Vec::new(),
        };
        match message.role.as_str() {
            "user" => {
                let name = message.name.as_deref();
                let named = name.map(|name| author(format!("{place}.name"), name));
                Ok(words(person(named.transpose()?)))
            }
            "assistant" => {
                let calls = message.tool_calls.into_iter().flatten();
                self.known.extend(calls.map(|call| ToolCall {
                    id: call.id,
                    name: call.function.name,
                    arguments: call.function.arguments,
                }));
                Ok(words(Writer::Agent(self.agent.clone())))
            }
            "tool" => {
                let missing = || {
                    let param = format!("{place}.tool_call_id");
                    Unfit::invalid(param, "it says which call it answers")
                };
                let id = message.tool_call_id.ok_or_else(missing)?;
                let call = self.known.iter().rfind(|call| call.id == id);
                Ok(Said {
                    results: vec![json!({
                        "id": id,
                        "name": call.map(|call| &call.name),
                        "arguments": call.map(|call| &call.arguments),
                        "content": text,
                    })],
                    by: person(None),
                    text: String::new(),
                })
            }
            other => {
                let message = format!("messages of the role `{other}` are not taken");
                Err(Unfit::unsupported(format!("{place}.role"), message))
            }
        }
    }
}

/// The new message: a text, or what tools answered.
fn body(input: Vec<Said>) -> Value {
    let (mut texts, mut results) = (Vec::new(), Vec::new());
    for said in input {
        match said.results.is_empty() {
            true => texts.push(said.text),
            false => results.extend(said.results),
        }
    }
    let text = texts.join("\n\n");
    match (results.is_empty(), text.is_empty()) {
        (true, _) => Value::String(text),
        (false, true) => json!({"tool_results": results}),
        (false, false) => json!({"tool_results": results, "text": text}),
    }
}

/// Tools of one request, as many as OpenAI takes.
const TOOLS_MAX: usize = 128;

/// Functions that the caller offers, of either API's form. Which of them is called is the agent's affair, unless it is none.
fn tools(tools: Option<Vec<Value>>, choice: Option<Value>) -> Result<Vec<Tool>, Unfit> {
    let tools = tools.unwrap_or_default();
    if tools.len() > TOOLS_MAX {
        let message = format!("{TOOLS_MAX} tools is the most");
        return Err(Unfit::invalid("tools", message));
    }
    let tools = tools.iter().enumerate().map(|(at, tool)| {
        let param = format!("tools[{at}]");
        if tool.get("type").and_then(Value::as_str) != Some("function") {
            let message = "tools are functions of the caller's: all else is the agent's affair";
            return Err(Unfit::unsupported(param, message));
        }
        let function = tool.get("function").unwrap_or(tool);
        let description = function.get("description").and_then(Value::as_str);
        let parameters = function.get("parameters").filter(|it| it.is_object());
        Ok(Tool {
            name: text_of(&param, function, "name")?,
            description: description.unwrap_or_default().to_owned(),
            parameters: parameters.map_or_else(
                || r#"{"type":"object","properties":{}}"#.to_owned(),
                Value::to_string,
            ),
        })
    });
    let tools: Vec<Tool> = tools.collect::<Result<_, Unfit>>()?;
    match choice {
        Some(Value::String(choice)) if choice == "none" => Ok(Vec::new()),
        Some(_) | None => Ok(tools),
    }
}

/// A field that is a text.
fn text_of(param: &str, of: &Value, name: &str) -> Result<String, Unfit> {
    let text = of.get(name).and_then(Value::as_str);
    let missing = || Unfit::invalid(format!("{param}.{name}"), "it is a text");
    text.map(str::to_owned).ok_or_else(missing)
}

/// The text of a message: as it is, or of its parts, one after the other.
fn text(place: &str, content: Option<&Value>) -> Result<String, Unfit> {
    let param = format!("{place}.content");
    let parts = match content {
        None | Some(Value::Null) => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text.clone()),
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
