//! Subscriptions on a disk in memory, by a clock that is moved by hand.

use std::time::Duration;

use bytes::Bytes;

use super::keys::Token;
use super::*;
use crate::id::Seq;
use crate::seal::Seal;
use crate::store::{Memory, memory};
use crate::streams::{NewStream, Wish};
use crate::tenants::Quotas;

struct Host {
    disk: Memory,
    clock: Clock,
    streams: Streams,
    subscriptions: Subscriptions,
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn at(path: &str) -> StreamPath {
    StreamPath::new(path).unwrap()
}

fn key() -> SubscriptionKey {
    SubscriptionKey {
        tenant: tenant(),
        id: SubscriptionId::new("s").unwrap(),
    }
}

/// Pulled from `wakes`, for `events/*`.
fn pulled() -> Config {
    Config {
        delivery: Delivery::PullWake {
            stream: at("wakes"),
        },
        pattern: Some(config::Pattern::try_from("events/*".to_owned()).unwrap()),
        streams: [].into(),
        lease_ttl_ms: 1_000,
        description: None,
    }
}

impl Host {
    async fn new() -> Self {
        let (disk, clock) = (Memory::new(), Clock::manual(Time(1_700_000_000_000)));
        let tenants = Tenants::open(memory(&disk), clock.clone()).unwrap();
        tenants.create(&tenant(), Quotas::default()).await.unwrap();
        let host = Self::on(disk, clock, 100).await;
        host.make("wakes").await;
        host
    }

    async fn on(disk: Memory, clock: Clock, streams_max: usize) -> Self {
        let store = memory(&disk);
        let tenants = Tenants::open(store.clone(), clock.clone()).unwrap();
        let streams = Streams::new(store.clone(), clock.clone(), tenants.clone(), 100);
        let subscriptions = Subscriptions::new(Parts {
            store,
            clock: clock.clone(),
            streams: streams.clone(),
            tenants,
            egress: Egress::nowhere(),
            keys: Keys::of(&Seal::of_key(&[1; 32])),
            gate: Arc::default(),
            places: fair::Bounds {
                host_max: 1,
                tenant_max: 1,
            },
            bounds: Bounds {
                subscriptions_max: 2,
                streams_max,
            },
        });
        subscriptions.take_up().await;
        tokio::spawn(subscriptions.clone().run());
        Self {
            disk,
            clock,
            streams,
            subscriptions,
        }
    }

    /// What the next process finds after a loss of power.
    async fn after_power_loss(self) -> Self {
        Self::on(self.disk.power_loss(), self.clock, 100).await
    }

    async fn make(&self, path: &str) {
        let (tenant, path) = (tenant(), at(path));
        let made = self.streams.create(&tenant, &path, NewStream::default());
        made.await.unwrap();
    }

    async fn append(&self, path: &str) -> Seq {
        let stream = self.streams.find(&tenant(), &at(path)).await.unwrap();
        let wish = Wish {
            producer: None,
            order: None,
            closes: false,
            has_data: true,
            is_of_other_type: false,
        };
        stream
            .append(wish, Bytes::from_static(b"x"))
            .await
            .unwrap()
            .tail
    }

    /// Wait until so many wakes were announced.
    async fn announced(&self, count: u64) {
        let wakes = self.streams.find(&tenant(), &at("wakes")).await.unwrap();
        let mut mark = wakes.watch();
        mark.wait_for(|mark| mark.tail.0 >= count).await.unwrap();
    }

    async fn announcements(&self) -> u64 {
        let wakes = self.streams.find(&tenant(), &at("wakes")).await.unwrap();
        wakes.mark().tail.0
    }

    async fn create(&self, config: Config) -> Result<(View, bool), SubscriptionError> {
        let root = "http://here/v1/stream".to_owned();
        self.subscriptions.create(&key(), config, root).await
    }

    async fn claim(&self) -> Result<Claimed, SubscriptionError> {
        self.subscriptions.claim(&key(), "w".to_owned()).await
    }

    async fn ack(
        &self,
        claimed: &Claimed,
        acks: &[(&str, Seq)],
        is_done: bool,
    ) -> Result<bool, SubscriptionError> {
        let token = Token::parse(&claimed.token).unwrap();
        let report = report(claimed, acks, is_done);
        self.subscriptions.ack(&key(), token, report).await
    }

    /// Time passes, for whoever waits for it too.
    async fn pass(&self, ms: u64) {
        self.clock.advance_ms(ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

fn report(claimed: &Claimed, acks: &[(&str, Seq)], is_done: bool) -> Report {
    let ack = |(path, at_): &(&str, Seq)| Ack {
        stream: at(path),
        at: *at_,
    };
    Report {
        wake: claimed.wake.clone(),
        generation: claimed.generation,
        acks: acks.iter().map(ack).collect(),
        is_done,
    }
}

fn pending(work: &[Work]) -> Vec<(&str, u64, u64)> {
    let pending = work.iter().filter(|work| work.is_pending());
    pending
        .map(|work| (work.path.as_str(), work.acked.0, work.tail.0))
        .collect()
}

fn refused(error: Refusal) -> SubscriptionError {
    SubscriptionError::Refused(error)
}

#[tokio::test(start_paused = true)]
async fn workers_are_woken_for_what_comes_and_not_for_what_was_there() {
    let host = Host::new().await;
    host.make("events/old").await;
    host.append("events/old").await;
    let (view, is_new) = host.create(pulled()).await.unwrap();
    assert!(is_new);
    assert_eq!(view.work.len(), 1);
    assert_eq!(pending(&view.work), []);
    assert!(!host.create(pulled()).await.unwrap().1, "the same again");
    let other = Config {
        lease_ttl_ms: 2_000,
        ..pulled()
    };
    assert_eq!(
        host.create(other).await.err(),
        Some(SubscriptionError::Exists)
    );
    let nothing = refused(Refusal::NothingPending);
    assert_eq!(host.claim().await.err(), Some(nothing.clone()));
    // A stream that it did not know, and others that are none of its.
    host.make("other").await;
    host.append("other").await;
    host.make("events/new").await;
    let tail = host.append("events/new").await;
    host.announced(1).await;
    let claimed = host.claim().await.unwrap();
    assert_eq!(pending(&claimed.work), [("events/new", 0, 1)]);
    let holder = "w".to_owned();
    let generation = claimed.generation;
    let busy = refused(Refusal::Claimed { holder, generation });
    assert_eq!(host.claim().await.err(), Some(busy));
    // What comes meanwhile is the next wake's.
    host.append("events/old").await;
    let acked = host.ack(&claimed, &[("events/new", tail)], true).await;
    assert!(acked.is_ok());
    host.announced(2).await;
    let fenced = refused(Refusal::Fenced);
    assert_eq!(host.ack(&claimed, &[], true).await, Err(fenced));
    let next = host.claim().await.unwrap();
    assert_eq!(pending(&next.work), [("events/old", 1, 2)]);
    assert!(next.generation > claimed.generation);
    assert_eq!(
        host.ack(&next, &[("events/old", Seq(2))], true).await,
        Ok(false)
    );
    assert_eq!(host.claim().await.err(), Some(nothing));
    assert_eq!(host.announcements().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_silent_loses_its_claim_and_one_that_reports_keeps_it() {
    let host = Host::new().await;
    host.create(pulled()).await.unwrap();
    host.make("events/a").await;
    host.append("events/a").await;
    host.announced(1).await;
    let claimed = host.claim().await.unwrap();
    for _ in 0..3 {
        host.pass(900).await;
        assert_eq!(host.ack(&claimed, &[], false).await, Ok(false));
    }
    host.pass(1_100).await;
    host.announced(2).await;
    let late = host.ack(&claimed, &[("events/a", Seq(1))], true).await;
    assert_eq!(late, Err(refused(Refusal::Fenced)));
    let next = host.claim().await.unwrap();
    assert_eq!(
        pending(&next.work),
        [("events/a", 0, 1)],
        "nothing was moved"
    );
    // Given back, it is somebody else's.
    let token = Token::parse(&next.token).unwrap();
    let back = report(&next, &[], false);
    host.subscriptions
        .release(&key(), token, back)
        .await
        .unwrap();
    host.announced(3).await;
    assert!(host.claim().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn cursors_stay_between_where_they_are_and_the_end() {
    let host = Host::new().await;
    host.create(pulled()).await.unwrap();
    host.make("events/a").await;
    host.append("events/a").await;
    let tail = host.append("events/a").await;
    host.announced(1).await;
    let claimed = host.claim().await.unwrap();
    let is_refused = async |path: &str, at: u64| {
        let acked = host.ack(&claimed, &[(path, Seq(at))], false).await;
        matches!(
            acked,
            Err(SubscriptionError::Refused(Refusal::InvalidOffset(_)))
        )
    };
    assert!(is_refused("events/a", tail.0 + 1).await);
    assert!(is_refused("events/b", 1).await);
    assert_eq!(
        host.ack(&claimed, &[("events/a", Seq(1))], false).await,
        Ok(false)
    );
    assert!(is_refused("events/a", 0).await);
    let stranger = Token::parse("1.AAAA.acme").unwrap();
    let asked = report(&claimed, &[], true);
    let answer = host.subscriptions.ack(&key(), stranger, asked).await;
    assert_eq!(answer, Err(SubscriptionError::UnknownToken));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_made_again_is_work_from_its_beginning() {
    let host = Host::new().await;
    host.create(pulled()).await.unwrap();
    host.make("events/a").await;
    for _ in 0..3 {
        host.append("events/a").await;
    }
    host.announced(1).await;
    let claimed = host.claim().await.unwrap();
    let acked = host.ack(&claimed, &[("events/a", Seq(3))], true).await;
    assert_eq!(acked, Ok(false));
    host.streams
        .delete(&tenant(), &at("events/a"))
        .await
        .unwrap();
    host.make("events/a").await;
    host.append("events/a").await;
    host.announced(2).await;
    let claimed = host.claim().await.unwrap();
    assert_eq!(pending(&claimed.work), [("events/a", 0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn named_streams_are_looked_at_before_they_are_there() {
    let host = Host::new().await;
    let config = Config {
        pattern: None,
        streams: [at("manual/a")].into(),
        ..pulled()
    };
    host.create(config).await.unwrap();
    host.make("manual/b").await;
    host.append("manual/b").await;
    let subscriptions = &host.subscriptions;
    subscriptions
        .link(&key(), vec![at("manual/b")])
        .await
        .unwrap();
    subscriptions
        .link(&key(), vec![at("manual/b")])
        .await
        .unwrap();
    let view = subscriptions.get(&key()).await.unwrap();
    assert_eq!(view.work.len(), 2);
    assert_eq!(pending(&view.work), [], "from where it ends");
    host.make("manual/a").await;
    host.append("manual/a").await;
    host.append("manual/b").await;
    host.announced(1).await;
    subscriptions.unlink(&key(), &at("manual/b")).await.unwrap();
    subscriptions
        .unlink(&key(), &at("manual/none"))
        .await
        .unwrap();
    let claimed = host.claim().await.unwrap();
    assert_eq!(pending(&claimed.work), [("manual/a", 0, 1)]);
    subscriptions.delete(&key()).await.unwrap();
    subscriptions.delete(&key()).await.unwrap();
    let gone = host.ack(&claimed, &[("manual/a", Seq(1))], true).await;
    assert_eq!(gone, Err(SubscriptionError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_no_wake_and_no_cursor() {
    let host = Host::new().await;
    host.create(pulled()).await.unwrap();
    host.make("events/a").await;
    host.append("events/a").await;
    host.announced(1).await;
    let claimed = host.claim().await.unwrap();
    host.append("events/a").await;
    let acked = host.ack(&claimed, &[("events/a", Seq(1))], false).await;
    assert_eq!(acked, Ok(false));
    let host = host.after_power_loss().await;
    // The lease stands, and its token too.
    assert!(matches!(
        host.claim().await,
        Err(SubscriptionError::Refused(Refusal::Claimed { .. }))
    ));
    let acked = host.ack(&claimed, &[("events/a", Seq(2))], true).await;
    assert_eq!(acked, Ok(false));
    // What was appended by a process that did not live to tell of it.
    let host = {
        host.subscriptions.stop().await;
        host.append("events/a").await;
        host.make("events/b").await;
        host.append("events/b").await;
        host.after_power_loss().await
    };
    host.announced(2).await;
    let claimed = host.claim().await.unwrap();
    assert_eq!(
        pending(&claimed.work),
        [("events/a", 2, 3), ("events/b", 0, 1)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_wake_that_cannot_be_told_is_told_later() {
    let host = Host::new().await;
    host.streams.delete(&tenant(), &at("wakes")).await.unwrap();
    host.create(pulled()).await.unwrap();
    host.make("events/a").await;
    host.append("events/a").await;
    let is_failed = async || host.subscriptions.get(&key()).await.unwrap().is_failed;
    while !is_failed().await {
        tokio::task::yield_now().await;
    }
    host.make("wakes").await;
    assert_eq!(host.announcements().await, 0);
    host.pass(1_300).await;
    host.announced(1).await;
    // A worker need not have heard of it.
    assert!(host.claim().await.is_ok());
    assert!(!is_failed().await);
}

#[tokio::test(start_paused = true)]
async fn there_are_bounds_and_webhooks_go_where_they_may() {
    let disk = Memory::new();
    let clock = Clock::manual(Time(1_700_000_000_000));
    let tenants = Tenants::open(memory(&disk), clock.clone()).unwrap();
    tenants.create(&tenant(), Quotas::default()).await.unwrap();
    let host = Host::on(disk, clock, 2).await;
    let create = async |id: &str, config: Config| {
        let key = SubscriptionKey {
            id: SubscriptionId::new(id).unwrap(),
            ..key()
        };
        let root = String::new();
        let created = host.subscriptions.create(&key, config, root).await;
        created.map(|(_, is_new)| is_new)
    };
    let named = |count: usize| Config {
        streams: (0..count).map(|n| at(&format!("n{n}"))).collect(),
        pattern: None,
        ..pulled()
    };
    let too_many = SubscriptionError::TooManyStreams(2);
    assert_eq!(create("a", named(3)).await, Err(too_many.clone()));
    assert_eq!(create("a", named(2)).await, Ok(true));
    let key = SubscriptionKey {
        id: SubscriptionId::new("a").unwrap(),
        ..key()
    };
    let linked = host.subscriptions.link(&key, vec![at("n3")]).await;
    assert_eq!(linked, Err(too_many));
    let webhook = |url: &str| Config {
        delivery: Delivery::Webhook { url: url.into() },
        ..named(1)
    };
    for url in [
        "http://example.com/",
        "ftp://example.com/",
        "https://u:p@example.com/",
        "no url",
        "https://example.com/",
    ] {
        let created = create("b", webhook(url)).await;
        let is_rejected = matches!(created, Err(SubscriptionError::WebhookRejected(_)));
        assert!(is_rejected, "{url}: this host reaches nothing");
    }
    assert_eq!(create("b", named(1)).await, Ok(true));
    assert_eq!(create("c", named(1)).await, Err(SubscriptionError::TooMany));
    host.subscriptions.forget_tenant(&tenant()).await;
    let gone = host.subscriptions.get(&key).await.err();
    assert_eq!(gone, Some(SubscriptionError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_be_told_of_keeps_nobody_busy() {
    let host = Host::new().await;
    host.streams.delete(&tenant(), &at("wakes")).await.unwrap();
    host.create(pulled()).await.unwrap();
    host.make("events/a").await;
    host.append("events/a").await;
    let is_failed = async || host.subscriptions.get(&key()).await.unwrap().is_failed;
    while !is_failed().await {
        tokio::task::yield_now().await;
    }
    // What was to be told later is not there any more when later comes.
    host.streams
        .delete(&tenant(), &at("events/a"))
        .await
        .unwrap();
    while !host
        .subscriptions
        .get(&key())
        .await
        .unwrap()
        .work
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    host.clock.advance_ms(10_000);
    let held = host.subscriptions.held(&key()).unwrap();
    assert_eq!(held.body.lock().await.subscription.due(), None);
}

#[tokio::test(start_paused = true)]
async fn a_worker_may_know_more_than_it_was_told() {
    let host = Host::new().await;
    host.create(pulled()).await.unwrap();
    host.make("events/a").await;
    host.append("events/a").await;
    host.announced(1).await;
    let claimed = host.claim().await.unwrap();
    // It follows the stream, and is faster than whoever tells the subscription.
    for _ in 0..20 {
        let tail = host.append("events/a").await;
        let acked = host.ack(&claimed, &[("events/a", tail)], false).await;
        assert_eq!(acked, Ok(false));
    }
    assert_eq!(host.ack(&claimed, &[], true).await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_cannot_be_read_is_not_made_anew() {
    let host = Host::new().await;
    host.create(pulled()).await.unwrap();
    host.subscriptions.stop().await;
    let bytes = Bytes::from_static(b"{");
    let write = Write::Record {
        key: key().record(),
        bytes,
    };
    host.subscriptions.store(vec![write]).await.unwrap();
    let host = host.after_power_loss().await;
    let not_there = host.subscriptions.get(&key()).await.err();
    assert_eq!(not_there, Some(SubscriptionError::NotFound));
    let made = host.create(pulled()).await;
    assert!(matches!(made, Err(SubscriptionError::Read(_))));
    host.subscriptions.delete(&key()).await.unwrap();
    assert!(host.create(pulled()).await.unwrap().1);
}
