use proptest::prelude::*;

use super::*;
use crate::id::AgentName;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        // As a server reads them: names in any case.
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        headers.append(
            name,
            HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
        );
    }
    headers
}

fn read(pairs: &[(&str, &str)]) -> Result<Inbound, Malformed> {
    Inbound::read(&headers(pairs))
}

#[test]
fn depth_is_a_number_or_an_error() {
    const NAME: &str = "X-Tangle-Forwarded-Depth";
    for (value, depth) in [
        ("", 0),
        ("0", 0),
        ("3", 3),
        ("007", 7),
        ("4294967295", u32::MAX),
    ] {
        assert_eq!(
            read(&[(NAME, value)]).map(|it| it.depth),
            Ok(depth),
            "{value:?}"
        );
    }
    for value in [
        "banana",
        "-1",
        "1.5",
        " ",
        "0x3",
        "3.0",
        "1e0",
        "+3",
        "2, 99",
        "2,99",
        "4294967296",
        "٣",
    ] {
        let error = read(&[(NAME, value)]).unwrap_err().to_string();
        assert!(error.contains("must be a non-negative integer"), "{error}");
        assert!(error.contains("x-tangle-forwarded-depth"), "{error}");
    }
    assert_eq!(read(&[]).map(|it| it.depth), Ok(0));
    let two = read(&[(NAME, "2"), (NAME, "99")]);
    assert_eq!(two.map(|it| it.depth), Ok(2), "the first counts");
}

#[test]
fn three_deep_is_served_and_four_deep_is_not() {
    assert_eq!(admit(3, DEPTH_MAX), Ok(()));
    let refused = admit(4, DEPTH_MAX).unwrap_err();
    assert_eq!((refused.observed, refused.limit), (4, 4));
    assert_eq!(admit(4, 5), Ok(()), "the limit is a setting");
    assert!(admit(u32::MAX, DEPTH_MAX).is_err());
}

#[test]
fn headers_are_read_in_any_case() {
    let inbound = read(&[
        ("X-TANGLE-RUNID", "conv_1"),
        ("x-tangle-TurnId", "conv_1.t0.gpt-5-codex"),
        ("X-Tangle-Parent-Turnid", "conv_1.t2.inner_a"),
        ("X-Tangle-Speaker", "GPT-5 Codex"),
        ("X-Tangle-Forwarded-Authorization", "Bearer sk-tan-1"),
        ("X-Antiphon-Timeout-Ms", "1500"),
    ])
    .expect("they are well-formed");
    assert_eq!(inbound.run, Some(RunId::new("conv_1").unwrap()));
    assert_eq!(inbound.turn.unwrap().as_str(), "conv_1.t0.gpt-5-codex");
    assert_eq!(inbound.parent.unwrap().as_str(), "conv_1.t2.inner_a");
    assert_eq!(inbound.speaker.as_deref(), Some("GPT-5 Codex"));
    assert_eq!(inbound.authorization.unwrap().reveal(), "Bearer sk-tan-1");
    assert_eq!(inbound.timeout_ms, Some(1500));
}

#[test]
fn empty_headers_say_nothing() {
    let inbound = read(&[
        ("x-tangle-runid", ""),
        ("x-tangle-turnid", "  "),
        ("x-tangle-speaker", ""),
        ("x-tangle-forwarded-authorization", ""),
        ("x-tangle-forwarded-depth", ""),
    ]);
    assert_eq!(inbound, Ok(Inbound::default()));
    assert!(inbound.unwrap().is_empty());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (name, value) in [
        ("x-tangle-runid", "a/b"),
        ("x-tangle-turnid", "a b"),
        ("x-tangle-parent-turnid", "a\u{e9}"),
        ("x-tangle-speaker", "%ff"),
        ("x-antiphon-timeout-ms", "0"),
        ("x-antiphon-timeout-ms", "soon"),
        ("x-antiphon-timeout-ms", "-1"),
    ] {
        let error = read(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let long = "a".repeat(AUTHORIZATION_BYTES_MAX + 1);
    assert!(read(&[("x-tangle-forwarded-authorization", &long)]).is_err());
    let long = "a".repeat(SPEAKER_BYTES_MAX + 1);
    assert!(read(&[("x-tangle-speaker", &long)]).is_err());
    let far = read(&[("x-antiphon-timeout-ms", "18446744073709551615")]);
    assert_eq!(far.map(|it| it.timeout_ms), Ok(Some(TIMEOUT_MS_MAX)));
}

#[test]
fn version_0_is_the_only_one() {
    assert!(read(&[("x-tangle-protocol-version", "0")]).is_ok());
    assert!(read(&[("x-tangle-protocol-version", "")]).is_ok());
    assert_eq!(
        read(&[("x-tangle-protocol-version", "1")]),
        Err(Malformed::Version("1".into()))
    );
}

fn outbound(depth: u32, authorization: Option<&Authorization>, speaker: &str) -> HeaderMap {
    let (run, turn) = (
        RunId::new("run_1").unwrap(),
        TurnId::new("run_1.t3.a").unwrap(),
    );
    let parent = TurnId::new("run_1.t0.b").unwrap();
    Outbound {
        depth,
        run: &run,
        turn: &turn,
        parent: Some(&parent),
        speaker,
        authorization,
        timeout_ms: Some(250),
    }
    .headers()
}

#[test]
fn a_call_carries_all_it_has() {
    let user = Authorization::new("Bearer  sk-tan-1 ").unwrap();
    let headers = outbound(2, Some(&user), "a");
    let got = |name: HeaderName| headers[name].to_str().unwrap().to_owned();
    assert_eq!(got(DEPTH), "3");
    assert_eq!(got(RUN), "run_1");
    assert_eq!(got(TURN), "run_1.t3.a");
    assert_eq!(got(PARENT_TURN), "run_1.t0.b");
    assert_eq!(got(SPEAKER), "a");
    assert_eq!(got(AUTHORIZATION), "Bearer  sk-tan-1 ", "verbatim");
    assert_eq!(got(TIMEOUT), "250");
    assert!(headers[AUTHORIZATION].is_sensitive());
}

#[test]
fn what_is_absent_in_is_absent_out() {
    let (run, turn) = (RunId::new("r").unwrap(), TurnId::new("r.t0.a").unwrap());
    let out = Outbound {
        depth: 0,
        run: &run,
        turn: &turn,
        parent: None,
        speaker: "",
        authorization: None,
        timeout_ms: None,
    };
    let headers = out.headers();
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "x-tangle-forwarded-depth",
            "x-tangle-runid",
            "x-tangle-turnid"
        ]
    );
    assert_eq!(headers[DEPTH], "1");
}

#[test]
fn names_survive_their_header() {
    for name in [
        "GPT-5 Codex",
        "José",
        "日本",
        "a%20b",
        "line\nbreak",
        " edges ",
        "\u{7f}",
    ] {
        let headers = outbound(0, None, name);
        let read = Inbound::read(&headers).expect("what we write can be read");
        assert_eq!(read.speaker.as_deref(), Some(name));
    }
    assert_eq!(outbound(0, None, "GPT-5 Codex")[SPEAKER], "GPT-5 Codex");
    assert_eq!(outbound(0, None, "José")[SPEAKER], "Jos%C3%A9");
}

#[test]
fn slugs_are_as_the_protocol_has_them() {
    for (name, expected) in [
        ("GPT-5 Codex", "gpt-5-codex"),
        ("inner-a", "inner-a"),
        ("!@#$", "anon"),
        ("", "anon"),
        ("José", "jose"),
        ("naïve", "nai-ve"),
        ("a_b", "a_b"),
        ("日本", "anon"),
        ("A  B", "a-b"),
        ("--a--", "a"),
        ("ﬁn", "fin"),
        ("Ⅷ", "viii"),
    ] {
        assert_eq!(slug(name), expected, "{name:?}");
    }
}

#[test]
fn turn_ids_are_as_the_protocol_has_them() {
    let run = RunId::new("run_1").unwrap();
    let turn = TurnId::of(&run, 0, &AgentName::new("researcher").unwrap());
    assert_eq!(turn.as_str(), "run_1.t0.researcher");
    assert_eq!(
        speaker_turn(&run, 12, "GPT-5 Codex").as_str(),
        "run_1.t12.gpt-5-codex"
    );
}

#[test]
fn an_authorization_is_hidden() {
    let user = Authorization::new("Bearer sk-tan-1").unwrap();
    assert_eq!(format!("{user:?}"), "(hidden)");
    let inbound = read(&[("x-tangle-forwarded-authorization", "Bearer sk-tan-1")]);
    assert!(!format!("{inbound:?}").contains("sk-tan"));
    assert_eq!(Authorization::new(""), None);
    assert_eq!(Authorization::new("a\nb"), None);
}

#[test]
fn a_context_is_what_the_caller_said() {
    let fresh = || RunId::new("fresh").unwrap();
    assert_eq!(Context::of(&Inbound::default(), fresh, Time(5)), None);
    let inbound = read(&[
        ("x-tangle-forwarded-depth", "2"),
        ("x-tangle-turnid", "r.t1.a"),
        ("x-antiphon-timeout-ms", "10"),
    ]);
    let context = Context::of(&inbound.unwrap(), fresh, Time(5)).expect("it said something");
    assert_eq!((context.run.as_str(), context.depth), ("fresh", 2));
    assert_eq!(context.deadline, Some(Time(15)));
    assert_eq!(
        context.parent.map(|it| it.to_string()).as_deref(),
        Some("r.t1.a")
    );
    assert!(!context.authorized);
}

proptest! {
    #[test]
    fn any_name_has_a_slug_that_fits_a_turn_id(name in any::<String>()) {
        let slug = slug(&name);
        prop_assert!(!slug.is_empty());
        prop_assert!(slug.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')));
        prop_assert_eq!(super::slug(&slug), slug);
    }

    #[test]
    fn reading_never_panics(value in proptest::collection::vec(32u8..=255, 0..40)) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            for name in [DEPTH, RUN, TURN, PARENT_TURN, SPEAKER, AUTHORIZATION, TIMEOUT, PROTOCOL] {
                headers.insert(name, value.clone());
            }
            let _ = Inbound::read(&headers);
        }
    }

    #[test]
    fn depth_only_grows(depth in any::<u32>()) {
        let inbound = Inbound::read(&outbound(depth, None, "a")).unwrap();
        prop_assert_eq!(inbound.depth, depth.saturating_add(1));
    }
}
