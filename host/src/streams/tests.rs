//! Streams on a disk in memory, by a clock that is moved by hand.

use bytes::Bytes;

use super::*;
use crate::id::Seq;
use crate::store::{Fault, Memory, RecordKey, memory};
use crate::tenants::{Quotas, Tenants};

struct Host {
    disk: Memory,
    clock: Clock,
    streams: Streams,
    tenant: TenantId,
}

impl Host {
    async fn new() -> Self {
        let (disk, clock) = (Memory::new(), Clock::manual(Time(1_700_000_000_000)));
        let tenant = TenantId::new("acme").unwrap();
        let tenants = Tenants::open(memory(&disk), clock.clone()).unwrap();
        tenants.create(&tenant, Quotas::default()).await.unwrap();
        Self::on(disk, clock, 100)
    }

    fn on(disk: Memory, clock: Clock, open_max: usize) -> Self {
        let store = memory(&disk);
        let tenants = Tenants::open(store.clone(), clock.clone()).unwrap();
        Self {
            streams: Streams::new(store, clock.clone(), tenants, open_max),
            tenant: TenantId::new("acme").unwrap(),
            disk,
            clock,
        }
    }

    /// What the next process finds after a loss of power.
    fn after_power_loss(self) -> Self {
        Self::on(self.disk.power_loss(), self.clock, 100)
    }

    async fn create(&self, path: &str, new: NewStream) -> Result<Arc<Stream>, CreateError> {
        let made = self.streams.create(&self.tenant, &at(path), new).await;
        made.map(|(stream, _)| stream)
    }

    async fn find(&self, path: &str) -> Result<Arc<Stream>, StreamError> {
        self.streams.find(&self.tenant, &at(path)).await
    }

    async fn append(&self, path: &str, text: &str) -> Result<Appended, AppendError> {
        let stream = self.find(path).await?;
        stream
            .append(words(), Bytes::copy_from_slice(text.as_bytes()))
            .await
    }

    async fn text(&self, path: &str) -> String {
        let stream = self.find(path).await.unwrap();
        let (mut text, mut after) = (String::new(), Seq(0));
        loop {
            let batch = stream.read(after, 0).await.unwrap();
            for piece in &batch.pieces {
                text.push_str(std::str::from_utf8(piece).unwrap());
            }
            if batch.up_to_date {
                return text;
            }
            after = batch.at;
        }
    }

    async fn delete(&self, path: &str) -> Result<(), StreamError> {
        self.streams.delete(&self.tenant, &at(path)).await
    }

    fn records(&self, space: RecordSpace) -> Vec<String> {
        let records = self
            .streams
            .0
            .store
            .records(Some(&self.tenant), space, None, 100);
        records.unwrap().into_iter().map(|(name, _)| name).collect()
    }
}

fn at(path: &str) -> StreamPath {
    StreamPath::new(path).unwrap()
}

fn words() -> Wish {
    Wish {
        has_data: true,
        ..Wish::default()
    }
}

fn text() -> NewStream {
    NewStream {
        content_type: Some("text/plain".into()),
        ..NewStream::default()
    }
}

fn ttl(seconds: u64) -> NewStream {
    NewStream {
        expiry: Some(Expiry::Ttl(seconds)),
        ..text()
    }
}

fn fork_of(path: &str) -> NewStream {
    NewStream {
        fork: Some(Fork {
            source: at(path),
            at: None,
            sub_offset: 0,
        }),
        ..NewStream::default()
    }
}

#[tokio::test]
async fn a_stream_is_what_was_appended_also_after_a_loss_of_power() {
    let host = Host::new().await;
    host.create("a/b", text()).await.unwrap();
    let mut expected = String::new();
    // More than one snapshot, and a tail after the last.
    for n in 0..600 {
        let word = format!("{n} ");
        let appended = host.append("a/b", &word).await.unwrap();
        assert_eq!(appended.tail, Seq(n + 1));
        expected.push_str(&word);
    }
    assert_eq!(host.text("a/b").await, expected);
    let host = host.after_power_loss();
    assert_eq!(host.text("a/b").await, expected);
    assert_eq!(host.append("a/b", "x").await.unwrap().tail, Seq(601));
}

/// To open a stream is not to read it: a snapshot is never far.
#[tokio::test]
async fn a_snapshot_is_never_far() {
    let host = Host::new().await;
    let stream = host.create("s", text()).await.unwrap();
    for n in 0..2_000 {
        let tag = Tag {
            id: format!("p{}", n % 3),
            epoch: 0,
            seq: n / 3,
        };
        let wish = Wish {
            producer: Some(tag),
            ..words()
        };
        stream.append(wish, Bytes::from("word")).await.unwrap();
    }
    let stored = host
        .streams
        .0
        .store
        .record(&state_key(&stream.key))
        .unwrap();
    let snapshot: State = serde_json::from_slice(&stored.unwrap()).unwrap();
    assert!(snapshot.tail.0 > 2_000 - 300, "{:?}", snapshot.tail);
    let live = stream.lock().state.clone();
    drop(stream);
    let host = host.after_power_loss();
    assert_eq!(host.find("s").await.unwrap().lock().state, live);
}

/// Long pieces bring snapshots of their own.
#[tokio::test]
async fn a_megabyte_is_a_snapshot() {
    let host = Host::new().await;
    let stream = host.create("s", text()).await.unwrap();
    let long = Bytes::from(vec![b'x'; 600 * 1024]);
    for _ in 0..2 {
        stream.append(words(), long.clone()).await.unwrap();
    }
    let stored = host
        .streams
        .0
        .store
        .record(&state_key(&stream.key))
        .unwrap();
    let snapshot: State = serde_json::from_slice(&stored.unwrap()).unwrap();
    assert_eq!(snapshot.tail, Seq(2));
}

#[tokio::test]
async fn a_ttl_slides_with_every_use_and_a_head_is_none() {
    let host = Host::new().await;
    host.create("s", ttl(10)).await.unwrap();
    for _ in 0..3 {
        host.clock.advance_ms(9_000);
        host.find("s").await.unwrap().touch();
        host.clock.advance_ms(9_000);
        host.append("s", "x").await.unwrap();
    }
    host.clock.advance_ms(9_999);
    host.find("s").await.unwrap();
    host.clock.advance_ms(1);
    assert_eq!(host.find("s").await.err(), Some(StreamError::NotFound));
    assert_eq!(host.records(RecordSpace::Stream), Vec::<String>::new());
    // Its path is free.
    assert_eq!(host.create("s", text()).await.unwrap().mark().tail, Seq(0));
}

#[tokio::test]
async fn a_time_does_not_slide() {
    let host = Host::new().await;
    let new = NewStream {
        expiry: Some(Expiry::At(host.clock.now().plus_ms(10_000))),
        ..text()
    };
    host.create("s", new).await.unwrap();
    host.clock.advance_ms(9_999);
    host.append("s", "x").await.unwrap();
    host.clock.advance_ms(1);
    assert_eq!(host.find("s").await.err(), Some(StreamError::NotFound));
}

/// Uses are written down now and then: what a crash forgets of them keeps a stream longer, never shorter.
#[tokio::test]
async fn a_crash_never_shortens_the_life_of_a_stream() {
    let host = Host::new().await;
    host.create("s", ttl(80)).await.unwrap();
    let mut written = Vec::new();
    for _ in 0..100 {
        host.clock.advance_ms(1_000);
        let stream = host.find("s").await.unwrap();
        stream.touch();
        written.push(stream.lock().head.touched);
    }
    // Every eighth of a TTL or so, and not every time.
    written.dedup();
    assert!((9..=11).contains(&written.len()), "{written:?}");
    // The commits of a tenant go in order: after this one they are done.
    let key = head_key(&host.tenant, &at("nothing"));
    let barrier = vec![crate::store::Write::Unrecord { key }];
    crate::store::write(&*host.streams.0.store, barrier)
        .await
        .unwrap();
    let host = host.after_power_loss();
    host.clock.advance_ms(79_999);
    host.find("s").await.unwrap();
    host.clock.advance_ms(20_000);
    assert_eq!(host.find("s").await.err(), Some(StreamError::NotFound));
}

#[tokio::test]
async fn what_expires_is_removed_without_anybody_asking() {
    let host = Host::new().await;
    for n in 0..250 {
        let new = if n % 2 == 0 { ttl(10) } else { text() };
        host.create(&format!("s{n:03}"), new).await.unwrap();
    }
    host.clock.advance_ms(60_000);
    // Nobody has them open.
    let host = host.after_power_loss();
    host.streams.expire_tenant(&host.tenant).await.unwrap();
    let left = host
        .streams
        .0
        .store
        .records(Some(&host.tenant), RecordSpace::Stream, None, 999);
    assert_eq!(left.unwrap().len(), 125);
}

#[tokio::test]
async fn forks_show_what_they_took_over_and_keep_it() {
    let host = Host::new().await;
    host.create("a", text()).await.unwrap();
    host.append("a", "one ").await.unwrap();
    host.append("a", "two ").await.unwrap();
    host.create("b", fork_of("a")).await.unwrap();
    host.append("a", "three ").await.unwrap();
    host.append("b", "drei ").await.unwrap();
    host.create("c", fork_of("b")).await.unwrap();
    host.append("c", "tres ").await.unwrap();
    assert_eq!(host.text("a").await, "one two three ");
    assert_eq!(host.text("b").await, "one two drei ");
    assert_eq!(host.text("c").await, "one two drei tres ");
    // Those below keep those above.
    host.delete("a").await.unwrap();
    host.delete("b").await.unwrap();
    assert_eq!(host.delete("a").await, Err(StreamError::Gone));
    assert!(matches!(
        host.create("a", text()).await,
        Err(CreateError::Deleted)
    ));
    assert!(matches!(
        host.create("d", fork_of("a")).await,
        Err(CreateError::SourceDeleted)
    ));
    let host = host.after_power_loss();
    assert_eq!(host.find("a").await.err(), Some(StreamError::Gone));
    assert_eq!(host.text("c").await, "one two drei tres ");
    // The last one takes them all along, and their pieces.
    host.delete("c").await.unwrap();
    assert_eq!(host.records(RecordSpace::Stream), Vec::<String>::new());
    assert_eq!(host.records(RecordSpace::StreamGone).len(), 3);
    host.streams.clear_tenant(&host.tenant).await.unwrap();
    assert_eq!(host.records(RecordSpace::StreamGone).len(), 0);
    let holdings = host.streams.0.store.holdings(&host.tenant).unwrap();
    assert!(holdings.bytes < 1_000, "only its key is left: {holdings:?}");
    host.create("a", text()).await.unwrap();
    assert_eq!(host.text("a").await, "");
}

#[tokio::test]
async fn forks_of_forks_have_an_end() {
    let host = Host::new().await;
    host.create("s0", text()).await.unwrap();
    for n in 0..=head::FORK_DEPTH_MAX {
        host.append(&format!("s{n}"), "x").await.unwrap();
        let fork = host
            .create(&format!("s{}", n + 1), fork_of(&format!("s{n}")))
            .await;
        let too_deep = matches!(fork, Err(CreateError::TooDeep));
        assert_eq!(too_deep, n == head::FORK_DEPTH_MAX, "{n}");
    }
    let deepest = format!("s{}", head::FORK_DEPTH_MAX);
    host.append(&deepest, "y").await.unwrap();
    assert_eq!(host.text(&deepest).await.len(), head::FORK_DEPTH_MAX + 2);
    // A refused fork holds nothing.
    host.delete(&deepest).await.unwrap();
    assert_eq!(host.find(&deepest).await.err(), Some(StreamError::NotFound));
}

#[tokio::test]
async fn streams_that_nobody_uses_make_room_for_others() {
    let host = Host::new().await;
    let host = Host::on(host.disk, host.clock, 2);
    for n in 0..5 {
        host.create(&format!("s{n}"), text()).await.unwrap();
        host.append(&format!("s{n}"), "x").await.unwrap();
    }
    assert_eq!(host.streams.open_count(), 2);
    let (held, other) = (
        host.find("s0").await.unwrap(),
        host.find("s1").await.unwrap(),
    );
    assert_eq!(host.find("s2").await.err(), Some(StreamError::Busy));
    drop(other);
    assert_eq!(host.text("s2").await, "x");
    assert!(Arc::ptr_eq(&held, &host.find("s0").await.unwrap()));
}

#[tokio::test]
async fn a_tenant_that_leaves_takes_its_streams_along() {
    let host = Host::new().await;
    let stream = host.create("s", text()).await.unwrap();
    let mut mark = stream.watch();
    host.streams
        .0
        .tenants
        .begin_deletion(&host.tenant)
        .await
        .unwrap();
    host.streams.forget_tenant(&host.tenant).await;
    mark.wait_for(|mark| mark.end == Some(End::Removed))
        .await
        .unwrap();
    let late = stream.append(words(), Bytes::from("late")).await;
    assert!(matches!(
        late,
        Err(AppendError::Stream(StreamError::NotFound))
    ));
    assert_eq!(host.find("s").await.err(), Some(StreamError::NotFound));
    assert!(host.create("t", text()).await.is_err());
}

/// The crash law: whatever was acknowledged is there afterwards, in order and once; and whatever anybody was shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_or_shown_survives_a_crash_at_any_sync() {
    for k in 1..12 {
        for fault in [
            Fault::FailSync(k),
            Fault::StopBeforeSync(k),
            Fault::StopAfterSync(k),
        ] {
            let host = Host::new().await;
            let clean = Host::on(host.disk.power_loss(), host.clock, 100);
            clean.disk.inject(fault);
            let acknowledged = tokio::select! {
                acknowledged = script(&clean) => acknowledged,
                acknowledged = stopped(&clean) => acknowledged,
            };
            let shown = match clean
                .streams
                .open()
                .values()
                .find(|it| it.path == at("s"))
                .cloned()
            {
                Some(stream) => stream.mark().tail,
                None => Seq(0),
            };
            let after = clean.after_power_loss();
            let there = match after.find("s").await {
                Ok(stream) => {
                    let state = stream.lock().state.clone();
                    let text = after.text("s").await;
                    let expected: String = (1..=state.tail.0).map(|n| format!("{n} ")).collect();
                    assert_eq!(text, expected, "{fault:?}");
                    // The producer's number is as durable as its words.
                    let known = state.producers.get("p").map_or(0, |it| it.seq + 1);
                    assert_eq!(known, state.tail.0, "{fault:?}");
                    state.tail
                }
                Err(StreamError::NotFound) => Seq(0),
                Err(error) => panic!("{fault:?}: {error}"),
            };
            let acknowledged = Seq(acknowledged.unwrap_or(0));
            assert!(
                there >= acknowledged,
                "{fault:?}: {there:?} {acknowledged:?}"
            );
            assert!(there >= shown, "{fault:?}: {there:?} {shown:?}");
        }
    }
}

/// How many appends were acknowledged until one was not.
async fn script(host: &Host) -> Option<u64> {
    let stream = host.create("s", text()).await.ok()?;
    for n in 1..=8 {
        let tag = Tag {
            id: "p".into(),
            epoch: 0,
            seq: n - 1,
        };
        let wish = Wish {
            producer: Some(tag),
            ..words()
        };
        let data = Bytes::from(format!("{n} "));
        if stream.append(wish, data).await.is_err() {
            return Some(n - 1);
        }
    }
    Some(8)
}

/// The machine has stopped: nobody is told anything any more. What the script had been told by then is what is
/// durable for its readers.
async fn stopped(host: &Host) -> Option<u64> {
    while !host.disk.is_stopped() {
        tokio::task::yield_now().await;
    }
    let open = host.streams.open();
    let stream = open.values().find(|it| it.path == at("s"))?;
    Some(stream.mark().tail.0).filter(|_| stream.mark().version > 0)
}

#[tokio::test]
async fn damage_is_named_and_touches_no_other_stream() {
    let host = Host::new().await;
    host.create("s", text()).await.unwrap();
    host.create("t", text()).await.unwrap();
    let key = RecordKey {
        tenant: Some(host.tenant.clone()),
        space: RecordSpace::Stream,
        name: "s".into(),
    };
    let bytes = Bytes::from("{");
    let broken = vec![crate::store::Write::Record { key, bytes }];
    crate::store::write(&*host.streams.0.store, broken)
        .await
        .unwrap();
    let host = host.after_power_loss();
    assert!(matches!(host.find("s").await, Err(StreamError::Read(_))));
    assert_eq!(host.append("t", "x").await.unwrap().tail, Seq(1));
    // Behind, it is passed over.
    host.streams.expire_tenant(&host.tenant).await.unwrap();
}
