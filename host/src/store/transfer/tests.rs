//! Stores that are moved, whole and damaged.

use bytes::Bytes;

use super::*;
use crate::store::contract::{Owner, append, frame, id, noise, spoke, write};
use crate::store::{Memory, Store, Write, check, memory};

fn filled() -> (Memory, std::sync::Arc<dyn Store>) {
    let disk = Memory::new();
    let store = memory(&disk);
    for (tenant, session) in [("a", "s"), ("a", "s0"), ("ab", "s")] {
        let mut owner = Owner::of(&*store, &id(tenant, session));
        append(&*store, &mut owner, frame(1, 3));
        append(&*store, &mut owner, frame(4, 1));
        append(&*store, &mut owner, Frame::of(&[spoke(5, &noise(45_000))]));
        for bytes in [&b"text"[..], b"\xff\0 no text"] {
            let value = Write::Value {
                journal: owner.journal.clone(),
                digest: Digest::of(bytes),
                bytes: Bytes::from(bytes),
            };
            write(&*store, vec![value]);
        }
    }
    for tenant in [None, Some(TenantId::new("a").unwrap())] {
        let key = RecordKey {
            tenant,
            space: RecordSpace::Agent,
            name: "echo".into(),
        };
        let bytes = "{\"n\":1}".into();
        write(&*store, vec![Write::Record { key, bytes }]);
    }
    (disk, store)
}

fn exported(engine: &dyn Engine) -> String {
    let mut out = Vec::new();
    export_engine(engine, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn all(engine: &dyn Engine) -> Vec<(Bytes, Bytes)> {
    let range = keys::everything();
    let rows = engine.range(&range.start, &range.end, Order::Forward);
    rows.map(Result::unwrap).collect()
}

#[test]
fn an_export_comes_back_byte_for_byte() {
    let (disk, store) = filled();
    store.close();
    let text = exported(&disk);
    let copy = Memory::new();
    import_engine(&copy, text.as_bytes()).unwrap();
    assert_eq!(all(&copy), all(&disk));
    assert_eq!(exported(&copy), text);
    let report = check::check_engine(&copy).unwrap();
    assert_eq!((report.journals, report.entries), (3, 15));
    assert_eq!((report.values, report.records), (6, 2));
    assert_eq!(report.problems, []);
    let again = import_engine(&copy, text.as_bytes());
    assert!(matches!(again, Err(ImportError::NotEmpty)));
}

#[test]
fn a_damaged_export_is_refused() {
    let (disk, store) = filled();
    store.close();
    let text = exported(&disk);
    let lines: Vec<&str> = text.lines().collect();
    for gone in 0..lines.len() {
        let mut some = lines.clone();
        some.remove(gone);
        let result = import_engine(&Memory::new(), some.join("\n").as_bytes());
        assert!(
            matches!(result, Err(ImportError::Malformed { .. })),
            "without line {gone}: {result:?}"
        );
    }
    let other = text.replace("\"text\":\"text\"", "\"text\":\"next\"");
    assert!(import_engine(&Memory::new(), other.as_bytes()).is_err());
}

/// What cannot be read is moved as it is, and told of.
#[test]
fn a_damaged_store_is_exported_whole() {
    let (disk, store) = filled();
    store.close();
    for (key, value) in all(&disk) {
        for missing in [false, true] {
            let (mut flipped, at) = (value.to_vec(), value.len() - 1);
            flipped[at] ^= 1;
            let new = (!missing).then_some(flipped);
            let old = Some(value.clone());
            let changes = Changes::from([(key.to_vec(), Change { new, old })]);
            disk.commit(&changes).unwrap();
            let mut out = Vec::new();
            let damaged = export_engine(&disk, &mut out).unwrap();
            let copy = Memory::new();
            import_engine(&copy, &out[..]).unwrap();
            assert_eq!(all(&copy), all(&disk));
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.matches("{\"damaged\":").count() as u64, damaged);
            assert!(damaged > 0 || missing, "{}", key.escape_ascii());
            let gap = check::check_engine(&disk).unwrap().problem_count > 0;
            assert_eq!(damaged > 0 || text.contains("{\"missing\":"), gap);
            let new = Some(value.to_vec());
            let back = Changes::from([(key.to_vec(), Change { new, old: None })]);
            disk.commit(&back).unwrap();
        }
    }
}

#[test]
fn entries_before_the_damage_can_be_read() {
    let (disk, store) = filled();
    store.close();
    let stem = keys::frame(&id("a", "s"), Seq(1));
    let value = disk.get(&stem.part(0)).unwrap().unwrap();
    let (mut flipped, at) = (value.to_vec(), value.len() - 1);
    flipped[at] ^= 1;
    let (new, old) = (Some(flipped), Some(value));
    disk.commit(&Changes::from([(stem.part(0), Change { new, old })]))
        .unwrap();
    let text = exported(&disk);
    let line = text
        .lines()
        .find(|line| line.starts_with("{\"damaged\":"))
        .unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["damaged"]["session"], "s");
    assert_eq!(line["damaged"]["seq"], 1);
    let seqs: Vec<&serde_json::Value> = line["damaged"]["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["seq"])
        .collect();
    assert_eq!(seqs, [1, 2], "of three");
}

#[test]
fn the_check_finds_every_damaged_row() {
    let (disk, store) = filled();
    store.close();
    for (key, value) in all(&disk) {
        for missing in [false, true] {
            let (mut flipped, at) = (value.to_vec(), value.len() - 1);
            flipped[at] ^= 1;
            let new = (!missing).then_some(flipped);
            let change = |new, old: &Bytes| {
                let old = Some(old.clone());
                Changes::from([(key.to_vec(), Change { new, old })])
            };
            disk.commit(&change(new, &value)).unwrap();
            let report = check::check_engine(&disk).unwrap();
            let stem = keys::split(&key).unwrap().0;
            let seen = report.problem_count > 0 || !report.half_removed.is_empty();
            // A whole record or value that is gone, or the last frame, leaves no trace.
            let whole = row::parts(&value) == Ok(1);
            let may_vanish = match keys::parse(stem).unwrap() {
                Row::Frame(_, first) => first == Seq(5),
                _ => true,
            };
            assert!(
                seen || missing && whole && may_vanish,
                "{} missing: {missing}",
                key.escape_ascii()
            );
            disk.commit(&change(Some(value.to_vec()), &value)).unwrap();
        }
    }
    assert_eq!(check::check_engine(&disk).unwrap().problem_count, 0);
}
