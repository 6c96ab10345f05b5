//! The routes of notices and webhooks.

use super::operations::{Operation, STREAM, WRITE, of};

pub(super) fn notices() -> Vec<Operation> {
    vec![
        of(
            "GET",
            "/v1/notices",
            "readNotices",
            "What happened in all sessions, from a place on",
        )
        .scope("read")
        .query(&["offset", "live", "session", "agent", "kind"])
        .headers(&["last-event-id"])
        .json(200, "Notices")
        .answer(200, STREAM, "Stream")
        .codes(&[
            "invalid_kind",
            "invalid_live",
            "invalid_name",
            "invalid_query",
            "notices_gone",
            "offset_ahead",
            "offset_malformed",
            "overloaded",
        ]),
    ]
}

pub(super) fn webhooks() -> Vec<Operation> {
    const UNKNOWN: &[&str] = &["webhook_not_found"];
    const LETTER: &[&str] = &["dead_letter_not_found", "webhook_not_found"];
    let one = "/v1/webhooks/{name}";
    vec![
        of(
            "GET",
            "/v1/webhooks",
            "listWebhooks",
            "Where notices are pushed to",
        )
        .scope("deploy")
        .json(200, "Webhooks"),
        of(
            "GET",
            one,
            "showWebhook",
            "A webhook, and how far it was told",
        )
        .scope("read")
        .json(200, "Webhook")
        .codes(UNKNOWN),
        of("PUT", one, "putWebhook", "Push notices there from now on")
            .scope("deploy")
            .takes("NewWebhook")
            .json(200, "Webhook")
            .json(201, "MadeWebhook")
            .codes(WRITE)
            .codes(&[
                "invalid_kind",
                "invalid_webhook",
                "notices_gone",
                "offset_ahead",
                "offset_malformed",
                "overloaded",
            ]),
        of(
            "DELETE",
            one,
            "deleteWebhook",
            "Push nothing there any more",
        )
        .scope("deploy")
        .empty(204)
        .codes(WRITE)
        .codes(UNKNOWN),
        of(
            "POST",
            "/v1/webhooks/{name}/rotate",
            "rotateWebhook",
            "A new secret, along with the old one for a while",
        )
        .scope("deploy")
        .may_take("Rotation")
        .json(201, "WebhookSecret")
        .codes(WRITE)
        .codes(UNKNOWN),
        of(
            "GET",
            "/v1/webhooks/{name}/dead-letters",
            "listDeadLetters",
            "What could not be delivered",
        )
        .scope("deploy")
        .query(&["cursor-place"])
        .json(200, "DeadLetters")
        .codes(UNKNOWN)
        .codes(&["offset_malformed"]),
        of(
            "DELETE",
            "/v1/webhooks/{name}/dead-letters/{letter}",
            "deleteDeadLetter",
            "Forget a dead letter",
        )
        .scope("deploy")
        .empty(204)
        .codes(WRITE)
        .codes(LETTER),
        of(
            "POST",
            "/v1/webhooks/{name}/dead-letters/{letter}/retry",
            "retryDeadLetter",
            "Send a dead letter once more, now",
        )
        .scope("deploy")
        .empty(204)
        .codes(WRITE)
        .codes(LETTER)
        .codes(&["webhook_failed"]),
    ]
}
