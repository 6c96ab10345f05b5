//! The routes of Durable Streams and of subscriptions to them.

use super::operations::{BODY, JSON, Operation, SESSION, STREAM, WRITE, of};

/// Anything: a stream has the type that whoever made it gave it.
const ANY: &str = "*/*";

/// What a reading of a stream takes.
const FOLLOWED: &[&str] = &["offset", "live", "stream-cursor"];
const REFUSED_READING: &[&str] = &[
    "invalid_live",
    "offset_ahead",
    "offset_malformed",
    "overloaded",
];

pub(super) fn streams() -> Vec<Operation> {
    let reads = |operation: Operation| {
        operation
            .query(FOLLOWED)
            .headers(&["if-none-match"])
            .answer(200, STREAM, "Stream")
            .empty(204)
            .empty(304)
            .codes(REFUSED_READING)
    };
    let mut put = of(
        "PUT",
        "/v1/stream/{path}",
        "createStream",
        "Make a Durable Stream, or a fork of one",
    )
    .scope("invoke")
    .headers(&[
        "stream-ttl",
        "stream-expires-at",
        "stream-closed",
        "stream-forked-from",
        "stream-fork-offset",
        "stream-fork-sub-offset",
    ])
    .or_takes(ANY, "Bytes")
    .empty(200)
    .empty(201)
    .codes(WRITE)
    .codes(&[
        "content_type_mismatch",
        "invalid_header",
        "invalid_json",
        "offset_ahead",
        "offset_malformed",
        "overloaded",
        "quota_exceeded",
        "source_deleted",
        "stream_exists",
        "stream_not_found",
    ]);
    let mut append = of(
        "POST",
        "/v1/stream/{path}",
        "appendToStream",
        "Append to a Durable Stream, close it, or both",
    )
    .scope("invoke")
    .headers(&[
        "stream-closed",
        "stream-seq",
        "producer-id",
        "producer-epoch",
        "producer-seq",
    ])
    .or_takes(ANY, "Bytes")
    .empty(200)
    .empty(204)
    .codes(WRITE)
    .codes(&[
        "content_type_mismatch",
        "empty_body",
        "invalid_header",
        "invalid_json",
        "out_of_order",
        "overloaded",
        "producer_fenced",
        "producer_gap",
        "quota_exceeded",
        "stream_closed",
        "stream_gone",
        "stream_not_found",
    ]);
    (put.body_required, append.body_required) = (false, false);
    let read = of(
        "GET",
        "/v1/stream/{path}",
        "readStream",
        "Read a Durable Stream from a place on, or follow it",
    );
    let session = of(
        "GET",
        "/v1/stream/sessions/{id}",
        "readSessionAsStream",
        "A session's events as a Durable Stream of JSON",
    );
    vec![
        put,
        append,
        reads(
            read.scope("read")
                .answer(200, ANY, "Anything")
                .json(200, "StreamedMessages"),
        )
        .codes(&["stream_gone", "stream_not_found", "store_latched"]),
        of(
            "DELETE",
            "/v1/stream/{path}",
            "deleteStream",
            "Remove a Durable Stream; what forks of it took over stays theirs",
        )
        .scope("invoke")
        .empty(204)
        .codes(WRITE)
        .codes(&["overloaded", "stream_gone", "stream_not_found"]),
        reads(session.token("read", "read").json(200, "StreamedEvents")).codes(SESSION),
    ]
}

/// The subscription is named, and may not be there.
const SUBSCRIPTION: &[&str] = &["SUBSCRIPTION_NOT_FOUND", "store_latched"];
const REQUEST: &[&str] = &["INVALID_REQUEST"];

pub(super) fn subscriptions() -> Vec<Operation> {
    let put = of(
        "PUT",
        "/v1/stream/__ds/subscriptions/{id}",
        "createSubscription",
        "Have workers woken when Durable Streams grow, by a webhook or by events in a stream",
    );
    let show = of(
        "GET",
        "/v1/stream/__ds/subscriptions/{id}",
        "showSubscription",
        "Show a subscription and its cursors",
    );
    let remove = of(
        "DELETE",
        "/v1/stream/__ds/subscriptions/{id}",
        "deleteSubscription",
        "Remove a subscription",
    );
    let link = of(
        "POST",
        "/v1/stream/__ds/subscriptions/{id}/streams",
        "linkStreams",
        "Look at more streams, from where they end now",
    );
    let unlink = of(
        "DELETE",
        "/v1/stream/__ds/subscriptions/{id}/streams/{path}",
        "unlinkStream",
        "Do not look at a stream any more, unless the pattern matches it",
    );
    let claim = of(
        "POST",
        "/v1/stream/__ds/subscriptions/{id}/claim",
        "claimWake",
        "Take the work of a pull-wake subscription, for as long as its lease is renewed",
    );
    // By the token of a wake, which is no key.
    let reports = |path, id, summary| {
        of("POST", path, id, summary)
            .or_takes(JSON, "WakeReport")
            .codes(BODY)
            .codes(SUBSCRIPTION)
            .codes(REQUEST)
            .codes(&["FENCED", "TOKEN_INVALID", "internal", "invalid_name"])
    };
    let acks = |path, id, summary| {
        reports(path, id, summary)
            .json(200, "WakeReported")
            .codes(&["INVALID_OFFSET"])
    };
    vec![
        put.scope("invoke")
            .or_takes(JSON, "NewSubscription")
            .json(200, "Subscription")
            .json(201, "Subscription")
            .codes(SUBSCRIPTION)
            .codes(REQUEST)
            .codes(&[
                "SUBSCRIPTION_ALREADY_EXISTS",
                "WEBHOOK_URL_REJECTED",
                "overloaded",
            ]),
        show.scope("read")
            .json(200, "Subscription")
            .codes(SUBSCRIPTION),
        remove.scope("invoke").empty(204).codes(WRITE),
        link.scope("invoke")
            .or_takes(JSON, "StreamNames")
            .empty(204)
            .codes(SUBSCRIPTION)
            .codes(REQUEST),
        unlink
            .scope("invoke")
            .empty(204)
            .codes(SUBSCRIPTION)
            .codes(REQUEST),
        claim
            .scope("invoke")
            .or_takes(JSON, "Claim")
            .json(200, "Claimed")
            .codes(SUBSCRIPTION)
            .codes(REQUEST)
            .codes(&["ALREADY_CLAIMED", "NO_PENDING_WORK"]),
        acks(
            "/v1/stream/__ds/subscriptions/{id}/callback",
            "reportToCallback",
            "Move cursors by the token that a webhook was given",
        ),
        acks(
            "/v1/stream/__ds/subscriptions/{id}/ack",
            "reportClaim",
            "Move cursors by the token of a claim, and keep the claim alive",
        ),
        reports(
            "/v1/stream/__ds/subscriptions/{id}/release",
            "releaseClaim",
            "Give a claim back",
        )
        .empty(204),
        of(
            "GET",
            "/v1/stream/__ds/jwks.json",
            "webhookKeys",
            "The public keys of webhooks\u{2019} signatures",
        )
        .answer(200, "application/jwk-set+json", "JwkSet"),
    ]
}
