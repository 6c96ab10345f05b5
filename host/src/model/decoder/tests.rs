use proptest::prelude::*;
use serde_json::json;

use super::super::Deadline;
use super::super::tool_calls::TOOL_CALLS_MAX;
use super::*;

/// Every delta on one line, in words.
fn decode(pieces: &[&[u8]], end: Option<Fault>, answer_bytes_max: usize) -> Vec<String> {
    let mut decoder = Decoder::new(answer_bytes_max);
    for piece in pieces {
        decoder.feed(piece);
    }
    if !decoder.is_done() {
        decoder.end(end);
    }
    assert!(decoder.is_done());
    std::iter::from_fn(|| decoder.pop())
        .map(|item| match item {
            Ok(Delta::Text(text)) => format!("text {text}"),
            Ok(Delta::ToolCall(call)) => {
                format!("call {} {} {}", call.id, call.name, call.arguments)
            }
            Ok(Delta::Finished { reason, usage }) => {
                let usage = usage.map_or("-".to_owned(), |usage| {
                    format!("{}+{}", usage.input_tokens, usage.output_tokens)
                });
                format!("finished {} {usage}", reason.name())
            }
            Err(fault) => format!("fault {fault}"),
        })
        .collect()
}

fn stream(events: &[Value]) -> String {
    events
        .iter()
        .map(|event| match event {
            Value::String(text) => format!("data: {text}\n\n"),
            event => format!("data: {event}\n\n"),
        })
        .collect()
}

fn delta(delta: Value) -> Value {
    json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "new": {"a": []}})
}

fn fragment(call: Value) -> Value {
    delta(json!({"tool_calls": [call]}))
}

fn check(events: &[Value], expect: &[&str]) {
    let text = stream(events);
    assert_eq!(decode(&[text.as_bytes()], None, 1000), expect, "{text}");
}

const CUT: &str = "fault the provider's answer was cut off";

#[test]
fn text_streams() {
    let usage = json!({"prompt_tokens": 7, "completion_tokens": 2, "details": {"x": 1}});
    let hello = [
        delta(json!({"role": "assistant", "content": null})),
        delta(json!({"content": "Hel"})),
        delta(json!({"content": "", "reasoning_content": "hm", "tool_calls": null})),
        delta(json!({"content": "lo"})),
        finish("stop"),
        json!({"choices": [], "usage": usage}),
        json!("[DONE]"),
        delta(json!({"content": "never"})),
    ];
    let whole = ["text Hel", "text lo", "finished stop 7+2"];
    check(&hello, &whole);
    // Usage in the last chunk with a choice, and in every chunk.
    let mut last = finish("stop");
    last["usage"] = usage.clone();
    check(
        &[delta(json!({"content": "a"})), last, json!("[DONE]")],
        &["text a", "finished stop 7+2"],
    );
    let mut first = delta(json!({"content": "a"}));
    first["usage"] = json!({"prompt_tokens": 7, "completion_tokens": 0});
    check(
        &[first, finish("length"), json!({"usage": usage})],
        &["text a", "finished length 7+2"],
    );
    // Parts instead of text, a refusal, other choices, an empty reason.
    check(
        &[
            delta(json!({"content": [{"type": "text", "text": "a"}, {"type": "image"}]})),
            delta(json!({"refusal": "I will not."})),
            json!({"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}),
            json!({"choices": [{"delta": {"content": "c"}, "finish_reason": ""}], "usage": null}),
            finish("content_filter"),
        ],
        &[
            "text a",
            "text I will not.",
            "text c",
            "finished filtered -",
        ],
    );
}

#[test]
fn an_answer_is_whole_only_if_the_provider_says_so() {
    let text = delta(json!({"content": "a"}));
    check(std::slice::from_ref(&text), &["text a", CUT]);
    check(&[], &[CUT]);
    check(
        &[text.clone(), json!("[DONE]")],
        &["text a", "finished other -"],
    );
    check(
        &[text.clone(), finish("stop")],
        &["text a", "finished stop -"],
    );
    check(&[finish("eos"), json!("[DONE]")], &["finished other -"]);
    // A tool call is handed out only with a whole answer.
    let call = json!({"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}});
    check(&[fragment(call)], &[CUT]);
    // Whatever breaks after the reason costs nothing but the usage.
    let mut whole = stream(&[text.clone(), finish("stop")]);
    for end in [Some(Fault::Cut), Some(Fault::Deadline(Deadline::Turn))] {
        let found = decode(&[whole.as_bytes()], end, 1000);
        assert_eq!(found, ["text a", "finished stop -"]);
    }
    whole.push_str("data: {broken\n\n");
    let found = decode(&[whole.as_bytes()], None, 1000);
    assert_eq!(found, ["text a", "finished stop -"]);
    // The last event without its blank line counts if it is whole.
    let text = stream(&[text, finish("stop")]);
    let found = decode(&[text.trim_end().as_bytes()], None, 1000);
    assert_eq!(found, ["text a", "finished stop -"]);
    let cut = &text[..text.len() - 4];
    assert_eq!(decode(&[cut.as_bytes()], None, 1000), ["text a", CUT]);
}

#[test]
fn tool_calls_are_assembled() {
    let two = ["call a f {\"x\":1}", "call b g {}", "finished tool-calls -"];
    let begin = |index: Value, id: Value, name: &str, arguments: &str| {
        fragment(json!({
            "index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments},
        }))
    };
    let more = |index: Value, arguments: &str| {
        fragment(json!({"index": index, "function": {"arguments": arguments}}))
    };
    let none = Value::Null;
    // As the protocol says, also interleaved.
    check(
        &[
            begin(json!(0), json!("a"), "f", ""),
            more(json!(0), "{\"x\""),
            begin(json!(1), json!("b"), "g", ""),
            more(json!(1), "{}"),
            more(json!(0), ":1}"),
            finish("tool_calls"),
        ],
        &two,
    );
    // Whole calls, without index, and with the same index.
    for index in [none.clone(), json!(0)] {
        check(
            &[
                begin(index.clone(), json!("a"), "f", "{\"x\":1}"),
                begin(index, json!("b"), "g", ""),
                finish("stop"),
            ],
            &two,
        );
    }
    // Without index: pieces follow their call, also under a new id or with the name again.
    check(
        &[
            begin(none.clone(), json!("a"), "f", "{\"x\""),
            more(none.clone(), ":1"),
            begin(none.clone(), none.clone(), "f", "}"),
            begin(none.clone(), json!("b"), "g", "{"),
            fragment(json!({"id": "other", "function": {"arguments": "}"}})),
            more(none.clone(), ""),
            json!("[DONE]"),
        ],
        &two,
    );
    // Without index and id: whole calls of one tool stay apart, and ids are made up.
    check(
        &[
            begin(none.clone(), json!(""), "f", "{\"n\":1}"),
            begin(none.clone(), none.clone(), "f", "{\"n\":2}"),
            finish("tool_calls"),
        ],
        &[
            "call call-0 f {\"n\":1}",
            "call call-1 f {\"n\":2}",
            "finished tool-calls -",
        ],
    );
    // Arguments as an object; two calls in one chunk; text before.
    check(
        &[
            delta(json!({"content": "Let me see. ", "tool_calls": [
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}},
                {"index": 1, "id": "b", "function": {"name": "g", "arguments": null}},
            ]})),
            finish("function_call"),
        ],
        &["text Let me see. ", two[0], two[1], two[2]],
    );
    // Malformed arguments are the model's, and stay as they are.
    check(
        &[
            begin(json!(0), json!("a"), "f", "{\"x\":"),
            finish("length"),
        ],
        &["call a f {\"x\":", "finished length -"],
    );
    for (events, words) in [
        (
            vec![more(none, "}")],
            "a piece of a tool call belongs to no call",
        ),
        (
            vec![more(json!(0), "{}"), finish("tool_calls")],
            "a tool call names no tool",
        ),
    ] {
        check(
            &events,
            &[&format!(
                "fault the provider's answer cannot be read: {words}"
            )],
        );
    }
}

#[test]
fn what_is_not_a_stream_of_chunks_is_told_apart() {
    let error = |error| json!({ "error": error });
    for (body, expect) in [
        (
            stream(&[
                delta(json!({"content": "a"})),
                error(json!({"message": "over\nloaded"})),
            ]),
            vec![
                "text a",
                "fault the provider reported an error: over loaded",
            ],
        ),
        (
            stream(&[error(json!("no"))]),
            vec!["fault the provider reported an error: no"],
        ),
        (
            stream(&[json!({"object": "error", "message": "bad", "code": 400})]),
            vec!["fault the provider reported an error: bad"],
        ),
        (
            "data: {\"choices\": [\n\n".to_owned(),
            vec![
                "fault the provider's answer cannot be read: an event is not a chunk of a completion: see its column 13",
            ],
        ),
        (
            "<html>data: no</html>".to_owned(),
            vec![
                "fault the provider's answer cannot be read: the answer is neither events nor JSON",
            ],
        ),
        (
            ": keep-alive\n\n".to_owned(),
            vec![
                "fault the provider's answer cannot be read: the answer is neither events nor JSON",
            ],
        ),
        (" \n\n".to_owned(), vec![CUT]),
    ] {
        assert_eq!(decode(&[body.as_bytes()], None, 1000), expect, "{body}");
    }
}

#[test]
fn a_provider_that_does_not_stream_is_understood() {
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let message = json!({"role": "assistant", "content": "Hello", "tool_calls": [call]});
    let whole = json!({
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    })
    .to_string();
    let unread = "fault the provider's answer cannot be read: ";
    for (body, expect) in [
        (
            whole.as_str(),
            vec!["text Hello", "call a f {}", "finished tool-calls 1+2"],
        ),
        (&whole[..whole.len() - 2], vec![CUT]),
        (
            r#"{"choices":[{"message":{"content":"a"}}]}"#,
            vec!["text a", "finished other -"],
        ),
        (
            r#"{"error":{"message":"no such model","code":"x"}}"#,
            vec!["fault the provider reported an error: no such model"],
        ),
        (
            r#"{"choices":[]}"#,
            vec![&format!("{unread}the JSON holds no choice") as &str],
        ),
        (
            "{\n\"choices\": 1}",
            vec![&format!(
                "{unread}the JSON is not a completion: see its line 2 column 12"
            )],
        ),
    ] {
        assert_eq!(decode(&[body.as_bytes()], None, 1000), expect, "{body}");
    }
    let cut = decode(
        &[whole.as_bytes()],
        Some(Fault::Deadline(Deadline::Turn)),
        1000,
    );
    assert_eq!(cut, ["fault call exceeded the deadline of its turn"]);
}

#[test]
fn an_answer_is_bounded() {
    let long = "fault the provider's answer is longer than it may be";
    let text = stream(&[
        delta(json!({"content": "12345"})),
        delta(json!({"content": "678"})),
    ]);
    assert_eq!(
        decode(&[text.as_bytes()], None, 8),
        ["text 12345", "text 678", CUT]
    );
    assert_eq!(decode(&[text.as_bytes()], None, 7), ["text 12345", long]);
    let endless = "x".repeat(FRAME_BYTES_MAX + 8);
    for begin in ["data: ", "{"] {
        assert_eq!(
            decode(&[begin.as_bytes(), endless.as_bytes()], None, 7),
            [long]
        );
    }
    let call = |n: usize| json!({"index": n, "id": "a", "function": {"name": "f"}});
    let calls: Vec<Value> = (0..=TOOL_CALLS_MAX).map(|n| fragment(call(n))).collect();
    check(
        &calls,
        &["fault the provider's answer cannot be read: more than 128 tool calls"],
    );
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        events in prop::collection::vec(
            prop::sample::select(vec![
                delta(json!({"content": "Grüße, 世界"})),
                delta(json!({"content": "\r\n"})),
                fragment(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}})),
                fragment(json!({"index": 0, "function": {"arguments": "}"}})),
                json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
                json!({"error": {"message": "e"}}),
                json!("{broken"),
                finish("stop"),
                json!("[DONE]"),
            ]),
            0..8,
        ),
        crlf: bool,
        document: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        answer_bytes_max in 0..60usize,
    ) {
        let mut text = match events.first() {
            Some(event) if document => event.to_string(),
            _ => stream(&events),
        };
        if crlf {
            text = text.replace('\n', "\r\n");
        }
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        let whole = decode(&[bytes], None, answer_bytes_max);
        prop_assert_eq!(decode(&pieces, None, answer_bytes_max), whole.clone());
        let ends = whole.iter().filter(|word| !word.starts_with("text") && !word.starts_with("call"));
        prop_assert_eq!(ends.count(), 1);
    }

    #[test]
    fn no_bytes_make_it_panic(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
    ) {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        decode(&pieces, None, 100);
    }
}
