//! A session's journal as it is read from outside, put together again.
//!
//! It is folded here a second time, by other code than the host's, so that what the host
//! believes of itself is not taken as proof. What breaks a rule of order is noted in `broken`.

use std::collections::BTreeMap;

use serde_json::Value;

/// Kinds that clients are not shown.
const HIDDEN: [&str; 6] = [
    "called",
    "returned",
    "streamed",
    "observed",
    "slot-locked",
    "slot-released",
];

pub(super) struct Call {
    pub(super) target: String,
    /// Digest of the request.
    pub(super) request: String,
    pub(super) time: String,
    pub(super) streamed: String,
    pub(super) returned: Option<Returned>,
    /// How often the host said that it makes the call again.
    pub(super) retried: usize,
}

pub(super) struct Returned {
    pub(super) ok: bool,
    pub(super) time: String,
}

pub(super) struct Ended {
    pub(super) at: u64,
    pub(super) outcome: String,
    pub(super) error: Option<String>,
}

pub(super) struct Turn {
    pub(super) agent: String,
    pub(super) started: u64,
    pub(super) inputs: Vec<String>,
    /// Everything it said.
    pub(super) text: String,
    /// The entry with its first words.
    pub(super) spoke: Option<u64>,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) commits: u32,
    pub(super) interrupted: Option<u64>,
    /// How often a later process went on with it.
    pub(super) resumed: usize,
    /// Whether it did something since, and how many attempts in a row before did not.
    progressed: bool,
    barren: u32,
    pub(super) ended: Option<Ended>,
}

pub(super) struct Message {
    pub(super) at: u64,
    /// A person's; otherwise an agent sent it.
    pub(super) author: Option<String>,
    pub(super) body: Value,
    /// Turns that were given it and are done with it.
    pub(super) consumed: Vec<String>,
    pub(super) set_aside: bool,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) holder: Option<String>,
    /// Versions with the turns that wrote them.
    pub(super) versions: BTreeMap<u64, String>,
}

#[derive(Default)]
pub(super) struct Book {
    pub(super) session: String,
    pub(super) entries: Vec<Value>,
    /// Of these, what clients are shown, as they are shown it.
    pub(super) events: Vec<Value>,
    pub(super) turns: BTreeMap<String, Turn>,
    pub(super) messages: BTreeMap<String, Message>,
    pub(super) slots: BTreeMap<String, Slot>,
    pub(super) broken: Vec<String>,
}

/// The number in an offset.
pub(super) fn seq(offset: &Value) -> u64 {
    let digits = offset.as_str().and_then(|offset| offset.get(..16));
    digits.and_then(|it| it.parse().ok()).unwrap_or(0)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Book {
    pub(super) fn new(session: &str) -> Self {
        Self {
            session: session.to_owned(),
            ..Self::default()
        }
    }

    /// The offset after the newest entry.
    pub(super) fn offset(&self) -> String {
        let last = self.entries.last().map(|entry| text(&entry["offset"]));
        last.unwrap_or_else(|| "-1".to_owned())
    }

    /// The bodies of the messages that a turn was given, in order.
    pub(super) fn bodies(&self, turn: &Turn) -> Vec<&Value> {
        let messages = turn.inputs.iter().filter_map(|id| self.messages.get(id));
        messages.map(|message| &message.body).collect()
    }

    /// The next entry.
    pub(super) fn take(&mut self, entry: Value) {
        let at = seq(&entry["offset"]);
        if at != self.entries.len() as u64 + 1 {
            self.broken.push(format!("entry {at} does not follow"));
        }
        let before = self.entries.last().map(|it| text(&it["time"]));
        if before.is_some_and(|before| before > text(&entry["time"])) {
            self.broken.push(format!("time goes back at entry {at}"));
        }
        if let Err(why) = self.fold(at, &entry) {
            self.broken.push(format!("entry {at}: {why}: {entry}"));
        }
        if !HIDDEN.contains(&entry["kind"].as_str().unwrap_or_default()) {
            let mut event = entry.clone();
            if let Value::Object(fields) = &mut event {
                fields.remove("private");
            }
            self.events.push(event);
        }
        self.entries.push(entry);
    }

    fn fold(&mut self, at: u64, entry: &Value) -> Result<(), &'static str> {
        let id = text(&entry["turn"]);
        // What the guest does has a number or is a word; the host's own entries are neither.
        let is_guests = entry["n"].is_u64() && entry["kind"] != "retried";
        if let Some(turn) = self.turns.get_mut(&id) {
            turn.progressed |= is_guests || entry["kind"] == "spoke";
        }
        match entry["kind"].as_str().unwrap_or_default() {
            "message-received" | "message-sent" => self.message(at, entry),
            "message-set-aside" => {
                let message = self.messages.get_mut(&text(&entry["message"]));
                message.ok_or("there is no such message")?.set_aside = true;
                Ok(())
            }
            "turn-started" => self.started(at, id, entry),
            "turn-ended" => self.ended(at, &id, entry),
            "interrupt-requested" => {
                self.open(&id)?.interrupted = Some(at);
                Ok(())
            }
            kind @ ("slot-locked" | "slot-committed" | "slot-released") => {
                if !id.is_empty() {
                    self.open(&id)?;
                }
                self.slot(kind, at, &id, entry)
            }
            kind @ ("called" | "streamed" | "returned" | "retried" | "spoke" | "observed") => {
                self.open(&id)?.next(kind, at, entry)
            }
            _ => Ok(()),
        }
    }

    /// The turn, if it may still do something.
    fn open(&mut self, id: &str) -> Result<&mut Turn, &'static str> {
        let turn = self.turns.get_mut(id).ok_or("there is no such turn")?;
        if turn.ended.is_some() {
            return Err("the turn has ended");
        }
        if turn.interrupted.is_some() {
            return Err("the turn is interrupted");
        }
        Ok(turn)
    }

    fn message(&mut self, at: u64, entry: &Value) -> Result<(), &'static str> {
        let message = Message {
            at,
            author: entry["author"].as_str().map(str::to_owned),
            body: entry["body"].clone(),
            consumed: Vec::new(),
            set_aside: false,
        };
        match self.messages.insert(text(&entry["message"]), message) {
            None => Ok(()),
            Some(_) => Err("the message is there already"),
        }
    }

    fn started(&mut self, at: u64, id: String, entry: &Value) -> Result<(), &'static str> {
        let agent = text(&entry["agent"]);
        let runs = |turn: &Turn| turn.agent == agent && turn.ended.is_none();
        if self.turns.values().any(runs) {
            return Err("the agent runs another turn");
        }
        let inputs = entry["inputs"].as_array().into_iter().flatten();
        let inputs: Vec<String> = inputs.map(text).collect();
        if inputs.iter().any(|input| self.is_done(input)) {
            return Err("it takes a message that is done with");
        }
        let turn = Turn {
            agent,
            started: at,
            inputs,
            text: String::new(),
            spoke: None,
            calls: BTreeMap::new(),
            commits: 0,
            interrupted: None,
            resumed: 0,
            progressed: false,
            barren: 0,
            ended: None,
        };
        match self.turns.insert(id, turn) {
            None => Ok(()),
            Some(_) => Err("the turn was started before"),
        }
    }

    fn is_done(&self, message: &str) -> bool {
        let message = self.messages.get(message);
        message.is_none_or(|message| message.set_aside || !message.consumed.is_empty())
    }

    fn ended(&mut self, at: u64, id: &str, entry: &Value) -> Result<(), &'static str> {
        let turn = self.turns.get_mut(id).ok_or("there is no such turn")?;
        let outcome = text(&entry["outcome"]);
        if turn.interrupted.is_some() && outcome != "interrupted" {
            return Err("it was interrupted");
        }
        let error = entry["error"]["code"].as_str().map(str::to_owned);
        if error.as_deref() == Some("poison") && (turn.progressed || turn.barren < 2) {
            return Err("it is taken for poison and went on");
        }
        let ended = Ended { at, outcome, error };
        if turn.ended.replace(ended).is_some() {
            return Err("the turn ended before");
        }
        for slot in self.slots.values_mut() {
            slot.holder.take_if(|holder| holder == id);
        }
        for input in entry["inputs"].as_array().into_iter().flatten() {
            if input["fate"] == "consumed" {
                let message = self.messages.get_mut(&text(&input["message"]));
                let message = message.ok_or("there is no such message")?;
                message.consumed.push(id.to_owned());
            }
        }
        Ok(())
    }

    fn slot(&mut self, kind: &str, at: u64, turn: &str, entry: &Value) -> Result<(), &'static str> {
        let slot = self.slots.entry(text(&entry["slot"])).or_default();
        match (kind, &slot.holder) {
            ("slot-locked", None) => slot.holder = Some(turn.to_owned()),
            ("slot-locked", Some(_)) => return Err("two turns hold the slot"),
            (_, holder) if holder.as_deref().unwrap_or_default() != turn => {
                return Err("it does not hold it");
            }
            ("slot-released", _) => slot.holder = None,
            _ => {
                slot.holder = None;
                slot.versions.insert(at, turn.to_owned());
                if let Some(turn) = self.turns.get_mut(turn) {
                    turn.commits += 1;
                }
            }
        }
        Ok(())
    }
}

impl Turn {
    /// The number of its first call that leaves the host.
    pub(super) fn first_call(&self) -> u64 {
        self.calls.keys().next().copied().unwrap_or(0)
    }

    /// Its next entry.
    fn next(&mut self, kind: &str, at: u64, entry: &Value) -> Result<(), &'static str> {
        let n = entry["n"].as_u64();
        let call = n.and_then(|n| self.calls.get_mut(&n));
        match (kind, call, n) {
            ("observed", ..) => Ok(()),
            ("spoke", ..) => {
                if entry["at"].as_u64() != Some(self.text.len() as u64) {
                    return Err("words are missing or come twice");
                }
                self.text
                    .push_str(entry["text"].as_str().unwrap_or_default());
                self.spoke.get_or_insert(at);
                Ok(())
            }
            ("called", None, Some(n)) => {
                let call = Call {
                    target: text(&entry["target"]),
                    request: text(&entry["request"]),
                    time: text(&entry["time"]),
                    streamed: String::new(),
                    returned: None,
                    retried: 0,
                };
                self.calls.insert(n, call);
                Ok(())
            }
            ("streamed", Some(call), _) if call.returned.is_none() => {
                let pieces = entry["pieces"].as_array().into_iter().flatten();
                pieces
                    .filter_map(|piece| piece["text"].as_str())
                    .for_each(|text| call.streamed.push_str(text));
                Ok(())
            }
            ("returned", Some(call), _) if call.returned.is_none() => {
                let (ok, time) = (entry["result"] == "ok", text(&entry["time"]));
                call.returned = Some(Returned { ok, time });
                Ok(())
            }
            ("retried", None, None) => {
                self.resumed += 1;
                self.barren = if self.progressed { 0 } else { self.barren + 1 };
                self.progressed = false;
                Ok(())
            }
            ("retried", Some(call), _) if call.returned.is_none() => {
                call.retried += 1;
                Ok(())
            }
            _ => Err("no such call is open"),
        }
    }
}
