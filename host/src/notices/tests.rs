//! Notices on a disk in memory.

use super::webhook::Patience;
use super::webhooks::{Bounds, Parts, WebhookKey, Webhooks};
use super::*;
use crate::clock::Time;
use crate::egress::Egress;
use crate::journal::notice::{News, What};
use crate::journal::script::name;
use crate::seal::Seal;
use crate::store::{Memory, RecordKey, RecordSpace, Write, memory, write};

fn tenant() -> TenantId {
    name("acme")
}

fn notice(session: &str, at: u64) -> Notice {
    Notice {
        time: Time(at),
        session: name(session),
        at: Seq(at),
        what: What::News {
            entries: [News::Spoke].into(),
            agents: [name("talker")].into(),
            authors: [].into(),
        },
    }
}

fn opened(session: &str, at: u64) -> Notice {
    let agents = vec![name("thinker")];
    Notice {
        what: What::SessionOpened {
            agents,
            called_by: None,
        },
        ..notice(session, at)
    }
}

struct Host {
    disk: Memory,
    clock: Clock,
    notices: Notices,
}

impl Host {
    fn on(disk: Memory, kept: Kept) -> Self {
        let clock = Clock::manual(Time(1_000));
        let store = memory(&disk);
        let tenants = Tenants::open(store.clone(), clock.clone()).unwrap();
        let notices = Notices::new(store, clock.clone(), tenants, kept);
        Self {
            disk,
            clock,
            notices,
        }
    }

    fn new() -> Self {
        let kept = Kept {
            notices_max: 1_000,
            ms_max: 1_000_000,
        };
        Self::on(Memory::new(), kept)
    }

    /// One commit.
    async fn tell(&self, tenant: TenantId, notices: &[Notice]) {
        let bytes = serde_json::to_vec(notices).unwrap().into();
        let writes = vec![Write::Notice { tenant, bytes }];
        write(&*self.notices.0.store, writes).await.unwrap();
    }

    async fn follow(&self, from: Option<NoticeOffset>) -> Result<Follower, NoticeError> {
        self.notices
            .follow(&tenant(), from, Filter::default())
            .await
    }

    async fn read(&self, from: Option<NoticeOffset>, filter: Filter) -> Vec<(NoticeOffset, u64)> {
        let follower = self.notices.follow(&tenant(), from, filter).await;
        let page = follower.unwrap().page(100).await.unwrap();
        let notices = page.notices.into_iter();
        notices.map(|(at, notice)| (at, notice.at.0)).collect()
    }
}

fn seqs(read: &[(NoticeOffset, u64)]) -> Vec<u64> {
    read.iter().map(|(_, seq)| *seq).collect()
}

#[tokio::test]
async fn from_any_place_each_is_read_once() {
    let host = Host::new();
    host.tell(tenant(), &[opened("a", 1), notice("a", 2)]).await;
    host.tell(name("other"), &[notice("x", 77)]).await;
    host.tell(tenant(), &[notice("b", 3)]).await;
    host.tell(tenant(), &[notice("a", 4), notice("a", 5), notice("b", 6)])
        .await;
    let all = host.read(None, Filter::default()).await;
    assert_eq!(seqs(&all), [1, 2, 3, 4, 5, 6]);
    for (n, (at, _)) in all.iter().enumerate() {
        assert_eq!(at.to_string().parse(), Ok(*at));
        let rest = host.read(Some(*at), Filter::default()).await;
        assert_eq!(rest, all[n + 1..], "after {at}");
    }
    // Pages of any size put together are the same.
    for size in 1..7 {
        let mut follower = host.follow(None).await.unwrap();
        let mut read = Vec::new();
        loop {
            let page = follower.page(size).await.unwrap();
            assert!(page.notices.len() <= size);
            read.extend(page.notices.into_iter().map(|(at, it)| (at, it.at.0)));
            if page.is_end {
                break;
            }
        }
        assert_eq!(read, all);
    }
    // After a power loss the numbers go on.
    let host = Host::on(host.disk.power_loss(), host.notices.0.kept);
    host.tell(tenant(), &[notice("a", 7)]).await;
    let (last, _) = *all.last().unwrap();
    let rest = host.read(Some(last), Filter::default()).await;
    assert_eq!(rest, [(NoticeOffset::after(Seq(4)), 7)]);
    let ahead = NoticeOffset {
        after: Seq(4),
        index: 1,
    };
    let ahead = host.follow(Some(ahead)).await;
    assert_eq!(ahead.err(), Some(NoticeError::Ahead));
}

#[tokio::test]
async fn a_filter_leaves_out_what_is_not_wanted() {
    let host = Host::new();
    host.tell(tenant(), &[opened("a", 1), notice("a", 2), notice("b", 3)])
        .await;
    let sessions = Filter {
        sessions: [name("a")].into(),
        ..Filter::default()
    };
    let agents = Filter {
        agents: [name("thinker")].into(),
        ..Filter::default()
    };
    let kinds = Filter {
        kinds: [NoticeKind::News].into(),
        ..Filter::default()
    };
    let both = Filter {
        kinds: [NoticeKind::SessionOpened].into(),
        ..Filter {
            sessions: [name("b")].into(),
            ..Filter::default()
        }
    };
    assert_eq!(seqs(&host.read(None, sessions).await), [1, 2]);
    assert_eq!(seqs(&host.read(None, agents).await), [1]);
    assert_eq!(seqs(&host.read(None, kinds).await), [2, 3]);
    assert_eq!(host.read(None, both).await, []);
}

#[tokio::test]
async fn who_follows_is_woken_for_what_comes_and_for_nothing_else() {
    let host = Host::new();
    let only_b = Filter {
        sessions: [name("b")].into(),
        ..Filter::default()
    };
    let follower = host.notices.follow(&tenant(), None, only_b).await;
    let mut follower = follower.unwrap();
    let following = tokio::spawn(async move {
        let page = follower.next(10).await.unwrap();
        (page.notices[0].1.at.0, follower.at())
    });
    host.tell(tenant(), &[notice("a", 1)]).await;
    host.tell(name("other"), &[notice("b", 2)]).await;
    host.tell(tenant(), &[notice("b", 3)]).await;
    let (seq, at) = following.await.unwrap();
    assert_eq!((seq, at), (3, NoticeOffset::after(Seq(2))));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_or_too_many_goes_and_who_missed_it_is_told() {
    let kept = Kept {
        notices_max: 3,
        ms_max: 10_000,
    };
    let host = Host::on(Memory::new(), kept);
    for at in 1..=5 {
        host.tell(tenant(), &[notice("a", at * 1_000)]).await;
    }
    host.notices.sweep_tenant(&tenant()).await.unwrap();
    let left = host.read(None, Filter::default()).await;
    assert_eq!(seqs(&left), [3_000, 4_000, 5_000]);
    let gone = host.follow(Some(NoticeOffset::after(Seq(1)))).await;
    let earliest = NoticeOffset::after(Seq(2));
    assert_eq!(gone.err(), Some(NoticeError::Gone { earliest }));
    let rest = host.read(Some(earliest), Filter::default()).await;
    assert_eq!(rest, left, "from the earliest place on nothing is missing");

    // The newest stays, however old: the next one has the number after it.
    host.clock.advance_ms(1_000_000);
    host.notices.sweep_tenant(&tenant()).await.unwrap();
    assert_eq!(seqs(&host.read(None, Filter::default()).await), [5_000]);
    let host = Host::on(host.disk, kept);
    host.tell(tenant(), &[notice("a", 6_000)]).await;
    let (last, _) = *host.read(None, Filter::default()).await.last().unwrap();
    assert_eq!(last, NoticeOffset::after(Seq(6)));
}

#[tokio::test]
async fn a_tenant_that_comes_again_begins_anew() {
    let host = Host::new();
    host.tell(tenant(), &[notice("a", 1)]).await;
    host.tell(tenant(), &[notice("a", 2)]).await;
    let store = host.notices.0.store.clone();
    let cleared =
        tokio::task::spawn_blocking(move || while !store.clear_tenant(&tenant(), 1).unwrap() {});
    cleared.await.unwrap();
    host.tell(tenant(), &[notice("a", 3)]).await;
    let read = host.read(None, Filter::default()).await;
    assert_eq!(read, [(NoticeOffset::after(Seq(1)), 3)]);
}

/// A webhook that finds part of what it was to be told removed goes on with the rest, and says so.
#[tokio::test(start_paused = true)]
async fn a_webhook_that_was_away_for_too_long_counts_what_it_missed() {
    let kept = Kept {
        notices_max: 2,
        ms_max: 1_000_000,
    };
    let host = Host::on(Memory::new(), kept);
    host.notices
        .0
        .tenants
        .create(&tenant(), crate::tenants::Quotas::default())
        .await
        .unwrap();
    let stored = serde_json::json!({
        "config": {"url": "https://example.com"}, "created": 1, "secrets": [], "missed": 0,
        "cursor": NoticeOffset::after(Seq(1)),
    });
    let record = Write::Record {
        key: RecordKey {
            tenant: Some(tenant()),
            space: RecordSpace::Webhook,
            name: "w".to_owned(),
        },
        bytes: stored.to_string().into(),
    };
    write(&*host.notices.0.store, vec![record]).await.unwrap();
    for at in 1..=5 {
        host.tell(tenant(), &[notice("a", at)]).await;
    }
    host.notices.sweep_tenant(&tenant()).await.unwrap();
    let webhooks = Webhooks::new(Parts {
        notices: host.notices.clone(),
        egress: Egress::nowhere(),
        seal: Seal::of_key(&[1; 32]),
        gate: Arc::default(),
        places: crate::fair::Bounds {
            host_max: 1,
            tenant_max: 1,
        },
        bounds: Bounds {
            webhooks_max: 1,
            dead_letters_max: 1,
            patience: Patience {
                attempts_max: 9,
                backoff_ms_max: 1_000,
            },
        },
    });
    webhooks.take_up().await;
    let key = WebhookKey {
        tenant: tenant(),
        name: name("w"),
    };
    let webhook = loop {
        let webhook = webhooks.get(&key).await.unwrap().webhook;
        if webhook.failing.is_some() {
            break webhook;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    };
    // The second and third are gone; the rest was tried, where nothing may be sent.
    let at = NoticeOffset::after(Seq(3));
    assert_eq!((webhook.missed, webhook.cursor), (2, at));
    webhooks.stop().await;
}
