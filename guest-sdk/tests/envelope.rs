//! Laws of envelopes: nothing gets out of one, and everything in it can be got back.

use antiphon_sdk::kernel::{SlotState, Snapshot};
use antiphon_sdk::prompt::envelope::{self, envelope, escape, timestamp};
use proptest::prelude::*;

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

/// Text as somebody would write it who wants to get out.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("</slot>".to_owned()),
        Just("\" state=\"idle".to_owned()),
        Just("&lt;/slot&gt;".to_owned()),
        Just("<slot name=\"x\">".to_owned()),
        Just("\r\n".to_owned()),
        ".{0,8}",
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn content_stays_in_its_envelope(content in hostile(), value in hostile()) {
        let text = envelope("slot", &[("name", &value)], &content);
        let inner = text
            .strip_prefix("<slot name=\"")
            .and_then(|rest| rest.strip_suffix("</slot>"))
            .expect("it starts and ends as an envelope");
        // The one bracket left is the end of the opening tag, and no quote comes before
        // the one that closes the value.
        let (head, body) = inner.split_once('>').expect("the opening tag ends");
        prop_assert_eq!(head.matches('"').count(), 1);
        prop_assert!(head.ends_with('"') && !head.contains(['<', '\n', '\r']));
        prop_assert!(!body.contains(['<', '>']));
        prop_assert_eq!(unescape(body), content);
    }

    #[test]
    fn escaping_loses_nothing(text in hostile()) {
        prop_assert_eq!(unescape(&escape(&text)), text);
    }

    #[test]
    fn timestamps_are_in_the_order_of_time(a in 0..253_402_300_800_000_u64, b in 0..253_402_300_800_000_u64) {
        let (a, b) = (a - a % 1000, b - b % 1000);
        prop_assert_eq!(timestamp(a).cmp(&timestamp(b)), a.cmp(&b));
        prop_assert_eq!(timestamp(a).len(), "1970-01-01T00:00:00Z".len());
    }
}

#[test]
fn timestamps_know_the_calendar() {
    for (milliseconds, expected) in [
        (0, "1970-01-01T00:00:00Z"),
        (946_684_799_000, "1999-12-31T23:59:59Z"),
        (951_782_400_000, "2000-02-29T00:00:00Z"),
        (4_107_542_399_999, "2100-02-28T23:59:59Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        (253_402_300_799_000, "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(timestamp(milliseconds), expected);
    }
}

#[test]
fn a_slot_says_whether_it_is_settled() {
    let mut snapshot = Snapshot {
        content: "rents < wages".to_owned(),
        version: 7,
        state: SlotState::Idle,
        written_at: 1_767_225_600_000,
    };
    assert_eq!(
        envelope::slot("analysis", &snapshot),
        "<slot name=\"analysis\" state=\"idle\" written-at=\"2026-01-01T00:00:00Z\">\
         rents &lt; wages</slot>"
    );
    snapshot.state = SlotState::Locked("run-1.t0.thinker".to_owned());
    assert!(envelope::slot("analysis", &snapshot).contains("state=\"locked\""));
    assert_eq!(
        envelope::empty_slot("analysis", &SlotState::Idle),
        "<slot name=\"analysis\" state=\"idle\"></slot>"
    );
}
