//! Between the guest's words, the model layer's and the journal's.

use crate::journal::entry::{Piece, Usage as EntryUsage};
use crate::model::{
    Finish as ModelFinish, Message as ModelMessage, Parameters as ModelParameters,
    Request as ModelRequest, Tool as ModelTool, ToolCall as ModelToolCall,
    ToolChoice as ModelToolChoice,
};
use crate::runtime::bindings::antiphon::agent::model::{
    Completion, Delta, Finish, Finished, Message, ModelError, ProviderError, Request, ToolCall,
    ToolChoice, Usage,
};
use crate::runtime::scope::answer::{self, NoAnswer};

fn usage_to_wit(usage: EntryUsage) -> Usage {
    Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
    }
}

fn finish_to_wit(name: &str) -> Finish {
    match ModelFinish::of_name(name) {
        ModelFinish::Stop => Finish::Stop,
        ModelFinish::Length => Finish::Length,
        ModelFinish::ToolCalls => Finish::ToolCalls,
        ModelFinish::Filtered => Finish::Filtered,
        ModelFinish::Other => Finish::Other,
    }
}

pub(super) fn piece_to_wit(piece: Piece) -> Delta {
    match piece {
        Piece::Text(text) => Delta::Text(text),
        Piece::ToolCall {
            id,
            name,
            arguments,
        } => Delta::ToolCall(ToolCall {
            id,
            name,
            arguments,
        }),
        Piece::Finished { reason, usage } => Delta::Finished(Finished {
            reason: finish_to_wit(&reason),
            usage: usage.map(usage_to_wit),
        }),
    }
}

pub(super) fn completion_to_wit(completion: answer::Completion) -> Completion {
    let tool_calls = completion.tool_calls.into_iter().map(piece_to_wit);
    Completion {
        text: completion.text,
        tool_calls: tool_calls
            .filter_map(|delta| match delta {
                Delta::ToolCall(call) => Some(call),
                Delta::Text(_) | Delta::Finished(_) => None,
            })
            .collect(),
        finish: finish_to_wit(&completion.finish),
        usage: completion.usage.map(usage_to_wit),
    }
}

pub(super) fn error_to_wit(error: NoAnswer) -> ModelError {
    match error {
        NoAnswer::Refused(text) => ModelError::Refused(text),
        NoAnswer::OverBudget => ModelError::OverBudget,
        NoAnswer::Deadline => ModelError::Deadline,
        NoAnswer::CircuitOpen => ModelError::CircuitOpen,
        NoAnswer::Interrupted(text) => ModelError::Interrupted(text),
        NoAnswer::Provider { status, text } => ModelError::Provider(ProviderError { status, text }),
        NoAnswer::Other(text) => ModelError::Other(text),
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
        cache: request.cache,
    }
}
