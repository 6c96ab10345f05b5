//! What agents print and log: a bounded ring per agent, for their developers.
//!
//! Not part of any session: it may drop lines and survives no restart.
//! Invariant: nothing here waits, and no agent's output takes another's room.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::clock::Time;
use crate::id::{AgentName, SessionId, TenantId, TurnId};

/// Lines kept per agent, beside the bound on their bytes.
const LINES_MAX: usize = 1_000;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Lines a follower may lag behind before it misses some.
const FOLLOW_LINES: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Stdout,
    Stderr,
    /// The `log` interface.
    Log,
    /// The host, about a turn that went wrong.
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub number: u64,
    #[serde(skip)]
    pub time: Time,
    pub session: SessionId,
    pub turn: TurnId,
    pub source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<&'static str>,
    pub text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

impl Line {
    fn bytes(&self) -> usize {
        self.text.len()
            + self
                .fields
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>()
    }
}

#[derive(Debug)]
struct Ring {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    last: u64,
    sender: broadcast::Sender<Arc<Line>>,
}

/// All agents' logs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    rings: Arc<Mutex<HashMap<(TenantId, AgentName), Ring>>>,
    /// Of one agent; the oldest lines go first.
    bytes_max: usize,
}

impl Logs {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            rings: Arc::default(),
            bytes_max,
        }
    }

    /// Keep a line; `number` is given here.
    pub fn push(&self, tenant: &TenantId, agent: &AgentName, mut line: Line) {
        if line.text.len() > LINE_BYTES_MAX {
            line.text
                .truncate(line.text.floor_char_boundary(LINE_BYTES_MAX));
        }
        let mut rings = self
            .rings
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let ring = rings
            .entry((tenant.clone(), agent.clone()))
            .or_insert_with(Ring::new);
        ring.last += 1;
        line.number = ring.last;
        ring.bytes += line.bytes();
        let line = Arc::new(line);
        ring.lines.push_back(line.clone());
        while ring.lines.len() > LINES_MAX || ring.bytes > self.bytes_max {
            ring.bytes -= ring.lines.pop_front().map_or(0, |line| line.bytes());
        }
        // No follower is fine.
        let _ = ring.sender.send(line);
    }

    /// The lines that are kept, and those to come.
    pub fn read(
        &self,
        tenant: &TenantId,
        agent: &AgentName,
    ) -> (Vec<Arc<Line>>, broadcast::Receiver<Arc<Line>>) {
        let mut rings = self
            .rings
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let ring = rings
            .entry((tenant.clone(), agent.clone()))
            .or_insert_with(Ring::new);
        (
            ring.lines.iter().cloned().collect(),
            ring.sender.subscribe(),
        )
    }

    /// Forget the lines of all agents of a tenant.
    pub fn forget_tenant(&self, tenant: &TenantId) {
        let mut rings = self
            .rings
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        rings.retain(|(owner, _), _| owner != tenant);
    }

    /// Forget an agent's lines.
    pub fn forget(&self, tenant: &TenantId, agent: &AgentName) {
        let mut rings = self
            .rings
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        rings.remove(&(tenant.clone(), agent.clone()));
    }
}

impl Ring {
    fn new() -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            last: 0,
            sender: broadcast::Sender::new(FOLLOW_LINES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line {
            number: 0,
            time: Time(0),
            session: SessionId::new("s").unwrap(),
            turn: TurnId::new("r.t0.a").unwrap(),
            source: Source::Stdout,
            level: None,
            text: text.into(),
            fields: Vec::new(),
        }
    }

    #[test]
    fn the_ring_is_bounded_and_numbers_go_on() {
        const BYTES_MAX: usize = 1024 * 1024;
        let logs = Logs::new(BYTES_MAX);
        let (tenant, agent) = (TenantId::new("t").unwrap(), AgentName::new("a").unwrap());
        for _ in 0..LINES_MAX + 5 {
            logs.push(&tenant, &agent, line("x"));
        }
        let (lines, _) = logs.read(&tenant, &agent);
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[0].number, 6);
        for _ in 0..BYTES_MAX / LINE_BYTES_MAX + 1 {
            logs.push(&tenant, &agent, line(&"y".repeat(LINE_BYTES_MAX * 2)));
        }
        let (lines, _) = logs.read(&tenant, &agent);
        assert_eq!(lines.len(), BYTES_MAX / LINE_BYTES_MAX);
        assert!(lines.iter().all(|line| line.text.len() == LINE_BYTES_MAX));
        let other = TenantId::new("u").unwrap();
        assert!(logs.read(&other, &agent).0.is_empty());
    }
}
