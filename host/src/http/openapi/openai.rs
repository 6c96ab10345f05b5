//! The routes of the OpenAI API.

use super::operations::{MESSAGE, Operation, SESSION, STREAM, of};

/// What may become of a question.
const ASKED: &[&str] = &[
    "agent_suspended",
    "model_not_found",
    "turn_deadline",
    "turn_asks",
    "turn_failed",
    "unsupported_value",
];

pub(super) fn openai() -> Vec<Operation> {
    vec![
        of("GET", "/v1/models", "listModels", "The agents, as models")
            .scope("read")
            .json(200, "Models"),
        of(
            "GET",
            "/v1/models/{id}",
            "showModel",
            "An agent, as a model",
        )
        .scope("read")
        .json(200, "Model")
        .codes(&["model_not_found"]),
        of(
            "POST",
            "/v1/chat/completions",
            "completeChat",
            "One turn, as OpenAI's clients ask for it",
        )
        .scope("invoke")
        .headers(&["idempotency-key", "x-antiphon-session"])
        .takes_any("Chat")
        .json(200, "Completion")
        .answer(200, STREAM, "Stream")
        .codes(SESSION)
        .codes(MESSAGE)
        .codes(ASKED),
        of(
            "POST",
            "/v1/responses",
            "createResponse",
            "One turn, that can be fetched and followed again",
        )
        .scope("invoke")
        .headers(&["idempotency-key", "x-antiphon-session"])
        .takes_any("NewResponse")
        .json(200, "Response")
        .answer(200, STREAM, "Stream")
        .codes(SESSION)
        .codes(MESSAGE)
        .codes(ASKED)
        .codes(&[
            "previous_response_not_finished",
            "previous_response_not_found",
            "response_not_found",
            "session_exists",
        ]),
        of(
            "GET",
            "/v1/responses/{id}",
            "showResponse",
            "A response as it stands, or its events after one of them",
        )
        .token("read", "read")
        .query(&["stream", "starting_after"])
        .json(200, "Response")
        .answer(200, STREAM, "Stream")
        .codes(SESSION)
        .codes(&["overloaded", "response_not_found"]),
        of(
            "POST",
            "/v1/responses/{id}/cancel",
            "cancelResponse",
            "Take a message back, or end its turn",
        )
        .token("invoke", "interrupt")
        .json(200, "Response")
        .codes(SESSION)
        .codes(&["response_not_found"]),
        of(
            "DELETE",
            "/v1/responses/{id}",
            "deleteResponse",
            "End the session that responses made, with all of them",
        )
        .scope("invoke")
        .json(200, "DeletedResponse")
        .codes(SESSION)
        .codes(&["response_in_session", "response_not_found"]),
    ]
}
