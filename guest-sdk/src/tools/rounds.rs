//! Going round with a model: ask, run the tools it calls, tell it what they answered, ask
//! again.
//!
//! Invariant: at most `rounds_max` model calls. The last one forbids tools, so it ends in
//! words where a provider obeys; the calls of one that does not are not run.

use super::ToolSet;
use crate::model::{
    self, AssistantMessage, Completion, Delta, Message, ModelError, Request, ToolChoice,
    ToolMessage,
};
use crate::reply;

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounds {
    /// The answer of the last round.
    pub completion: Completion,
    /// How many model calls it took.
    pub count: u32,
    /// The conversation that led to the last answer: the prompt's messages, then every
    /// earlier round's answer and tool results.
    pub messages: Vec<Message>,
}

/// Go round until the model answers without calling tools, at most `rounds_max` (but at
/// least one) model calls. What the model says in any round is said to the people while it
/// arrives; texts of different rounds are set apart by an empty line.
pub fn relay(
    request: Request,
    tools: &mut ToolSet<'_>,
    rounds_max: u32,
) -> Result<Rounds, ModelError> {
    let mut said = false;
    go_round(request, tools, rounds_max, |request| {
        let completion = if said {
            relay_apart(request)
        } else {
            model::relay(request)
        }?;
        said |= !completion.text.is_empty();
        Ok(completion)
    })
}

/// Like [`relay`], but nothing is said: the words are in the answer.
pub fn complete(
    request: Request,
    tools: &mut ToolSet<'_>,
    rounds_max: u32,
) -> Result<Rounds, ModelError> {
    go_round(request, tools, rounds_max, model::complete)
}

fn go_round(
    mut request: Request,
    tools: &mut ToolSet<'_>,
    rounds_max: u32,
    mut ask: impl FnMut(&Request) -> Result<Completion, ModelError>,
) -> Result<Rounds, ModelError> {
    request.tools = tools.declarations();
    let mut count = 1;
    loop {
        let last = count >= rounds_max;
        if last && !request.tools.is_empty() {
            request.tool_choice = Some(ToolChoice::Never);
        }
        let completion = ask(&request)?;
        if last || completion.tool_calls.is_empty() {
            return Ok(Rounds {
                completion,
                count,
                messages: request.messages,
            });
        }

        let Completion {
            text, tool_calls, ..
        } = completion;
        request.messages.push(Message::Assistant(AssistantMessage {
            text: (!text.is_empty()).then_some(text),
            tool_calls: tool_calls.clone(),
        }));
        for call in tool_calls {
            let text = tools.call(&call.name, &call.arguments);
            request.messages.push(Message::Tool(ToolMessage {
                call: call.id,
                text,
            }));
        }
        count += 1;
    }
}

/// Whether a round says anything is known only when its first piece is there: until then
/// nothing may be said to set it apart.
fn relay_apart(request: &Request) -> Result<Completion, ModelError> {
    let mut deltas = model::open(request)?;
    loop {
        match deltas.next().transpose()? {
            Some(Delta::Text(text)) if text.is_empty() => {}
            Some(Delta::Text(text)) => {
                reply::say(&format!("\n\n{text}"))
                    .map_err(|error| ModelError::Other(format!("say: {error}")))?;
                break;
            }
            // A call may come before the text.
            Some(Delta::ToolCall(_)) => {}
            Some(Delta::Finished(_)) | None => break,
        }
    }
    deltas.relay()
}
