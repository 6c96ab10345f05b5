use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::scripted::{Gate, Provider, Received, Reply};
use super::super::{
    Answer, CacheBounds, Deadline, Finish, Leading, MaxTokens, Message, Models, Request, Target,
    Until, Usage,
};
use super::*;
use crate::id::TenantId;

fn models(provider: &Provider, change: impl FnOnce(&mut ModelConfig)) -> Models {
    let mut config = ModelConfig::new(provider.base_url(), "scripted-1");
    config.api_key = Some(Secret::new("sk-very-secret"));
    change(&mut config);
    Models::new(
        BTreeMap::from([("default".to_owned(), config)]),
        0,
        CacheBounds::default(),
    )
    .unwrap()
}

fn request() -> Request {
    Request {
        messages: vec![Message::User {
            name: None,
            text: "hello".to_owned(),
        }],
        ..Request::default()
    }
}

const ATTEMPT: Deadline = Deadline::Attempt { ms_max: 120_000 };

/// One attempt of a call of this model.
async fn attempt(
    models: &Models,
    name: &str,
    request: &Request,
    key: &str,
    headers: HeaderMap,
) -> Result<Answer, ModelError> {
    let (tenant, target) = (TenantId::new("t").unwrap(), Target::Model(name.to_owned()));
    let policy = models.policy(&target);
    let until = Until {
        at: Instant::now() + Duration::from_millis(policy.attempt_ms_max),
        deadline: ATTEMPT,
    };
    let admitted = models.admit(&tenant, &target, &policy, until).await?;
    let attempt = Attempt {
        request,
        idempotency_key: key,
        headers,
        until,
    };
    models
        .open(admitted, Leading::alone(), &target, attempt, until)
        .await
}

async fn open(models: &Models) -> Result<Answer, ModelError> {
    let (request, none) = (request(), HeaderMap::new());
    attempt(models, "default", &request, "turn-1/0", none).await
}

/// The text so far and how it ended.
async fn drain(answer: &mut Answer) -> (String, Result<(Finish, Option<Usage>), ModelError>) {
    let mut text = String::new();
    let end = loop {
        match answer.next().await {
            Some(Ok(Delta::Text(part))) => text.push_str(&part),
            Some(Ok(Delta::ToolCall(call))) => {
                text.push_str(&format!("[{} {}]", call.name, call.arguments))
            }
            Some(Ok(Delta::Finished { reason, usage })) => break Ok((reason, usage)),
            Some(Err(error)) => break Err(error),
            None => panic!("an answer ends with `Finished` or an error"),
        }
    };
    assert_eq!(answer.next().await, None);
    (text, end)
}

/// How a call of a provider with this one reply ends.
async fn call(
    reply: Reply,
    change: impl FnOnce(&mut ModelConfig),
) -> (String, Result<(Finish, Option<Usage>), ModelError>) {
    let provider = Provider::start([reply]).await;
    let models = models(&provider, change);
    let end = match open(&models).await {
        Ok(mut answer) => drain(&mut answer).await,
        Err(error) => (String::new(), Err(error)),
    };
    assert_eq!(provider.requests().len(), 1, "nothing is retried");
    end
}

async fn fault_of(reply: Reply) -> Fault {
    match call(reply, |_| {}).await {
        (text, Err(ModelError::Provider(fault))) if text.is_empty() => fault,
        other => panic!("{other:?}"),
    }
}

const USAGE: Usage = Usage {
    input_tokens: 3,
    output_tokens: 5,
};

#[tokio::test]
async fn an_answer_streams_and_the_request_is_what_the_protocol_says() {
    let provider = Provider::start([Reply::text("Hello there, you")]).await;
    let models = models(&provider, |_| {});
    let mut forward = HeaderMap::new();
    forward.insert("x-tangle-runid", HeaderValue::from_static("run_1"));
    forward.insert(AUTHORIZATION, HeaderValue::from_static("Bearer other"));
    let mut answer = attempt(&models, "default", &request(), "turn-1/0", forward)
        .await
        .unwrap();
    assert_eq!(
        answer.next().await,
        Some(Ok(Delta::Text("Hello ".to_owned())))
    );
    let (rest, end) = drain(&mut answer).await;
    assert_eq!(
        (rest.as_str(), end),
        ("there, you", Ok((Finish::Stop, Some(USAGE))))
    );

    let received: Received = provider.requests().remove(0);
    assert_eq!(received.path, "/v1/chat/completions");
    for (name, value) in [
        ("authorization", "Bearer sk-very-secret"),
        ("idempotency-key", "turn-1/0"),
        ("content-type", "application/json"),
        ("x-tangle-runid", "run_1"),
    ] {
        let values: Vec<_> = received.headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
    assert_eq!(received.last("user"), Some("hello"));
    assert_eq!(
        received.body,
        json!({
            "model": "scripted-1",
            "messages": [{"role": "user", "content": "hello"}],
            "stream": true,
            "stream_options": {"include_usage": true},
        })
    );
}

#[tokio::test]
async fn tool_calls_arrive_whole() {
    let reply = Reply::stream()
        .say("Let me see. ")
        .call(0, "c1", "look", r#"{"at":"ü"}"#)
        .call(1, "c2", "wait", "{}")
        .finish("tool_calls");
    assert_eq!(
        call(reply, |_| {}).await,
        (
            r#"Let me see. [look {"at":"ü"}][wait {}]"#.to_owned(),
            Ok((Finish::ToolCalls, Some(USAGE)))
        )
    );
}

#[tokio::test]
async fn a_plain_connection_serves_one_call() {
    let provider = Provider::answering(|_| Reply::text("Hello there")).await;
    let models = models(&provider, |_| {});
    for _ in 0..3 {
        let (text, end) = drain(&mut open(&models).await.unwrap()).await;
        assert_eq!((text.as_str(), end.is_ok()), ("Hello there", true));
    }
    assert_eq!(provider.connections(), 3);
}

#[tokio::test]
async fn a_refusal_keeps_status_words_and_the_wish_to_be_asked_later() {
    let fault = fault_of(Reply::status(429, "slow down").header("retry-after", "7")).await;
    assert_eq!(
        fault,
        Fault::Status {
            status: 429,
            text: "slow down".to_owned(),
            retry_after_ms: Some(7_000),
        }
    );
    for (reply, expect) in [
        (
            Reply::status(500, "oh\n\tno"),
            "the provider answered 500: oh no",
        ),
        (
            Reply::status(401, "no such key: sk-very-secret"),
            "the provider answered 401: no such key: (key)",
        ),
        (
            Reply::status(307, "").header("location", "http://127.0.0.1:1/"),
            "the provider answered 307: redirects are not followed",
        ),
    ] {
        assert_eq!(fault_of(reply).await.to_string(), expect);
    }
}

#[tokio::test]
async fn the_words_of_an_error_are_bounded() {
    let Fault::Status { text, .. } =
        fault_of(Reply::status(500, "").raw("x".repeat(100_000))).await
    else {
        panic!("a status");
    };
    assert!(text.len() < 2_000);
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    // A label of 64 characters is no host name, so nobody is asked for its address.
    let unresolved = format!("http://{}/v1", "x".repeat(64));
    for (base_url, words) in [
        (refused, "it refused the connection"),
        (unresolved, "its name does not resolve"),
    ] {
        let config = ModelConfig::new(base_url, "m");
        let models = Models::new(
            BTreeMap::from([("default".to_owned(), config)]),
            0,
            CacheBounds::default(),
        )
        .unwrap();
        assert_eq!(
            open(&models).await.unwrap_err(),
            ModelError::Provider(Fault::Unreachable(words.to_owned()))
        );
    }
}

#[tokio::test]
async fn a_cut_before_the_first_delta_is_a_failure_and_after_it_an_interruption() {
    assert_eq!(fault_of(Reply::stream().cut()).await, Fault::Cut);
    assert_eq!(
        call(Reply::stream().say("Hel").say("lo").cut(), |_| {}).await,
        ("Hello".to_owned(), Err(ModelError::Interrupted(Fault::Cut)))
    );
    // The stream may also end in good order without being complete.
    assert_eq!(
        call(Reply::stream().say("Hel"), |_| {}).await,
        ("Hel".to_owned(), Err(ModelError::Interrupted(Fault::Cut)))
    );
}

#[tokio::test]
async fn an_error_in_the_middle_is_told() {
    let error = json!({"error": {"message": "overloaded by sk-very-secret", "code": 529}});
    let reported = Fault::Reported {
        status: Some(529),
        text: "overloaded by (key)".to_owned(),
    };
    assert_eq!(fault_of(Reply::stream().event(&error)).await, reported);
    assert_eq!(
        call(Reply::stream().say("Hel").event(&error), |_| {}).await,
        ("Hel".to_owned(), Err(ModelError::Interrupted(reported)))
    );
}

#[tokio::test]
async fn what_is_not_the_protocol_is_malformed() {
    for reply in [
        Reply::broken_json(),
        Reply::body("text/html", "<html>Welcome to the portal</html>"),
        Reply::body("application/json", "{\"hello\": 1}"),
    ] {
        let fault = fault_of(reply).await;
        assert!(matches!(fault, Fault::Malformed(_)), "{fault:?}");
    }
}

#[tokio::test]
async fn a_provider_that_does_not_stream_is_understood() {
    let message = json!({"role": "assistant", "content": "Hello"});
    let body = json!({"choices": [{"message": message, "finish_reason": "stop"}]}).to_string();
    assert_eq!(
        call(Reply::body("application/json", body), |_| {}).await,
        ("Hello".to_owned(), Ok((Finish::Stop, None)))
    );
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_stopped() {
    let endless = (0..100)
        .fold(Reply::stream(), |reply, _| reply.say("0123456789"))
        .hang();
    let provider = Provider::start([endless]).await;
    let models = models(&provider, |config| config.answer_bytes_max = 95);
    let (text, end) = drain(&mut open(&models).await.unwrap()).await;
    assert_eq!(text.len(), 90);
    assert_eq!(end, Err(ModelError::Interrupted(Fault::TooLong)));
    provider.given_up(1).await;
}

#[tokio::test]
async fn a_provider_that_never_answers_runs_into_the_deadline() {
    let provider = Provider::start([Reply::silence()]).await;
    let models = models(&provider, |_| {});
    let call = tokio::spawn(async move { open(&models).await.map(drop) });
    provider.received(1).await;
    // From here on time passes only when nobody has anything to do.
    tokio::time::pause();
    assert_eq!(call.await.unwrap(), Err(ATTEMPT.into()));
    provider.given_up(1).await;
}

#[tokio::test]
async fn a_hang_after_the_head_is_a_deadline_and_after_a_delta_an_interruption() {
    let provider =
        Provider::start([Reply::stream().hang(), Reply::stream().say("Hel").hang()]).await;
    let models = models(&provider, |_| {});
    let mut first = open(&models).await.unwrap();
    let mut second = open(&models).await.unwrap();
    assert_eq!(second.next().await, Some(Ok(Delta::Text("Hel".to_owned()))));
    tokio::time::pause();
    assert_eq!(
        drain(&mut first).await,
        (String::new(), Err(ATTEMPT.into()))
    );
    assert_eq!(
        drain(&mut second).await,
        (
            String::new(),
            Err(ModelError::Interrupted(Fault::Deadline(ATTEMPT)))
        )
    );
}

#[tokio::test]
async fn a_hang_after_the_last_piece_costs_nothing_but_time() {
    let call = json!({"index": 0, "id": "c1", "type": "function",
        "function": {"name": "look", "arguments": "{}"}});
    let choice = json!({"index": 0, "delta": {"content": "Hi ", "tool_calls": [call]},
        "finish_reason": "tool_calls"});
    let reply = Reply::stream().event(&json!({"choices": [choice]})).hang();
    let provider = Provider::start([reply]).await;
    let models = models(&provider, |_| {});
    let mut answer = open(&models).await.unwrap();
    assert_eq!(answer.next().await, Some(Ok(Delta::Text("Hi ".to_owned()))));
    tokio::time::pause();
    let (rest, end) = drain(&mut answer).await;
    assert_eq!(
        (rest.as_str(), end),
        ("[look {}]", Ok((Finish::ToolCalls, None)))
    );
    provider.given_up(1).await;
}

#[tokio::test]
async fn dropping_an_answer_stops_the_call() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("Hel")
        .wait(&gate)
        .say("lo")
        .finish("stop");
    let provider = Provider::start([reply, Reply::silence()]).await;
    let models = models(&provider, |_| {});
    let mut answer = open(&models).await.unwrap();
    assert!(answer.next().await.is_some());
    drop(answer);
    provider.given_up(1).await;
    let call = tokio::spawn({
        let models = models.clone();
        async move { open(&models).await.map(drop) }
    });
    provider.received(2).await;
    call.abort();
    provider.given_up(2).await;
}

#[tokio::test]
async fn dropping_the_wait_for_a_delta_loses_nothing() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("Hel")
        .wait(&gate)
        .say("lo")
        .finish("stop");
    let provider = Provider::start([reply]).await;
    let models = models(&provider, |_| {});
    let mut answer = open(&models).await.unwrap();
    assert!(answer.next().await.is_some());
    tokio::select! {
        biased;
        delta = answer.next() => panic!("{delta:?}"),
        () = std::future::ready(()) => gate.open(),
    }
    assert_eq!(
        drain(&mut answer).await,
        ("lo".to_owned(), Ok((Finish::Stop, Some(USAGE))))
    );
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_it_is() {
    let provider = Provider::start([]).await;
    let models = models(&provider, |_| {});
    let mut broken = request();
    broken.parameters.response_format = Some("{".to_owned());
    let mut endless = request();
    endless.parameters.temperature = Some(f64::NAN);
    for (name, request, key) in [
        ("missing", &request(), "k"),
        ("default", &request(), "k\n"),
        ("default", &broken, "k"),
        ("default", &endless, "k"),
    ] {
        let opened = attempt(&models, name, request, key, HeaderMap::new()).await;
        let error = opened.map(drop).unwrap_err();
        assert!(matches!(error, ModelError::Refused(_)), "{error:?}");
    }
    assert_eq!(provider.connections(), 0);
}

#[tokio::test]
async fn the_other_name_of_max_tokens_can_be_configured() {
    let provider = Provider::start([Reply::text("a"), Reply::text("b")]).await;
    let mut request = request();
    request.parameters.max_tokens = Some(9);
    for max_tokens in [MaxTokens::Classic, MaxTokens::Completion] {
        let models = models(&provider, |config| config.max_tokens = max_tokens);
        let opened = attempt(&models, "default", &request, "k", HeaderMap::new()).await;
        opened.unwrap();
    }
    let sent: Vec<(Value, Value)> = provider
        .requests()
        .iter()
        .map(|received| {
            (
                received.body["max_tokens"].clone(),
                received.body["max_completion_tokens"].clone(),
            )
        })
        .collect();
    assert_eq!(sent, [(json!(9), Value::Null), (Value::Null, json!(9))]);
}

#[test]
fn configurations_are_checked_and_hide_their_key() {
    let config = |base_url: &str| ModelConfig::new(base_url, "m");
    for (base_url, url) in [
        ("http://a/v1", "http://a/v1/chat/completions"),
        ("https://a/v1/", "https://a/v1/chat/completions"),
        ("https://a", "https://a/chat/completions"),
        (
            "https://a/d?api-version=1#x",
            "https://a/d/chat/completions?api-version=1",
        ),
    ] {
        let endpoint = Endpoint::new("m", config(base_url)).unwrap();
        assert_eq!(endpoint.url.as_str(), url);
    }
    for base_url in [
        "",
        "a/v1",
        "ftp://a/v1",
        "http://",
        "https://u:p@a/v1",
        "data:x",
    ] {
        assert!(Endpoint::new("m", config(base_url)).is_err(), "{base_url}");
    }
    let mut with_key = config("https://a");
    with_key.api_key = Some(Secret::new("sk-1\nx-evil: 1"));
    let error = Endpoint::new("m", with_key.clone()).unwrap_err();
    assert!(!format!("{error}{error:?}").contains("sk-1"));
    with_key.api_key = Some(Secret::new("sk-1"));
    let endpoint = Endpoint::new("m", with_key).unwrap();
    assert!(!format!("{endpoint:?}").contains("sk-1"));
}

#[test]
fn waits_are_read_in_seconds_milliseconds_and_dates() {
    let date = ("date", "Fri, 31 Dec 1999 23:59:59 GMT");
    let until = |value| ("retry-after", value);
    for (pairs, ms) in [
        (vec![until("2")], Some(2_000)),
        (vec![("retry-after-ms", "250")], Some(250)),
        (vec![("retry-after-ms", "250"), until("2")], Some(250)),
        (vec![until("99999999999999999999")], None),
        (vec![until("9999999999999999999")], Some(u64::MAX)),
        (
            vec![until("Sat, 01 Jan 2000 00:00:04 GMT"), date],
            Some(5_000),
        ),
        (vec![until("Fri, 31 Dec 1999 23:00:00 GMT"), date], Some(0)),
        // Who does not say what time it is there has said nothing.
        (vec![until("Sat, 01 Jan 2000 00:00:04 GMT")], None),
        (vec![until("soon"), date], None),
        (vec![("x-other", "1")], None),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in &pairs {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        assert_eq!(retry_after_ms(&headers), ms, "{pairs:?}");
    }
}
