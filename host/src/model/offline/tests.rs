use super::*;

fn user(text: &str) -> Message {
    Message::User {
        name: None,
        text: text.to_owned(),
    }
}

fn tool(name: &str, parameters: &str) -> Tool {
    Tool {
        name: name.to_owned(),
        description: String::new(),
        parameters: parameters.to_owned(),
    }
}

/// Every delta on one line.
fn run(request: &Request) -> String {
    let mut line = String::new();
    for delta in answer(request) {
        line.push_str(&match delta {
            Delta::Text(text) => text,
            Delta::ToolCall(call) => format!("[{} {} {}]", call.id, call.name, call.arguments),
            Delta::Finished { reason, usage } => {
                let usage = usage.unwrap();
                let (input, output) = (usage.input_tokens, usage.output_tokens);
                format!(" <{} {input} {output}>", reason.name())
            }
        });
    }
    line
}

#[test]
fn it_says_what_it_is_and_what_it_was_told() {
    let last = "With a real model, I would have an answer.";
    let mut request = Request {
        messages: vec![Message::System("Be brief.".to_owned()), user("old")],
        ..Request::default()
    };
    request.messages.push(Message::Assistant {
        text: Some("yes".to_owned()),
        tool_calls: Vec::new(),
    });
    request
        .messages
        .extend([user("one\n\n two"), user("three")]);
    assert_eq!(
        run(&request),
        format!(
            "(offline model) You said: “one two” and “three”. My task: “Be brief.” {last} <stop 7 21>"
        )
    );
    request.messages[0] = Message::System("Think it over.".to_owned());
    assert!(run(&request).contains("Think it over."));
    request.parameters.max_tokens = Some(2);
    assert_eq!(run(&request), "(offline model)  <length 8 2>");
    assert_eq!(
        run(&Request::default()),
        format!("(offline model) Nobody said anything new. {last} <stop 0 15>")
    );
}

#[test]
fn it_pulls_once_and_says_what_came() {
    let pull = r#"{"type":"object","properties":{"max":{"type":"integer","maximum":5}}}"#;
    let mut request = Request {
        messages: vec![user("go on")],
        tools: vec![tool("keep", "{}"), tool("mailbox_pull", pull)],
        ..Request::default()
    };
    assert_eq!(
        run(&request),
        "[offline-1 mailbox_pull {\"max\":5}] <tool-calls 2 2>"
    );
    request.messages.push(Message::Assistant {
        text: None,
        tool_calls: vec![ToolCall {
            id: "offline-1".to_owned(),
            name: "mailbox_pull".to_owned(),
            arguments: "{}".to_owned(),
        }],
    });
    for (result, says) in [
        (
            r#"[{"id":"s:1","body":"fix it"},{"id":"s:2","body":{"text":"now"}}]"#,
            "The tools brought: “fix it” and “now”.",
        ),
        ("[]", "The tools brought nothing."),
        ("no mail", "The tools brought: “no mail”."),
    ] {
        let mut request = request.clone();
        request.tool_choice = Some(ToolChoice::Required);
        request.messages.push(Message::Tool {
            call: "offline-1".to_owned(),
            text: result.to_owned(),
        });
        let line = run(&request);
        assert!(line.contains(says), "{line}");
        assert!(line.contains("You said: “go on”."), "{line}");
    }
}

#[test]
fn it_obeys_the_choice_of_tools() {
    let schema = r#"{"properties":{
        "query":{"type":"string"}, "order":{"enum":["new","old"]}, "page":{"type":"string"}
    },"required":["query","order"]}"#;
    let request = |choice| Request {
        messages: vec![user("cats")],
        tools: vec![tool("search", schema), tool("drop", "not JSON")],
        tool_choice: choice,
        ..Request::default()
    };
    for (choice, says) in [
        (None, "(offline model)"),
        (Some(ToolChoice::Automatic), "(offline model)"),
        (Some(ToolChoice::Never), "(offline model)"),
        (
            Some(ToolChoice::Required),
            r#"[offline-1 search {"order":"new","query":"cats"}]"#,
        ),
        (
            Some(ToolChoice::Named("drop".to_owned())),
            "[offline-1 drop {}]",
        ),
        (
            Some(ToolChoice::Named("missing".to_owned())),
            "(offline model)",
        ),
    ] {
        let line = run(&request(choice));
        assert!(line.starts_with(says), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_take_their_time() {
    let request = Request {
        messages: vec![user("hello")],
        ..Request::default()
    };
    let start = tokio::time::Instant::now();
    let mut incoming = Incoming::new(&request, 15);
    let mut deltas = 0;
    loop {
        let delta = incoming.next().await;
        deltas += 1;
        if matches!(delta, Delta::Finished { .. }) {
            break;
        }
    }
    assert_eq!(start.elapsed(), Duration::from_millis(15 * deltas));
}

#[test]
fn long_texts_are_cut_between_characters() {
    let text = condensed(&"ü".repeat(500));
    assert_eq!(text.chars().count(), QUOTE_CHARS_MAX + 1);
    let texts: Vec<String> = (0..7).map(|n| n.to_string()).collect();
    assert_eq!(quoted(&texts), "“0”, “1”, “2”, “3”, “4” and 2 more");
}

#[test]
fn it_says_what_is_in_a_slot_without_the_markup() {
    let envelope = |text: &str| {
        run(&Request {
            messages: vec![user(text), user("hi")],
            ..Request::default()
        })
    };
    let line = envelope("<slot name=\"plan\" state=\"locked\"></slot>");
    assert!(
        line.contains("You said: “hi”. The slot `plan` is empty, and somebody is writing it."),
        "{line}"
    );
    let line = envelope("<slot name=\"plan\" state=\"idle\" written-at=\"x\">eat\nwell</slot>");
    assert!(line.contains("The slot `plan` says: “eat well”."), "{line}");
    for odd in [
        "<slot",
        "<slot name=\"",
        "<",
        "<>",
        "</",
        "<slot name=\"a\">",
    ] {
        assert!(envelope(odd).contains("“hi”"), "{odd}");
    }
}
