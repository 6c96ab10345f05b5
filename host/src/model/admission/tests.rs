//! On virtual time: it passes only when nobody has anything to do.

use futures_util::FutureExt as _;

use super::super::{Deadline, Fault};
use super::*;

const CALL: Deadline = Deadline::Call { ms_max: 9 };

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a name")
}

fn model(name: &str) -> Target {
    Target::Model(name.to_owned())
}

fn policy(concurrent_max: usize, queue_max: usize) -> CallPolicy {
    let mut policy = CallPolicy {
        concurrent_max,
        queue_max,
        ..CallPolicy::default()
    };
    policy.breaker.failures_to_open = 2;
    policy
}

fn within(ms: u64) -> Until {
    Until {
        at: Instant::now() + Duration::from_millis(ms),
        deadline: CALL,
    }
}

async fn admit(admissions: &Admissions, policy: &CallPolicy) -> Result<Admitted, ModelError> {
    admit_to(admissions, "m", policy, 60_000).await
}

async fn admit_to(
    admissions: &Admissions,
    name: &str,
    policy: &CallPolicy,
    within_ms: u64,
) -> Result<Admitted, ModelError> {
    let (tenant, target) = (tenant("t"), model(name));
    let until = within(within_ms);
    admissions.admit(&tenant, &target, policy, until).await
}

fn cut() -> ModelError {
    ModelError::Provider(Fault::Cut)
}

async fn fail(admissions: &Admissions, policy: &CallPolicy) {
    let mut admitted = admit(admissions, policy).await.expect("it is closed");
    admitted.is_made();
    admitted.ended(Err(&cut()));
}

#[tokio::test(start_paused = true)]
async fn places_are_bounded_and_the_queue_too() {
    let (admissions, policy) = (Admissions::default(), policy(1, 1));
    let first = admit(&admissions, &policy).await.expect("there is room");
    let mut second = Box::pin(admit(&admissions, &policy));
    assert!(second.as_mut().now_or_never().is_none(), "it waits");
    let third = admit(&admissions, &policy).await.map(drop);
    let busy = r#""m" is busy: 1 calls are under way and 1 wait"#;
    assert_eq!(third, Err(ModelError::Refused(busy.into())));
    // Neither another model's queue nor another tenant's.
    for (tenant, target) in [(tenant("t"), model("n")), (tenant("u"), model("m"))] {
        let other = admissions.admit(&tenant, &target, &policy, within(1));
        assert!(other.now_or_never().is_some_and(|it| it.is_ok()));
    }
    drop(first);
    assert!(second.await.is_ok());
    assert!(admit(&admissions, &policy).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_is_interrupted_leaves_at_once() {
    let (admissions, policy) = (Admissions::default(), policy(1, 2));
    let first = admit(&admissions, &policy).await.expect("there is room");
    let mut second = Box::pin(admit(&admissions, &policy));
    let mut third = Box::pin(admit(&admissions, &policy));
    assert!(second.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_none());
    drop(second);
    drop(first);
    let third = third.now_or_never().expect("it is its turn");
    drop(third);
    // One that was woken and dropped before it looked passes its place on.
    let first = admit(&admissions, &policy).await.expect("there is room");
    let mut second = Box::pin(admit(&admissions, &policy));
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    drop(second);
    assert!(admit(&admissions, &policy).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_deadline() {
    let (admissions, policy) = (Admissions::default(), policy(1, 1));
    let _first = admit(&admissions, &policy).await.expect("there is room");
    let (tenant, target) = (tenant("t"), model("m"));
    let start = Instant::now();
    let waited = admissions.admit(&tenant, &target, &policy, within(250));
    assert_eq!(waited.await.map(drop), Err(CALL.into()));
    assert_eq!(start.elapsed(), Duration::from_millis(250));
    let again = admissions.admit(&tenant, &target, &policy, within(1));
    assert_eq!(
        again.await.map(drop),
        Err(CALL.into()),
        "the queue is empty again"
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_one_tenants_and_one_targets() {
    let (admissions, policy) = (Admissions::default(), policy(9, 9));
    for _ in 0..2 {
        fail(&admissions, &policy).await;
    }
    let open = |left_ms| ModelError::CircuitOpen {
        target: "m".into(),
        left_ms,
    };
    let refused = admit(&admissions, &policy).await.map(drop);
    assert_eq!(refused, Err(open(Some(5_000))));
    for (tenant, target) in [(tenant("u"), model("m")), (tenant("t"), model("n"))] {
        let other = admissions.admit(&tenant, &target, &policy, within(1)).await;
        assert!(other.is_ok());
    }
    tokio::time::advance(Duration::from_millis(4_000)).await;
    let refused = admit(&admissions, &policy).await.map(drop);
    assert_eq!(refused, Err(open(Some(1_000))));
    tokio::time::advance(Duration::from_millis(1_000)).await;
    let mut probe = admit(&admissions, &policy).await.expect("its time is over");
    assert_eq!(
        admit(&admissions, &policy).await.map(drop),
        Err(open(None)),
        "one at a time"
    );
    probe.answers();
    assert!(admit(&admissions, &policy).await.is_ok(), "it answers");
    probe.ended(Ok(()));
    fail(&admissions, &policy).await;
    assert!(
        admit(&admissions, &policy).await.is_ok(),
        "all is forgotten"
    );
}

/// Those who wait when the circuit opens are not sent into it.
#[tokio::test(start_paused = true)]
async fn an_open_circuit_refuses_who_waited() {
    let (admissions, policy) = (Admissions::default(), policy(1, 9));
    fail(&admissions, &policy).await;
    let mut first = admit(&admissions, &policy).await.expect("there is room");
    let mut second = Box::pin(admit(&admissions, &policy));
    assert!(second.as_mut().now_or_never().is_none());
    first.ended(Err(&cut()));
    let refused = second.await.map(drop);
    assert!(
        matches!(refused, Err(ModelError::CircuitOpen { .. })),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_or_says_nothing_is_followed_by_another() {
    let (admissions, policy) = (Admissions::default(), policy(9, 9));
    for _ in 0..2 {
        fail(&admissions, &policy).await;
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    drop(admit(&admissions, &policy).await.expect("its time is over"));
    let mut probe = admit(&admissions, &policy).await.expect("the next one");
    probe.ended(Err(&ModelError::Provider(Fault::TooLong)));
    let mut probe = admit(&admissions, &policy).await.expect("the next one");
    probe.ended(Err(&cut()));
    assert!(
        admit(&admissions, &policy).await.is_err(),
        "it was the probe"
    );
}

#[tokio::test(start_paused = true)]
async fn targets_that_nobody_calls_are_forgotten() {
    let (admissions, policy) = (Admissions::default(), policy(1, 1));
    for _ in 0..2 {
        fail(&admissions, &policy).await;
    }
    let _used = admit_to(&admissions, "used", &policy, 1).await;
    for n in 0..LANES_MAX {
        drop(admit_to(&admissions, &format!("n{n}"), &policy, 1).await);
    }
    assert!(admissions.lanes().len() <= LANES_MAX);
    assert!(admit(&admissions, &policy).await.is_err(), "it is open");
    let used = admit_to(&admissions, "used", &policy, 1).await;
    assert_eq!(used.map(drop), Err(CALL.into()), "its place is taken");
}

/// An agent that breaks is not called for a while; a model of its name is, and other agents are.
#[tokio::test(start_paused = true)]
async fn agents_have_circuits_and_no_places() {
    let (admissions, policy) = (Admissions::default(), policy(1, 0));
    let agent = |name: &str| AgentName::new(name).expect("a name");
    let pass = |name: &str| admissions.pass(&tenant("t"), &agent(name), &policy);
    let held: Vec<_> = (0..3).map(|_| pass("m").expect("no places")).collect();
    for (admitted, works) in held.into_iter().zip([Works::No, Works::Unsaid, Works::Yes]) {
        admitted.worked(works);
    }
    for _ in 0..2 {
        pass("m").expect("it is closed").worked(Works::No);
    }
    let left = |refused: Result<Admitted, ModelError>| match refused {
        Err(ModelError::CircuitOpen { left_ms, .. }) => left_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!(left(pass("m")), Some(5_000));
    assert!(pass("n").is_ok());
    assert!(admit(&admissions, &policy).await.is_ok(), "the model `m`");
    tokio::time::advance(Duration::from_secs(5)).await;
    let probe = pass("m").expect("one is");
    assert_eq!(left(pass("m")), None, "the probe is under way");
    drop(probe);
    pass("m").expect("the next probe").worked(Works::Yes);
    pass("m").expect("it is closed").worked(Works::No);
    assert!(pass("m").is_ok());
}
