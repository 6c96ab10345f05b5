//! On a disk in memory, with a clock that moves when told to.

use futures_util::FutureExt as _;

use super::*;
use crate::store::{Fault, Memory, memory};

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a name")
}

fn open(disk: &Memory, clock: &Clock) -> Tenants {
    Tenants::open(memory(disk), clock.clone()).expect("it is read")
}

fn terms(expires_at: Option<Time>) -> Terms {
    Terms {
        rights: [Right::Read].into(),
        expires_at,
        label: None,
    }
}

async fn denied(tenants: &Tenants, text: &str) -> Option<Denied> {
    tenants.holder(text).await.expect("it reads").err()
}

#[tokio::test]
async fn a_tenant_is_made_once_and_stays() {
    let (disk, clock) = (Memory::new(), Clock::manual(Time(5)));
    let tenants = open(&disk, &clock);
    let acme = tenant("acme");
    let (record, key) = tenants
        .create(&acme, Quotas::default())
        .await
        .expect("it is made");
    assert_eq!(
        (record.standing, record.created_at),
        (Standing::Active, Time(5))
    );
    let again = tenants.create(&acme, Quotas::default()).await;
    assert!(matches!(again, Err(TenantError::Exists)));
    let holder = tenants.holder(&key.text).await.expect("it reads");
    let holder = holder.expect("it is a key");
    assert_eq!((holder.tenant(), holder.id()), (Some(&acme), key.key.id));
    assert_eq!(denied(&tenants, "ant_acme_x").await, Some(Denied::Unknown));

    let quotas = Quotas {
        sessions_max: Some(2),
        ..Quotas::default()
    };
    tenants
        .change(&acme, |record| record.quotas = quotas)
        .await
        .expect("it is there");
    let missing = tenants.change(&tenant("other"), |_| {}).await;
    assert!(matches!(missing, Err(TenantError::NotFound)));
    // The same after a loss of power.
    let tenants = open(&disk.power_loss(), &clock);
    assert_eq!(tenants.names(), std::slice::from_ref(&acme));
    assert_eq!(tenants.get(&acme).map(|record| record.quotas), Some(quotas));
    assert_eq!(denied(&tenants, &key.text).await, None);
}

#[tokio::test]
async fn nobody_gets_in_where_a_tenant_is_not_served() {
    let (disk, clock) = (Memory::new(), Clock::manual(Time(5)));
    let tenants = open(&disk, &clock);
    let acme = tenant("acme");
    let (_, key) = tenants
        .create(&acme, Quotas::default())
        .await
        .expect("it is made");
    let holder = tenants.holder(&key.text).await.unwrap().unwrap();
    let mut lapsed = Box::pin(tenants.lapsed(&holder));
    assert!(lapsed.as_mut().now_or_never().is_none());
    let stand = async |standing| {
        let change = tenants.change(&acme, |record| record.standing = standing);
        change.await.expect("it is there");
    };
    stand(Standing::Suspended).await;
    lapsed.await;
    assert_eq!(denied(&tenants, &key.text).await, Some(Denied::Suspended));
    stand(Standing::Active).await;
    assert_eq!(denied(&tenants, &key.text).await, None);

    tenants.begin_deletion(&acme).await.expect("it is there");
    tenants.begin_deletion(&acme).await.expect("it is already");
    tenants.lapsed(&holder).await;
    assert_eq!(denied(&tenants, &key.text).await, Some(Denied::Unknown));
    let made = tenants.create(&acme, Quotas::default()).await;
    assert!(matches!(made, Err(TenantError::Deleting)));
    let changed = tenants.change(&acme, |_| {}).await;
    assert!(matches!(changed, Err(TenantError::Deleting)));
    // Also for the next process.
    let tenants = open(&disk.power_loss(), &clock);
    assert_eq!(
        tenants.get(&acme).map(|it| it.standing),
        Some(Standing::Deleting)
    );
    tenants.end_deletion(&acme).await.expect("it was deleted");
    assert_eq!(tenants.list(), []);
    assert!(tenants.create(&acme, Quotas::default()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_end_when_they_are_to() {
    let (disk, clock) = (Memory::new(), Clock::manual(Time(1_000)));
    let Clock::Manual(now) = &clock else {
        unreachable!("it is manual")
    };
    let set = |time| now.store(time, std::sync::atomic::Ordering::Relaxed);
    let tenants = open(&disk, &clock);
    let acme = tenant("acme");
    tenants
        .create(&acme, Quotas::default())
        .await
        .expect("it is made");

    let short = tenants.mint_key(&acme, terms(Some(Time(2_000)))).await;
    let short = short.expect("it is minted");
    let holder = tenants.holder(&short.text).await.unwrap().unwrap();
    let mut lapsed = Box::pin(tenants.lapsed(&holder));
    assert!(lapsed.as_mut().now_or_never().is_none());
    set(1_999);
    assert_eq!(denied(&tenants, &short.text).await, None);
    set(2_000);
    assert_eq!(denied(&tenants, &short.text).await, Some(Denied::Unknown));
    lapsed.await;

    // Rotated: both hold for a while.
    let old = tenants
        .mint_key(&acme, terms(None))
        .await
        .expect("it is minted");
    let rotated = tenants.rotate_key(&acme, &old.key.id, 500).await;
    let (new, ending) = rotated.expect("it is rotated");
    assert_eq!(ending.expires_at, Some(Time(2_500)));
    assert_eq!(
        (new.key.expires_at, &new.key.rights),
        (None, &old.key.rights)
    );
    for text in [&old.text, &new.text] {
        assert_eq!(denied(&tenants, text).await, None);
    }
    set(2_500);
    assert_eq!(denied(&tenants, &old.text).await, Some(Denied::Unknown));
    assert_eq!(denied(&tenants, &new.text).await, None);
    let again = tenants.rotate_key(&acme, &old.key.id, 500).await;
    assert!(matches!(again, Err(TenantError::NoSuchKey)));

    // Revoked: at once, for those who are in too.
    let holder = tenants.holder(&new.text).await.unwrap().unwrap();
    let mut lapsed = Box::pin(tenants.lapsed(&holder));
    assert!(lapsed.as_mut().now_or_never().is_none());
    let other = tenant("other");
    assert!(
        !tenants.revoke_key(&other, &new.key.id).await.unwrap(),
        "another tenant's"
    );
    assert!(tenants.revoke_key(&acme, &new.key.id).await.unwrap());
    assert!(!tenants.revoke_key(&acme, &new.key.id).await.unwrap());
    lapsed.await;
    assert_eq!(denied(&tenants, &new.text).await, Some(Denied::Unknown));
    // The next key takes those away that are over.
    tenants
        .mint_key(&acme, terms(None))
        .await
        .expect("it is minted");
    let left = tenants.keys(&acme).await.expect("it reads");
    assert_eq!(left.len(), 2, "the first and the newest: {left:?}");
}

#[tokio::test]
async fn there_are_so_many_keys_and_no_more() {
    let (disk, clock) = (Memory::new(), Clock::manual(Time(1)));
    let tenants = open(&disk, &clock);
    let acme = tenant("acme");
    tenants
        .create(&acme, Quotas::default())
        .await
        .expect("it is made");
    let writes = (1..KEYS_MAX).map(|n| Write::Record {
        key: RecordKey {
            tenant: Some(acme.clone()),
            space: RecordSpace::Key,
            name: Digest::of(&n.to_be_bytes()).to_string(),
        },
        bytes: bytes::Bytes::from_static(br#"{"rights":["read"],"created_at":0}"#),
    });
    crate::store::write(&*tenants.0.store, writes.collect())
        .await
        .expect("they are written");
    let one_more = tenants.mint_key(&acme, terms(None)).await;
    assert!(matches!(one_more, Err(TenantError::TooManyKeys)));
}

/// A key that could not be taken back still opens, and one that could not be kept never does.
#[tokio::test]
async fn what_is_not_durable_has_not_happened() {
    let (disk, clock) = (Memory::new(), Clock::manual(Time(1)));
    let tenants = open(&disk, &clock);
    let acme = tenant("acme");
    let (_, key) = tenants
        .create(&acme, Quotas::default())
        .await
        .expect("it is made");
    disk.inject(Fault::FailSync(disk.syncs() + 1));
    let failed = tenants
        .change(&acme, |record| record.standing = Standing::Suspended)
        .await;
    assert!(matches!(failed, Err(TenantError::Commit(_))));
    assert_eq!(denied(&tenants, &key.text).await, None);
    assert!(tenants.revoke_key(&acme, &key.key.id).await.is_err());
    assert_eq!(denied(&tenants, &key.text).await, None);
}
