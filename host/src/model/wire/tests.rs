use serde_json::json;

use super::super::{Parameters, Tool, ToolCall};
use super::*;

/// Every member of a request.
fn full() -> Request {
    Request {
        messages: vec![
            Message::System("Be brief.".to_owned()),
            Message::User {
                name: Some("ada".to_owned()),
                text: "hello".to_owned(),
            },
            Message::Assistant {
                text: None,
                tool_calls: vec![ToolCall {
                    id: "c1".to_owned(),
                    name: "look".to_owned(),
                    arguments: "{broken".to_owned(),
                }],
            },
            Message::Tool {
                call: "c1".to_owned(),
                text: "nothing".to_owned(),
            },
            Message::Assistant {
                text: None,
                tool_calls: Vec::new(),
            },
        ],
        tools: vec![Tool {
            name: "look".to_owned(),
            description: "Look.".to_owned(),
            parameters: r#"{"z": 1.0, "a": {}}"#.to_owned(),
        }],
        tool_choice: Some(ToolChoice::Named("look".to_owned())),
        parameters: Parameters {
            temperature: Some(0.5),
            top_p: Some(1.0),
            max_tokens: Some(9),
            stop: vec!["END".to_owned()],
            seed: Some(-1),
            reasoning_effort: Some("low".to_owned()),
            response_format: Some(r#"{"type":"json_object"}"#.to_owned()),
        },
        cache: Some(60),
    }
}

/// These bytes are in journals. A failure here means that recorded turns cannot be
/// replayed any more: change the code, not the test.
#[test]
fn canonical_bytes_stay() {
    let expect = concat!(
        r#"{"messages":[{"role":"system","content":"Be brief."},"#,
        r#"{"role":"user","name":"ada","content":"hello"},"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","#,
        r#""function":{"name":"look","arguments":"{broken"}}]},"#,
        r#"{"role":"tool","content":"nothing","tool_call_id":"c1"},"#,
        r#"{"role":"assistant","content":""}],"#,
        r#""tools":[{"type":"function","function":{"name":"look","description":"Look.","#,
        r#""parameters":{"z": 1.0, "a": {}}}}],"#,
        r#""tool_choice":{"type":"function","function":{"name":"look"}},"#,
        r#""temperature":0.5,"top_p":1.0,"max_tokens":9,"stop":["END"],"seed":-1,"#,
        r#""reasoning_effort":"low","response_format":{"type":"json_object"}}"#,
    );
    assert_eq!(String::from_utf8(canonical(&full())).unwrap(), expect);
    assert_eq!(canonical(&Request::default()), br#"{"messages":[]}"#);
    let mut broken = full();
    broken.tools[0].parameters = "{".to_owned();
    assert_ne!(broken.digest(), full().digest());
}

#[test]
fn a_streaming_body_adds_the_model_and_how_to_answer() {
    for (choice, word) in [
        (ToolChoice::Automatic, "auto"),
        (ToolChoice::Never, "none"),
        (ToolChoice::Required, "required"),
    ] {
        let mut request = full();
        request.tool_choice = Some(choice);
        let bytes = streaming(&request, "m", MaxTokens::Completion).unwrap();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(body["tool_choice"], word);
        assert_eq!(body["model"], "m");
        assert_eq!(body["stream"], true);
        assert_eq!(body["stream_options"], json!({"include_usage": true}));
        assert_eq!(
            (&body["max_tokens"], &body["max_completion_tokens"]),
            (&Value::Null, &json!(9))
        );
    }
}

#[test]
fn what_no_provider_could_read_is_refused() {
    let mut tool = full();
    tool.tools[0].parameters = "no".to_owned();
    let mut format = full();
    format.parameters.response_format = Some(String::new());
    let mut number = full();
    number.parameters.top_p = Some(f64::INFINITY);
    for (request, words) in [
        (tool, "the parameters of tool \"look\" are not JSON"),
        (format, "the response format is not JSON"),
        (number, "temperature and top-p must be finite numbers"),
    ] {
        assert_eq!(
            streaming(&request, "m", MaxTokens::Classic),
            Err(ModelError::Refused(words.to_owned()))
        );
    }
}

#[test]
fn errors_are_read_in_every_form() {
    for (body, text) in [
        (r#"{"error":{"message":"bad key","type":"x"}}"#, "bad key"),
        (r#"{"error":"bad key"}"#, "bad key"),
        (r#"{"message":"bad key","object":"error"}"#, "bad key"),
        (r#"{"detail":[{"loc":1}]}"#, r#"[{"loc":1}]"#),
        (r#"{"error":null,"detail":"bad key"}"#, "bad key"),
        ("<h1>Bad\u{7}\r\n gateway</h1>", "<h1>Bad gateway</h1>"),
        ("", ""),
    ] {
        assert_eq!(error_text(body.as_bytes()), text, "{body}");
    }
    assert_eq!(error_text(&[0xff; 3]), "\u{fffd}\u{fffd}\u{fffd}");
    assert!(error_text("ü".repeat(5_000).as_bytes()).len() <= ERROR_TEXT_BYTES_MAX + 3);
    for (error, status) in [
        (json!({"code": 503}), Some(503)),
        (json!({"code": "rate_limit", "status": 429}), Some(429)),
        (json!({"code": 7}), None),
        (json!({"code": 99_999}), None),
        (json!("text"), None),
    ] {
        assert_eq!(error_of(&error).0, status, "{error}");
    }
}

#[test]
fn the_same_json_has_one_form() {
    let form = |json: &str| rfc_8785(json.as_bytes()).map(|form| String::from_utf8(form).unwrap());
    let one = form(r#"{"b": [1.0, -0.0, 1e2], "a": "\u00e9\n"}"#);
    assert_eq!(one, form(r#"{"a":"é\u000a","b":[1,0,100]}"#));
    assert_eq!(one.as_deref(), Some(r#"{"a":"é\n","b":[1,0,100]}"#));
    for more in [
        "9007199254740993",
        "-9007199254740993",
        "18446744073709551615",
    ] {
        assert_eq!(form(&format!(r#"{{"seed":[{more}]}}"#)), None, "{more}");
    }
    assert_eq!(
        form("9007199254740992").as_deref(),
        Some("9007199254740992")
    );
    assert_eq!(form("{"), None);
}
