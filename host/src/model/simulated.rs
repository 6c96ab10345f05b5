//! A provider inside the process, for tests on virtual time: what it is asked says what it does.
//!
//! A word is a token. It begins to answer after a millisecond, with the words of the last user message, one a
//! millisecond. `BUSY` refuses the first attempt of a call, `CUT` ends the answer there, `BREAK` that of the first attempt, `SLOW` waits a second. While
//! it is gone, nobody can connect to it. Asked to go on with an answer that broke off, it says the last word of that
//! again, and the rest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::{Delta, Fault, Finish, Message, Request, Usage};

/// Before it answers, and before each word.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// What the provider saw, of every process that asked it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    made: Arc<Mutex<BTreeMap<String, u32>>>,
    is_gone: Arc<AtomicBool>,
}

impl Log {
    /// How often each call was made, by its key.
    pub(crate) fn made(&self) -> BTreeMap<String, u32> {
        self.made.lock().expect("nobody panics with it").clone()
    }

    /// From now on, or not any more.
    pub(crate) fn be_gone(&self, is_gone: bool) {
        self.is_gone.store(is_gone, Ordering::Relaxed);
    }

    fn make(&self, key: &str) -> u32 {
        let mut made = self.made.lock().expect("nobody panics with it");
        let times = made.entry(key.to_owned()).or_default();
        *times += 1;
        *times
    }
}

#[derive(Debug)]
pub(super) struct Incoming {
    words: VecDeque<String>,
    usage: Usage,
    /// It answers the first attempt of its call.
    is_first: bool,
    /// Nothing comes before.
    until: Option<Instant>,
}

impl Incoming {
    pub(super) fn open(log: &Log, request: &Request, key: &str) -> Result<Self, Fault> {
        if log.is_gone.load(Ordering::Relaxed) {
            return Err(Fault::Unreachable("it is gone".into()));
        }
        let times = log.make(key);
        let asked = request.messages.iter().rev().find_map(|it| match it {
            Message::User { text, .. } => Some(text.as_str()),
            _ => None,
        });
        let rest = rest(request);
        let words: VecDeque<String> = rest
            .as_deref()
            .or(asked)
            .unwrap_or_default()
            .split_inclusive(' ')
            .map(str::to_owned)
            .collect();
        if times == 1 && words.iter().any(|word| word.trim() == "BUSY") {
            return Err(Fault::Status {
                status: 503,
                text: "busy".into(),
                retry_after_ms: None,
            });
        }
        let input_tokens = words.len() as u64;
        Ok(Self {
            words,
            usage: Usage {
                input_tokens,
                output_tokens: 0,
            },
            is_first: times == 1,
            until: None,
        })
    }

    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Delta, Fault> {
        let soonest = Instant::now() + PAUSE;
        let until = *self.until.get_or_insert(soonest);
        tokio::time::sleep_until(until).await;
        self.until = None;
        while let Some(word) = self.words.pop_front() {
            match word.trim() {
                "BUSY" => {}
                "SLOW" => {
                    let until = *self.until.insert(Instant::now() + Duration::from_secs(1));
                    tokio::time::sleep_until(until).await;
                    self.until = None;
                }
                "CUT" => return Err(Fault::Cut),
                "BREAK" if self.is_first => return Err(Fault::Cut),
                "BREAK" => {}
                _ => {
                    self.usage.output_tokens += 1;
                    return Ok(Delta::Text(word));
                }
            }
        }
        Ok(Delta::Finished {
            reason: Finish::Stop,
            usage: Some(self.usage),
        })
    }
}

/// What is missing of the answer that the request is to go on with.
fn rest(request: &Request) -> Option<String> {
    let [
        ..,
        Message::User { text: asked, .. },
        Message::Assistant {
            text: Some(said), ..
        },
        Message::User { text: go_on, .. },
    ] = request.messages.as_slice()
    else {
        return None;
    };
    if !go_on.starts_with("Your answer broke off") {
        return None;
    }
    let words = asked.split_inclusive(' ');
    let words = words.filter(|word| !["BUSY", "SLOW", "CUT"].contains(&word.trim()));
    let whole: String = words.collect();
    let last = said.split_inclusive(' ').next_back().unwrap_or_default();
    Some(format!("{last}{}", whole.strip_prefix(said.as_str())?))
}
