//! How long the server waits for one client. Pure: time is an argument, counted from the
//! connection's start.
//!
//! A connection waits for a head (from its first byte, or from the start), for the client to
//! take what is written, or for the next request. Each has its bound. While a request is being
//! answered and the client takes the answer, there is none: turns take as long as they may.

use std::time::Duration;

use crate::telemetry::Limit;

/// What HTTP/2 begins with; no request of HTTP/1 does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// Until the client takes more of what is written.
    pub write_stall: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    /// Say goodbye: take no more requests.
    Retire(Limit),
    /// Drop the connection.
    Cut(Limit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// So many bytes were those of the preface.
    Unknown(usize),
    One,
    Two,
}

/// What one connection waits for, and since when.
#[derive(Debug)]
pub(super) struct Waiting {
    patience: Patience,
    protocol: Protocol,
    head: Option<Duration>,
    idle: Option<Duration>,
    blocked: Option<Duration>,
    retired: Option<Duration>,
    /// Requests whose answer is not whole yet.
    open: usize,
}

impl Waiting {
    /// A connection whose protocol its first bytes will tell.
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            protocol: Protocol::Unknown(0),
            head: Some(Duration::ZERO),
            idle: None,
            blocked: None,
            retired: None,
            open: 0,
        }
    }

    /// TLS is agreed on, and the protocol with it.
    pub(super) fn agreed(&mut self, is_two: bool, now: Duration) {
        if is_two {
            self.speaks_two(now);
        } else {
            self.protocol = Protocol::One;
            self.head = Some(now);
        }
    }

    /// Bytes came.
    pub(super) fn read(&mut self, bytes: &[u8], now: Duration) {
        if let Protocol::Unknown(known) = self.protocol {
            let rest = &PREFACE[known..];
            let both = rest.len().min(bytes.len());
            if rest[..both] != bytes[..both] {
                self.protocol = Protocol::One;
            } else if both == rest.len() {
                self.speaks_two(now);
            } else {
                self.protocol = Protocol::Unknown(known + both);
            }
        }
        // In HTTP/2 bytes may be anything; there only requests count, and silence.
        if self.protocol == Protocol::One && self.open == 0 && !bytes.is_empty() {
            self.head.get_or_insert(now);
            self.idle = None;
        }
    }

    fn speaks_two(&mut self, now: Duration) {
        self.protocol = Protocol::Two;
        self.head = None;
        if self.open == 0 {
            self.idle = Some(now);
        }
    }

    /// The client takes what is written, or has stopped taking it.
    pub(super) fn written(&mut self, blocked: bool, now: Duration) {
        if blocked {
            self.blocked.get_or_insert(now);
        } else {
            self.blocked = None;
        }
    }

    /// A request's head is there.
    pub(super) fn opened(&mut self) {
        self.open += 1;
        self.head = None;
        self.idle = None;
    }

    /// A request's answer is whole, or given up.
    pub(super) fn closed(&mut self, now: Duration) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.idle = Some(now);
        }
    }

    /// Whether it waited long enough.
    pub(super) fn verdict(&mut self, now: Duration) -> Verdict {
        let over = |since: Option<Duration>, bound: Duration| {
            since.is_some_and(|since| now.saturating_sub(since) >= bound)
        };
        if over(self.blocked, self.patience.write_stall) {
            return Verdict::Cut(Limit::WriteStallMs);
        }
        if over(self.head, self.patience.head) {
            return Verdict::Cut(Limit::HeadMs);
        }
        if over(self.retired, self.patience.head) {
            return Verdict::Cut(Limit::IdleMs);
        }
        if self.retired.is_none() && over(self.idle, self.patience.idle) {
            self.retired = Some(now);
            return Verdict::Retire(Limit::IdleMs);
        }
        Verdict::Wait
    }

    /// How often to ask, so that no bound is passed by more than a quarter or a second.
    pub(super) fn every(patience: &Patience) -> Duration {
        let least = patience.head.min(patience.idle).min(patience.write_stall);
        (least / 4).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write_stall: Duration::from_secs(30),
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn whoever_sends_nothing_or_half_a_head_is_cut() {
        for sent in [&b""[..], b"PRI * HTTP", b"GET / HTTP/1.1\r\nhost"] {
            let mut it = Waiting::new(PATIENCE);
            it.read(sent, s(1));
            it.read(b"", s(9));
            assert_eq!(it.verdict(s(9)), Verdict::Wait, "{sent:?}");
            assert_eq!(it.verdict(s(10)), Verdict::Cut(Limit::HeadMs), "{sent:?}");
        }
    }

    #[test]
    fn dripping_bytes_does_not_move_the_bound_of_a_head() {
        let mut it = Waiting::new(PATIENCE);
        for second in 0..10 {
            it.read(b"x", s(second));
            assert_eq!(it.verdict(s(second)), Verdict::Wait);
        }
        assert_eq!(it.verdict(s(10)), Verdict::Cut(Limit::HeadMs));
    }

    #[test]
    fn an_answer_takes_as_long_as_it_takes() {
        let mut it = Waiting::new(PATIENCE);
        it.read(b"GET / HTTP/1.1\r\n\r\n", s(1));
        it.opened();
        it.read(b"a body", s(5_000));
        assert_eq!(it.verdict(s(10_000)), Verdict::Wait);
        it.closed(s(10_000));
        assert_eq!(it.verdict(s(10_059)), Verdict::Wait);
        assert_eq!(it.verdict(s(10_060)), Verdict::Retire(Limit::IdleMs));
        assert_eq!(it.verdict(s(10_069)), Verdict::Wait);
        assert_eq!(it.verdict(s(10_070)), Verdict::Cut(Limit::IdleMs));
    }

    #[test]
    fn the_next_head_has_its_own_bound() {
        let mut it = Waiting::new(PATIENCE);
        it.read(b"GET", s(1));
        it.opened();
        it.closed(s(2));
        it.read(b"G", s(50));
        assert_eq!(it.verdict(s(59)), Verdict::Wait);
        assert_eq!(it.verdict(s(60)), Verdict::Cut(Limit::HeadMs));
    }

    #[test]
    fn http_2_is_told_by_its_preface_however_it_comes() {
        for cut in 0..PREFACE.len() {
            let mut it = Waiting::new(PATIENCE);
            it.read(&PREFACE[..cut], s(0));
            it.read(&PREFACE[cut..], s(1));
            it.read(b"a ping", s(2));
            // Pings are no heads.
            assert_eq!(it.verdict(s(60)), Verdict::Wait, "{cut}");
            assert_eq!(it.verdict(s(61)), Verdict::Retire(Limit::IdleMs), "{cut}");
        }
        let mut agreed = Waiting::new(PATIENCE);
        agreed.agreed(true, s(5));
        assert_eq!(agreed.verdict(s(64)), Verdict::Wait);
        agreed.opened();
        assert_eq!(agreed.verdict(s(640)), Verdict::Wait);
        let mut one = Waiting::new(PATIENCE);
        one.agreed(false, s(5));
        assert_eq!(one.verdict(s(15)), Verdict::Cut(Limit::HeadMs));
    }

    #[test]
    fn who_does_not_read_is_cut_and_who_reads_is_not() {
        let mut it = Waiting::new(PATIENCE);
        it.opened();
        it.written(true, s(10));
        it.written(true, s(39));
        assert_eq!(it.verdict(s(39)), Verdict::Wait);
        it.written(false, s(39));
        it.written(true, s(39));
        assert_eq!(it.verdict(s(68)), Verdict::Wait);
        assert_eq!(it.verdict(s(69)), Verdict::Cut(Limit::WriteStallMs));
    }
}
