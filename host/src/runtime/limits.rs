//! What one turn may use, and the counting of its memory. Its time is counted in `cpu`.

use std::collections::BTreeMap;
use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::bus;

/// Time between two looks at a running guest, after each of which others go first: what somebody waits for
/// a core on a host whose guests all compute (docs/performance.md), and far above the cost of a look.
pub const TICK: Duration = Duration::from_millis(2);

/// What is counted of the time between two looks at most: a call of the host takes longer than a tick if it
/// moves megabytes; what is longer than this was not spent on the guest.
pub const COUNTED_MAX: Duration = Duration::from_millis(20);

/// Core instances, memories and tables of one component: componentize-js and
/// componentize-py make under ten of each.
pub const INSTANCES_MAX: u32 = 32;
pub const MEMORIES_MAX: u32 = 4;
pub const TABLES_MAX: u32 = 16;
/// A JavaScript or Python engine needs 100,000 (measured; design/performance).
pub const TABLE_ELEMENTS_MAX: usize = 100_000;

/// A replay may compute so many times what a turn may: it is the host's doing.
pub const REPLAY_CPU_FACTOR: u32 = 4;

/// Bounds of one turn. Numbers are the design's table of limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnLimits {
    pub memory_bytes_max: u64,
    pub cpu_ms_max: u64,
    pub turn_ms_max: u64,
    pub host_calls_max: u64,
    pub host_call_bytes_max: usize,
    /// What an attempt of the turn writes into its session's journal.
    pub written_bytes_max: u64,
    pub handles_max: usize,
    pub reply_bytes_max: u64,
    pub message_bytes_max: usize,
    pub slot_bytes_max: usize,
    pub slots_max: usize,
    pub mailbox_messages_max: usize,
    /// Calls so many calls deep are refused.
    pub call_depth_max: u32,
    /// Of a question to people, its choices counted.
    pub question_bytes_max: usize,
    pub question_choices_max: usize,
    /// Questions of one turn.
    pub questions_turn_max: u32,
    /// How long people may take to answer one.
    pub question_ms_max: u64,
    pub http_calls_max: u64,
    pub http_ms_max: u64,
    pub http_request_bytes_max: usize,
    pub http_response_bytes_max: usize,
    pub http_header_bytes_max: usize,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 128 * 1024 * 1024,
            cpu_ms_max: 2_000,
            turn_ms_max: 600_000,
            host_calls_max: 100_000,
            host_call_bytes_max: 4 * 1024 * 1024,
            written_bytes_max: 256 * 1024 * 1024,
            handles_max: 1_000,
            reply_bytes_max: 1024 * 1024,
            message_bytes_max: 1024 * 1024,
            slot_bytes_max: 4 * 1024 * 1024,
            slots_max: 256,
            mailbox_messages_max: 10_000,
            call_depth_max: bus::DEPTH_MAX,
            question_bytes_max: 16 * 1024,
            question_choices_max: 32,
            questions_turn_max: 100,
            question_ms_max: 30 * 24 * 60 * 60 * 1_000,
            http_calls_max: 1_000,
            http_ms_max: 60_000,
            http_request_bytes_max: 1024 * 1024,
            http_response_bytes_max: 1024 * 1024,
            http_header_bytes_max: 16 * 1024,
        }
    }
}

impl TurnLimits {
    /// What is said of a turn that has.
    pub fn took_too_long(turn_ms_max: u64) -> String {
        format!("the turn took longer than {turn_ms_max} ms")
    }

    /// The limits by name, where they are not the built-in ones: what a turn pins. The built-in
    /// numbers are part of that form.
    pub fn pinned(&self) -> BTreeMap<String, u64> {
        let mut built_in = Self::default();
        let mut own = self.clone();
        let pairs = own.by_name().into_iter().zip(built_in.by_name());
        pairs
            .filter_map(|((name, own), (_, built_in))| {
                let own = own.get();
                (own != built_in.get()).then(|| (name.to_owned(), own))
            })
            .collect()
    }

    /// The limits that a turn pinned.
    pub fn of_pinned(pinned: &BTreeMap<String, u64>) -> Self {
        let mut limits = Self::default();
        for (name, limit) in limits.by_name() {
            if let Some(value) = pinned.get(name) {
                limit.set(*value);
            }
        }
        limits
    }

    fn by_name(&mut self) -> [(&'static str, Number<'_>); 22] {
        [
            ("memory_bytes_max", Number::Long(&mut self.memory_bytes_max)),
            ("cpu_ms_max", Number::Long(&mut self.cpu_ms_max)),
            ("turn_ms_max", Number::Long(&mut self.turn_ms_max)),
            ("host_calls_max", Number::Long(&mut self.host_calls_max)),
            (
                "host_call_bytes_max",
                Number::Size(&mut self.host_call_bytes_max),
            ),
            (
                "written_bytes_max",
                Number::Long(&mut self.written_bytes_max),
            ),
            ("handles_max", Number::Size(&mut self.handles_max)),
            ("reply_bytes_max", Number::Long(&mut self.reply_bytes_max)),
            (
                "message_bytes_max",
                Number::Size(&mut self.message_bytes_max),
            ),
            ("slot_bytes_max", Number::Size(&mut self.slot_bytes_max)),
            ("slots_max", Number::Size(&mut self.slots_max)),
            (
                "mailbox_messages_max",
                Number::Size(&mut self.mailbox_messages_max),
            ),
            ("call_depth_max", Number::Short(&mut self.call_depth_max)),
            (
                "question_bytes_max",
                Number::Size(&mut self.question_bytes_max),
            ),
            (
                "question_choices_max",
                Number::Size(&mut self.question_choices_max),
            ),
            (
                "questions_turn_max",
                Number::Short(&mut self.questions_turn_max),
            ),
            ("question_ms_max", Number::Long(&mut self.question_ms_max)),
            ("http_calls_max", Number::Long(&mut self.http_calls_max)),
            ("http_ms_max", Number::Long(&mut self.http_ms_max)),
            (
                "http_request_bytes_max",
                Number::Size(&mut self.http_request_bytes_max),
            ),
            (
                "http_response_bytes_max",
                Number::Size(&mut self.http_response_bytes_max),
            ),
            (
                "http_header_bytes_max",
                Number::Size(&mut self.http_header_bytes_max),
            ),
        ]
    }
}

enum Number<'a> {
    Short(&'a mut u32),
    Long(&'a mut u64),
    Size(&'a mut usize),
}

impl Number<'_> {
    fn get(&self) -> u64 {
        match self {
            Self::Short(number) => u64::from(**number),
            Self::Long(number) => **number,
            Self::Size(number) => **number as u64,
        }
    }

    fn set(self, value: u64) {
        match self {
            Self::Short(number) => *number = u32::try_from(value).unwrap_or(u32::MAX),
            Self::Long(number) => *number = value,
            Self::Size(number) => *number = usize::try_from(value).unwrap_or(usize::MAX),
        }
    }
}

/// Sums linear memory over the whole instance; wasmtime's own limits count each memory alone.
#[derive(Debug)]
pub struct Limiter {
    bytes: u64,
    bytes_max: u64,
    refused: bool,
}

impl Limiter {
    pub fn new(limits: &TurnLimits) -> Self {
        Self {
            bytes: 0,
            bytes_max: limits.memory_bytes_max,
            refused: false,
        }
    }

    /// Whether the guest asked for more than it may have.
    pub fn refused(&self) -> bool {
        self.refused
    }
}

impl ResourceLimiter for Limiter {
    /// Answering no makes the guest's own allocation fail, the same way in every run.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let sum = self.bytes.saturating_add(more);
        let fits = sum <= self.bytes_max;
        if fits {
            self.bytes = sum;
        } else {
            self.refused = true;
        }
        Ok(fits)
    }

    /// The host has no memory although the guest may have it: the run is not repeatable, so it ends.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_pinned_by_name_where_they_differ() {
        assert!(TurnLimits::default().pinned().is_empty());
        let mut limits = TurnLimits::default();
        for (at, (_, limit)) in limits.by_name().into_iter().enumerate() {
            limit.set(at as u64);
        }
        assert_eq!(limits.pinned().len(), TurnLimits::default().by_name().len());
        assert_eq!(TurnLimits::of_pinned(&limits.pinned()), limits);
    }

    #[test]
    fn memories_are_summed_and_a_refusal_costs_nothing() {
        let mut limiter = Limiter::new(&TurnLimits {
            memory_bytes_max: 100,
            ..TurnLimits::default()
        });
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.memory_growing(60, 61, None).unwrap());
        assert!(!limiter.memory_growing(0, usize::MAX, None).unwrap());
    }
}
