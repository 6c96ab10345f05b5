//! Between the guest's words, the model layer's and the journal's.

use crate::journal::entry::{Piece, Usage as EntryUsage};
use crate::model::{
    Delta as ModelDelta, Finish as ModelFinish, Message as ModelMessage,
    Parameters as ModelParameters, Request as ModelRequest, Tool as ModelTool,
    ToolCall as ModelToolCall, ToolChoice as ModelToolChoice, Usage as ModelUsage,
};
use crate::runtime::bindings::antiphon::agent::model::{
    Delta, Finish, Finished, Message, Request, ToolCall, ToolChoice, Usage,
};

/// The pieces as entries hold them: neighbouring texts are one.
pub(super) fn joined(deltas: &[ModelDelta]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for delta in deltas {
        match (delta, pieces.last_mut()) {
            (ModelDelta::Text(more), Some(Piece::Text(text))) => text.push_str(more),
            (ModelDelta::Text(text), _) => pieces.push(Piece::Text(text.clone())),
            (ModelDelta::ToolCall(call), _) => pieces.push(Piece::ToolCall {
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            }),
            (ModelDelta::Finished { reason, usage }, _) => pieces.push(Piece::Finished {
                reason: reason.name().into(),
                usage: usage.map(|usage| entry_usage(Some(usage))),
            }),
        }
    }
    pieces
}

pub(super) fn delta_bytes(delta: &ModelDelta) -> usize {
    match delta {
        ModelDelta::Text(text) => text.len(),
        ModelDelta::ToolCall(call) => call.name.len() + call.arguments.len(),
        ModelDelta::Finished { .. } => 0,
    }
}

pub(super) fn entry_usage(usage: Option<ModelUsage>) -> EntryUsage {
    let usage = usage.unwrap_or_default();
    EntryUsage {
        model_calls: 1,
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
    }
}

pub(super) fn usage_to_wit(usage: ModelUsage) -> Usage {
    Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
    }
}

pub(super) fn finish_to_wit(finish: ModelFinish) -> Finish {
    match finish {
        ModelFinish::Stop => Finish::Stop,
        ModelFinish::Length => Finish::Length,
        ModelFinish::ToolCalls => Finish::ToolCalls,
        ModelFinish::Filtered => Finish::Filtered,
        ModelFinish::Other => Finish::Other,
    }
}

pub(super) fn tool_call_to_wit(call: ModelToolCall) -> ToolCall {
    ToolCall {
        id: call.id,
        name: call.name,
        arguments: call.arguments,
    }
}

pub(super) fn delta_to_wit(delta: ModelDelta) -> Delta {
    match delta {
        ModelDelta::Text(text) => Delta::Text(text),
        ModelDelta::ToolCall(call) => Delta::ToolCall(tool_call_to_wit(call)),
        ModelDelta::Finished { reason, usage } => Delta::Finished(Finished {
            reason: finish_to_wit(reason),
            usage: usage.map(usage_to_wit),
        }),
    }
}

pub(super) fn request_of_wit(request: Request) -> ModelRequest {
    let tool_call = |call: ToolCall| ModelToolCall {
        id: call.id,
        name: call.name,
        arguments: call.arguments,
    };
    let messages = request.messages.into_iter().map(|message| match message {
        Message::System(text) => ModelMessage::System(text),
        Message::User(user) => ModelMessage::User {
            name: user.name,
            text: user.text,
        },
        Message::Assistant(assistant) => ModelMessage::Assistant {
            text: assistant.text,
            tool_calls: assistant.tool_calls.into_iter().map(tool_call).collect(),
        },
        Message::Tool(tool) => ModelMessage::Tool {
            call: tool.call,
            text: tool.text,
        },
    });
    let tools = request.tools.into_iter().map(|tool| ModelTool {
        name: tool.name,
        description: tool.description,
        parameters: tool.parameters,
    });
    let tool_choice = request.tool_choice.map(|choice| match choice {
        ToolChoice::Automatic => ModelToolChoice::Automatic,
        ToolChoice::Never => ModelToolChoice::Never,
        ToolChoice::Required => ModelToolChoice::Required,
        ToolChoice::Named(name) => ModelToolChoice::Named(name),
    });
    let parameters = request.parameters;
    ModelRequest {
        messages: messages.collect(),
        tools: tools.collect(),
        tool_choice,
        parameters: ModelParameters {
            temperature: parameters.temperature,
            top_p: parameters.top_p,
            max_tokens: parameters.max_tokens,
            stop: parameters.stop,
            seed: parameters.seed,
            reasoning_effort: parameters.reasoning_effort,
            response_format: parameters.response_format,
        },
    }
}
