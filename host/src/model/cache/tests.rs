//! On virtual time: it passes only when nobody has anything to do.

use futures_util::FutureExt as _;

use super::super::{Fault, Finish, Message, ModelError, ToolCall, Usage};
use super::*;

const BOUNDS: CacheBounds = CacheBounds {
    bytes_max: 1_000_000,
    tenant_bytes_max: 1_000,
    seconds_max: 100,
};

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a name")
}

fn asking(text: &str) -> Request {
    Request {
        messages: vec![Message::User {
            name: None,
            text: text.to_owned(),
        }],
        ..Request::default()
    }
}

fn answer(text: &str) -> Vec<Delta> {
    vec![
        Delta::Text(text.to_owned()),
        Delta::ToolCall(ToolCall {
            id: "c".into(),
            name: "look".into(),
            arguments: "{}".into(),
        }),
        Delta::Finished {
            reason: Finish::ToolCalls,
            usage: Some(Usage {
                input_tokens: 3,
                output_tokens: 5,
            }),
        },
    ]
}

fn keep(cache: &Cache, tenant: &str, text: &str, pieces: &[Delta]) {
    let key = Key::of(&self::tenant(tenant), "m", &asking(text));
    cache.landed(&key, &Weak::new(), Some(pieces));
}

fn found(cache: &Arc<Cache>, tenant: &str, text: &str, seconds: u32) -> Option<Vec<Delta>> {
    match cache.find(&self::tenant(tenant), "m", &asking(text), seconds) {
        Found::Kept(pieces) => Some(pieces.to_vec()),
        Found::Joined(_) => panic!("nobody asks"),
        Found::Nothing(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_given_again_as_it_was_but_for_its_usage() {
    let cache = Cache::new(BOUNDS);
    keep(&cache, "t", "q", &answer("hello"));
    let mut expect = answer("hello");
    expect[2] = Delta::Finished {
        reason: Finish::ToolCalls,
        usage: Some(Usage::default()),
    };
    assert_eq!(found(&cache, "t", "q", 60), Some(expect));
    assert_eq!(found(&cache, "u", "q", 60), None, "another tenant");
    assert_eq!(found(&cache, "t", "Q", 60), None, "another request");
    let other = cache.find(&tenant("t"), "n", &asking("q"), 60);
    assert!(matches!(other, Found::Nothing(_)), "another model");
}

#[tokio::test(start_paused = true)]
async fn answers_grow_old() {
    let cache = Cache::new(BOUNDS);
    keep(&cache, "t", "q", &answer("hello"));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(found(&cache, "t", "q", 60).is_some());
    assert!(found(&cache, "t", "q", 59).is_none());
    tokio::time::advance(Duration::from_secs(40)).await;
    assert!(found(&cache, "t", "q", u32::MAX).is_some());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(found(&cache, "t", "q", u32::MAX).is_none(), "the bound");
}

#[tokio::test(start_paused = true)]
async fn a_tenants_answers_push_out_its_own_oldest() {
    let cache = Cache::new(BOUNDS);
    keep(&cache, "u", "q", &answer("theirs"));
    // Some 200 bytes each.
    for text in ["one", "two", "three", "four", "five"] {
        keep(&cache, "t", text, &answer(text));
    }
    let there =
        ["one", "two", "three", "four", "five"].map(|text| found(&cache, "t", text, 9).is_some());
    assert_eq!(there, [false, true, true, true, true]);
    assert!(found(&cache, "u", "q", 9).is_some());
    // One that is too large for everything is not kept, and pushes nothing out.
    keep(&cache, "t", "long", &answer(&"x".repeat(1_000)));
    assert!(found(&cache, "t", "long", 9).is_none());
    assert!(found(&cache, "t", "five", 9).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_host_is_bounded_over_all_tenants() {
    let cache = Cache::new(CacheBounds {
        bytes_max: 2_000,
        ..BOUNDS
    });
    for n in 0..40 {
        keep(&cache, &format!("t{n}"), "q", &answer("hello"));
        cache.kept.run_pending_tasks();
    }
    assert!(cache.kept.weighted_size() <= 2_000);
    assert!(cache.kept.entry_count() > 3, "but there are some");
    tokio::time::advance(Duration::from_secs(101)).await;
    keep(&cache, "t", "q", &answer("hello"));
    assert_eq!(
        cache.known().orders.len(),
        1,
        "who has nothing young is forgotten"
    );
}

fn lead(cache: &Arc<Cache>) -> Lead {
    match cache.find(&tenant("t"), "m", &asking("q"), 60) {
        Found::Nothing(lead) => lead,
        other => panic!("{other:?}"),
    }
}

fn join(cache: &Arc<Cache>) -> Follower {
    match cache.find(&tenant("t"), "m", &asking("q"), 60) {
        Found::Joined(follower) => follower,
        other => panic!("{other:?}"),
    }
}

/// Drops nothing silently: whether a call still runs.
struct Runs(Arc<()>);

impl Runs {
    fn new() -> (Self, Weak<()>) {
        let runs = Arc::new(());
        let weak = Arc::downgrade(&runs);
        (Self(runs), weak)
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_goes_leaves_the_call_to_the_next() {
    let cache = Cache::new(BOUNDS);
    let first = lead(&cache);
    let mut second = join(&cache);
    assert!(second.is_open().now_or_never().is_none(), "it waits");
    drop(first);
    assert_eq!(second.is_open().await, Ok(false));
    let _now_it = lead(&cache);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_everybodys_and_is_not_kept() {
    let cache = Cache::new(BOUNDS);
    let first = lead(&cache);
    let mut second = join(&cache);
    let failed = || Err(ModelError::Provider(Fault::Cut));
    let mut first = first.make(async move { failed() }).expect("it is new");
    assert_eq!(first.is_open().await, Err(ModelError::Provider(Fault::Cut)));
    assert_eq!(
        second.is_open().await,
        Err(ModelError::Provider(Fault::Cut))
    );
    drop(lead(&cache));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_is_dropped() {
    let cache = Cache::new(BOUNDS);
    let first = lead(&cache);
    let second = join(&cache);
    let (runs, weak) = Runs::new();
    let call = async move {
        let _runs = runs.0;
        std::future::pending().await
    };
    let first = first.make(call).expect("it is new");
    tokio::task::yield_now().await;
    drop(first);
    tokio::task::yield_now().await;
    assert!(weak.upgrade().is_some(), "one waits");
    drop(second);
    tokio::task::yield_now().await;
    assert!(weak.upgrade().is_none(), "nobody waits");
    let _from_the_start = lead(&cache);
}

#[test]
fn equal_json_is_an_equal_request() {
    let tool = |parameters: &str| {
        let mut request = asking("q");
        request.tools.push(super::super::Tool {
            name: "look".into(),
            description: String::new(),
            parameters: parameters.into(),
        });
        Key::of(&tenant("t"), "m", &request)
    };
    let one = tool(r#"{"type": "object", "maximum": 1.0}"#);
    assert_eq!(one, tool(r#"{"maximum":1,"type":"object"}"#));
    assert_ne!(one, tool(r#"{"maximum":2,"type":"object"}"#));
    let large = |number: &str| tool(&format!(r#"{{"maximum":{number}}}"#));
    assert_ne!(large("9007199254740993"), large("9007199254740992"));
    let young = Request {
        cache: Some(9),
        ..asking("q")
    };
    let key = |request| Key::of(&tenant("t"), "m", request);
    assert_eq!(
        key(&young),
        key(&asking("q")),
        "how old it may be is not asked"
    );
    assert_eq!(young.digest_and_bytes(), asking("q").digest_and_bytes());
}
