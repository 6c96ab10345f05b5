//! The provider's JSON: OpenAI's chat completions, out and in. Pure.
//!
//! Owns what a request looks like to a provider, the canonical bytes that stand for
//! it in the journal, and the shapes of what comes back. What an answer *means* is
//! `decoder.rs`.
//!
//! Invariant: a request's canonical bytes never change, or turns recorded by an older
//! host could not be replayed: members are only added, at the end, and left out when absent.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{MaxTokens, Message, ModelError, Request, ToolChoice};

/// JSON that the guest wrote goes out as it is. If it is not JSON, the request is
/// refused before it is sent, but it must have canonical bytes all the same.
#[derive(Serialize)]
#[serde(untagged)]
enum Embedded<'a> {
    Json(&'a RawValue),
    Broken(&'a str),
}

impl<'a> Embedded<'a> {
    fn new(text: &'a str) -> Self {
        serde_json::from_str(text).map_or(Self::Broken(text), Self::Json)
    }
}

#[derive(Serialize)]
struct OutFunction<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Embedded<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
}

/// A tool offered, a tool call made, or the tool that must be called.
#[derive(Serialize)]
struct OutTool<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    r#type: &'static str,
    function: OutFunction<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum OutChoice<'a> {
    Word(&'static str),
    Named(OutTool<'a>),
}

#[derive(Serialize)]
struct OutMessage<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// Null only beside tool calls: providers refuse an assistant that said nothing.
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<OutTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct OutRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    messages: Vec<OutMessage<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<OutTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<OutChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Embedded<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

fn message(message: &Message) -> OutMessage<'_> {
    let plain = |role, text| OutMessage {
        role,
        name: None,
        content: Some(text),
        tool_calls: Vec::new(),
        tool_call_id: None,
    };
    match message {
        Message::System(text) => plain("system", text),
        Message::User { name, text } => OutMessage {
            name: name.as_deref(),
            ..plain("user", text)
        },
        Message::Assistant { text, tool_calls } => OutMessage {
            content: text.as_deref().or(tool_calls.is_empty().then_some("")),
            tool_calls: tool_calls
                .iter()
                .map(|call| OutTool {
                    id: Some(&call.id),
                    r#type: "function",
                    function: OutFunction {
                        name: &call.name,
                        description: None,
                        parameters: None,
                        arguments: Some(&call.arguments),
                    },
                })
                .collect(),
            ..plain("assistant", "")
        },
        Message::Tool { call, text } => OutMessage {
            tool_call_id: Some(call),
            ..plain("tool", text)
        },
    }
}

fn body(request: &Request) -> OutRequest<'_> {
    let parameters = &request.parameters;
    OutRequest {
        model: None,
        messages: request.messages.iter().map(message).collect(),
        tools: request
            .tools
            .iter()
            .map(|tool| OutTool {
                id: None,
                r#type: "function",
                function: OutFunction {
                    name: &tool.name,
                    description: Some(&tool.description),
                    parameters: Some(Embedded::new(&tool.parameters)),
                    arguments: None,
                },
            })
            .collect(),
        tool_choice: request.tool_choice.as_ref().map(|choice| match choice {
            ToolChoice::Automatic => OutChoice::Word("auto"),
            ToolChoice::Never => OutChoice::Word("none"),
            ToolChoice::Required => OutChoice::Word("required"),
            ToolChoice::Named(name) => OutChoice::Named(OutTool {
                id: None,
                r#type: "function",
                function: OutFunction {
                    name,
                    description: None,
                    parameters: None,
                    arguments: None,
                },
            }),
        }),
        temperature: parameters.temperature,
        top_p: parameters.top_p,
        max_tokens: parameters.max_tokens,
        max_completion_tokens: None,
        stop: &parameters.stop,
        seed: parameters.seed,
        reasoning_effort: parameters.reasoning_effort.as_deref(),
        response_format: parameters.response_format.as_deref().map(Embedded::new),
        stream: None,
        stream_options: None,
    }
}

fn bytes(body: &OutRequest<'_>) -> Vec<u8> {
    serde_json::to_vec(body).expect("a request has only string keys, so it has a JSON form")
}

/// What stands for the request in the journal: neither which provider it goes to nor
/// how the answer travels is part of it, so both may change between crash and replay.
pub(super) fn canonical(request: &Request) -> Vec<u8> {
    bytes(&body(request))
}

/// The same JSON in the form of RFC 8785, so that neither the order of members nor white space makes a
/// difference. None if a number in it is beyond what that form can tell apart.
pub(super) fn rfc_8785(json: &[u8]) -> Option<Vec<u8>> {
    let json: Value = serde_json::from_slice(json).ok()?;
    if !is_exact(&json) {
        return None;
    }
    serde_json_canonicalizer::to_vec(&json).ok()
}

/// Whether all its integers are told apart as floating point.
fn is_exact(json: &Value) -> bool {
    const MOST: u64 = 1 << 53;
    match json {
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number <= MOST,
            (None, Some(number)) => number.unsigned_abs() <= MOST,
            (None, None) => true,
        },
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// The body of a streaming call.
pub(super) fn streaming(
    request: &Request,
    model: &str,
    max_tokens: MaxTokens,
) -> Result<Vec<u8>, ModelError> {
    check(request)?;
    let mut body = body(request);
    body.model = Some(model);
    if max_tokens == MaxTokens::Completion {
        body.max_completion_tokens = body.max_tokens.take();
    }
    body.stream = Some(true);
    body.stream_options = Some(StreamOptions {
        include_usage: true,
    });
    Ok(bytes(&body))
}

/// What no provider could read is refused here, with words that name the place.
fn check(request: &Request) -> Result<(), ModelError> {
    let is_json = |text| matches!(Embedded::new(text), Embedded::Json(_));
    if let Some(tool) = request.tools.iter().find(|tool| !is_json(&tool.parameters)) {
        return Err(ModelError::Refused(format!(
            "the parameters of tool {:?} are not JSON",
            tool.name
        )));
    }
    let parameters = &request.parameters;
    if parameters
        .response_format
        .as_deref()
        .is_some_and(|format| !is_json(format))
    {
        return Err(ModelError::Refused(
            "the response format is not JSON".to_owned(),
        ));
    }
    if [parameters.temperature, parameters.top_p]
        .into_iter()
        .flatten()
        .any(|number| !number.is_finite())
    {
        return Err(ModelError::Refused(
            "temperature and top-p must be finite numbers".to_owned(),
        ));
    }
    Ok(())
}

/// A chunk of a stream, or a whole completion: they differ in one word.
#[derive(Deserialize)]
pub(super) struct InChunk {
    #[serde(default)]
    pub(super) choices: Option<Vec<InChoice>>,
    #[serde(default)]
    pub(super) usage: Option<Value>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    /// Some servers put an error's members beside `"object": "error"`.
    #[serde(default)]
    pub(super) object: Option<Value>,
    #[serde(default)]
    pub(super) message: Option<Value>,
    #[serde(default)]
    pub(super) code: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct InChoice {
    #[serde(default)]
    pub(super) index: Option<u64>,
    #[serde(default)]
    pub(super) delta: Option<InDelta>,
    #[serde(default)]
    pub(super) message: Option<InDelta>,
    #[serde(default)]
    pub(super) finish_reason: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct InDelta {
    #[serde(default)]
    pub(super) content: Option<InContent>,
    /// What a model says instead of content when it will not answer: words all the same.
    #[serde(default)]
    pub(super) refusal: Option<String>,
    #[serde(default)]
    pub(super) tool_calls: Option<Vec<InFragment>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum InContent {
    Text(String),
    Parts(Vec<InPart>),
}

#[derive(Deserialize)]
pub(super) struct InPart {
    #[serde(default)]
    text: Option<String>,
}

impl InContent {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().filter_map(|part| part.text).collect(),
        }
    }
}

/// A piece of a tool call.
#[derive(Debug, Default, Deserialize)]
pub(super) struct InFragment {
    #[serde(default)]
    pub(super) index: Option<u64>,
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) function: Option<InFunction>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct InFunction {
    #[serde(default)]
    pub(super) name: Option<String>,
    /// A text; of some providers the object that the text would hold.
    #[serde(default)]
    pub(super) arguments: Option<Value>,
}

/// Bytes of an error text that are kept: enough for a sentence, too few to flood a journal.
const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// The words and, if it has one, the status in a provider's error, in any of the
/// forms they use: `{"message", "code"}`, a text, `{"detail"}`.
pub(super) fn error_of(error: &Value) -> (Option<u16>, String) {
    let member = |name: &str| error.get(name).filter(|value| !value.is_null());
    let text = match error {
        Value::String(text) => text.clone(),
        _ => member("message").or_else(|| member("detail")).map_or_else(
            || error.to_string(),
            |message| match message {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
        ),
    };
    let status = [member("code"), member("status")]
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .filter_map(|status| u16::try_from(status).ok())
        .find(|status| (400..600).contains(status));
    (status, one_line(&text))
}

/// The words in the body of an error response, which may be anything.
pub(super) fn error_text(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(body) => {
            error_of(
                body.get("error")
                    .filter(|error| !error.is_null())
                    .unwrap_or(&body),
            )
            .1
        }
        Err(_) => one_line(&String::from_utf8_lossy(body)),
    }
}

/// On one line and bounded, so that it can stand in a journal, a log or a terminal.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > ERROR_TEXT_BYTES_MAX {
            line.truncate(line.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests;
