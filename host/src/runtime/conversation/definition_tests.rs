use serde_json::{Value, json};

use super::*;
use crate::journal::script::name;

fn parse(json: &Value) -> Result<Definition, DefinitionError> {
    Definition::parse(json.to_string().as_bytes())
}

fn two() -> Value {
    json!([{"name": "Ada", "agent": "ada"}, {"name": "Bo", "agent": "bo"}])
}

/// The definition with two agents, and one field more.
fn with(field: &str, value: Value) -> Value {
    let mut json = json!({"participants": two()});
    json[field] = value;
    json
}

/// A second participant with these fields.
fn other(fields: &Value) -> Value {
    json!({"participants": [{"name": "Ada", "agent": "ada"}, fields]})
}

fn remote_with(field: &str, value: Value) -> Value {
    let mut remote = json!({"name": "Bo", "url": "https://example.com/v1", "model": "m"});
    remote[field] = value;
    other(&remote)
}

#[test]
fn what_is_left_out_has_a_default() {
    let parsed = parse(&json!({"participants": two()})).unwrap();
    assert_eq!((&parsed.order, parsed.max_turns), (&Order::Alternate, 10));
    assert_eq!((parsed.max_cost_micros, parsed.halt_on), (None, None));
    let three = json!([
        {"name": "A", "agent": "a"},
        {"name": "B", "url": "http://127.0.0.1:1/v1/", "model": "m"},
        {"name": "C", "agent": "a"},
    ]);
    let parsed = parse(&json!({"participants": three})).unwrap();
    assert_eq!(parsed.order, Order::RoundRobin);
    let Voice::Remote(remote) = &parsed.participants[1].voice else {
        panic!("it has a url");
    };
    assert_eq!(remote.authorization, AuthorizationSource::ForwardUser);
    assert_eq!((&remote.secret, &remote.instructions), (&None, &None));
}

#[test]
fn equal_definitions_have_the_same_bytes_and_their_bytes_are_a_definition() {
    let one = r#"{"participants":[{"name":"Ada","agent":"ada"},
        {"agent":"bo","name":"Bo"}]}"#;
    let other = r#"{"max_turns":10,"order":"alternate",
        "participants":[{"agent":"ada","name":"Ada"},{"name":"Bo","agent":"bo"}]}"#;
    let one = Definition::parse(one.as_bytes()).unwrap();
    let other = Definition::parse(other.as_bytes()).unwrap();
    assert_eq!(one.bytes(), other.bytes());
    let full = json!({
        "participants": [
            {"name": "GPT-5 Codex", "url": "https://example.com:8443/v1", "model": "x", "secret": "key.1",
             "instructions": "Be brief.", "authorization": "agent-owned"},
            {"name": "Zoë", "agent": "zoe"},
            {"name": "Cy", "agent": "cy"},
        ],
        "order": {"selector": "chair"},
        "max_turns": 1000,
        "max_cost_micros": 5_000_000,
        "halt_on": {"pattern": "(?i)\\bwe agree\\b"},
    });
    let full = parse(&full).unwrap();
    assert_eq!(Definition::parse(&full.bytes()), Ok(full.clone()));
    let names: Vec<&str> = full
        .participants
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(names, ["GPT-5 Codex", "Zoë", "Cy"]);
}

#[test]
fn what_is_wrong_is_refused_by_the_name_of_its_field() {
    let long = |bytes: usize| "x".repeat(bytes);
    let many: Vec<Value> = (0..17)
        .map(|n| json!({"name": format!("p{n}"), "agent": "a"}))
        .collect();
    let named = |name: &str| other(&json!({"name": name, "agent": "bo"}));
    for (json, words) in [
        (
            named("Ada"),
            "`participants[1].name` is that of `participants[0]`",
        ),
        (
            json!({"participants": [{"name": "A B", "agent": "a"}, {"name": "a-b", "agent": "b"}]}),
            "has the slug \"a-b\"",
        ),
        (
            json!({"participants": [{"name": "日本", "agent": "a"}, {"name": "中国", "agent": "b"}]}),
            "has the slug \"anon\"",
        ),
        (json!({"participants": []}), "`participants` must name two"),
        (
            json!({"participants": [{"name": "A", "agent": "a"}]}),
            "`participants` must name two",
        ),
        (json!({"participants": many}), "`participants` may name 16"),
        (json!({}), "`participants`"),
        (named(""), "`participants[1].name` must have 1 to 64"),
        (named(" Bo"), "`participants[1].name` must have"),
        (named("B\no"), "`participants[1].name` must have"),
        (named("[Bo]"), "`participants[1].name` must have"),
        (named(&long(65)), "`participants[1].name` must have"),
        (named(&long(64)), "`participants[1].name` has a slug"),
        (
            other(&json!({"name": "Bo", "agent": "No Name"})),
            "`participants[1].agent`",
        ),
        (
            other(&json!({"name": "Bo"})),
            "`participants[1]` needs `agent` or `url`",
        ),
        (
            remote_with("agent", json!("bo")),
            "`participants[1]` has both",
        ),
        (
            other(&json!({"name": "Bo", "agent": "bo", "model": "m"})),
            "`participants[1].model` is for participants with a `url`",
        ),
        (
            other(&json!({"name": "Bo", "agent": "bo", "secret": "s"})),
            "`participants[1].secret`",
        ),
        (
            other(&json!({"name": "Bo", "url": "https://example.com"})),
            "`participants[1].model` is missing",
        ),
        (remote_with("model", json!("")), "`participants[1].model`"),
        (
            remote_with("secret", json!("a/b")),
            "`participants[1].secret`",
        ),
        (
            remote_with("instructions", json!(long(16 * 1024 + 1))),
            "`participants[1].instructions`",
        ),
        (
            remote_with("authorization", json!("mine")),
            "`participants[1].authorization`",
        ),
        (
            remote_with("url", json!("example.com/v1")),
            "`participants[1].url`",
        ),
        (remote_with("url", json!("ftp://example.com")), "http://"),
        (remote_with("url", json!("file:///etc/passwd")), "http://"),
        (
            remote_with("url", json!("https://ada@example.com/")),
            "a password",
        ),
        (
            remote_with("url", json!("https://:x@example.com/")),
            "a password",
        ),
        (
            remote_with("url", json!("https://example.com/?key=1")),
            "a query",
        ),
        (
            remote_with("url", json!("https://example.com/#a")),
            "a fragment",
        ),
        (
            remote_with("url", json!(format!("https://example.com/{}", long(2048)))),
            "`participants[1].url` is too long",
        ),
        (with("order", json!("random")), "`order`"),
        (with("order", json!({"selector": "A B"})), "`order"),
        (with("max_turns", json!(0)), "`max_turns` must be 1 to 1000"),
        (with("max_turns", json!(1001)), "`max_turns`"),
        (with("max_turns", json!(-1)), "`max_turns`"),
        (with("max_turns", json!(1.5)), "`max_turns`"),
        (with("max_cost_micros", json!(0)), "`max_cost_micros`"),
        (
            with("max_cost_micros", json!(COST_MICROS_MAX + 1)),
            "`max_cost_micros`",
        ),
        (with("halt_on", json!({"pattern": "("})), "`halt_on"),
        (with("halt_on", json!({"pattern": ""})), "`halt_on"),
        (
            with("halt_on", json!({"pattern": long(1025)})),
            "1 to 1024 bytes",
        ),
        (
            with("halt_on", json!({"pattern": "(?:\\w{1000}){1000}"})),
            "when compiled",
        ),
        (with("halt_on", json!({"mood": "bad"})), "`halt_on"),
    ] {
        let Err(DefinitionError::Invalid(text)) = parse(&json) else {
            panic!("{json} is invalid: {:?}", parse(&json));
        };
        assert!(text.contains(words), "{json}: {text}");
    }
    let alternate = json!({"participants": [
        {"name": "A", "agent": "a"}, {"name": "B", "agent": "b"}, {"name": "C", "agent": "c"},
    ], "order": "alternate"});
    let text = parse(&alternate).unwrap_err().to_string();
    assert!(text.contains("`order` is `alternate`"), "{text}");
}

#[test]
fn what_is_no_definition_at_all_is_told_apart() {
    let unknown = parse(&with("max_turn", json!(1))).unwrap_err();
    assert!(matches!(&unknown, DefinitionError::UnknownField(text) if text.contains("`max_turn`")));
    let unknown = parse(&remote_with("modle", json!("x"))).unwrap_err();
    assert!(
        matches!(&unknown, DefinitionError::UnknownField(text) if text.contains("`modle`") && text.contains("participants[1]")),
        "{unknown}"
    );
    for json in ["", "{", "[]", "{\"participants\":[]} x"] {
        let error = Definition::parse(json.as_bytes()).unwrap_err();
        assert!(
            matches!(error, DefinitionError::Malformed(_)),
            "{json:?}: {error:?}"
        );
    }
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(DEFINITION_BYTES_MAX));
    assert_eq!(
        Definition::parse(large.as_bytes()),
        Err(DefinitionError::TooLarge)
    );
}

#[test]
fn the_bounds_themselves_are_allowed() {
    let many: Vec<Value> = (0..16)
        .map(|n| json!({"name": format!("p{n}"), "agent": "a"}))
        .collect();
    for json in [
        with("max_turns", json!(1)),
        with("max_turns", json!(1000)),
        with("max_cost_micros", json!(1)),
        with("max_cost_micros", json!(COST_MICROS_MAX)),
        json!({"participants": many}),
        other(&json!({"name": "é".repeat(32), "agent": "bo"})),
        other(&json!({"name": "x".repeat(63), "agent": "bo"})),
        remote_with("instructions", json!("x".repeat(16 * 1024))),
        remote_with("secret", json!("x".repeat(128))),
        with("halt_on", json!({"pattern": "x".repeat(1024)})),
    ] {
        assert!(parse(&json).is_ok(), "{json}: {:?}", parse(&json));
    }
}

#[test]
fn no_conversation_takes_part_in_itself() {
    let of = |agents: &[&str]| {
        let named = agents.iter().enumerate();
        let participants: Vec<Value> = named
            .map(|(n, agent)| json!({"name": format!("p{n}"), "agent": agent}))
            .collect();
        parse(&json!({"participants": participants})).unwrap()
    };
    let deployed: BTreeMap<AgentName, Definition> = [
        ("b", of(&["c", "x"])),
        ("c", of(&["x", "d"])),
        ("d", of(&["a", "b"])),
        ("e", of(&["x", "y"])),
    ]
    .into_iter()
    .map(|(agent, definition)| (name(agent), definition))
    .collect();
    let own = name("a");
    let check = |definition: &Definition| {
        let checked = cycle(&own, definition, |agent| deployed.get(agent));
        checked.map_err(|error| error.to_string())
    };
    assert_eq!(check(&of(&["e", "x"])), Ok(()));
    assert_eq!(
        check(&of(&["x", "a"])).unwrap_err(),
        "`participants[1].agent` leads back to the conversation itself: a -> a"
    );
    assert_eq!(
        check(&of(&["e", "b"])).unwrap_err(),
        "`participants[1].agent` leads back to the conversation itself: a -> b -> c -> d -> a"
    );
    let mut chaired = of(&["x", "y"]);
    chaired.order = Order::Selector(name("d"));
    assert!(check(&chaired).unwrap_err().contains("`order.selector`"));
    chaired.order = Order::Alternate;
    chaired.halt_on = Some(HaltOn::Agent(name("a")));
    assert!(check(&chaired).unwrap_err().contains("`halt_on.agent`"));
}
