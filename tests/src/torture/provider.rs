//! The provider: it outlives every kill, answers slowly, and remembers who asked what.
//!
//! Each answer is words that name their call, their attempt and their place:
//! `k3f9a01c2.1.0 k3f9a01c2.1.1 …`. So a word that is missing, comes twice or comes from
//! another attempt of the same call is seen wherever it turns up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon::clock::Clock;
use antiphon::model::scripted::{Gate, Provider as Scripted, Received, Reply};
use tokio::sync::watch;

use super::chance::Chance;

/// A request as it arrived, and what it is answered with.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) key: String,
    pub(super) at: String,
    /// The whole answer.
    pub(super) answer: String,
    /// What the model is told that it said itself.
    pub(super) own_words: Vec<String>,
    pub(super) last_question: String,
}

struct Log {
    asked: Mutex<Vec<Asked>>,
    count: watch::Sender<usize>,
}

pub(super) struct Provider {
    scripted: Scripted,
    log: Arc<Log>,
}

impl Provider {
    pub(super) async fn start(seed: u64) -> Self {
        let log = Arc::new(Log {
            asked: Mutex::default(),
            count: watch::Sender::new(0),
        });
        let mut chance = Chance::new(seed);
        let mut attempts: BTreeMap<String, u32> = BTreeMap::new();
        let shared = log.clone();
        let scripted = Scripted::answering(move |received| {
            let key = header(received, "idempotency-key");
            let attempt = attempts.entry(key.clone()).or_default();
            *attempt += 1;
            let call = key.get(..8).unwrap_or(&key);
            let words: Vec<String> = (0..chance.between(4, 32))
                .map(|place| format!("k{call}.{attempt}.{place} "))
                .collect();
            let asked = Asked {
                key,
                at: Clock::System.now().to_rfc3339(),
                answer: words.concat(),
                own_words: own_words(received),
                last_question: received.last("user").unwrap_or_default().to_owned(),
            };
            let mut log = lock(&shared.asked);
            log.push(asked);
            shared.count.send_replace(log.len());
            drop(log);
            stream(words, &mut chance)
        })
        .await;
        Self { scripted, log }
    }

    pub(super) fn base_url(&self) -> String {
        self.scripted.base_url()
    }

    /// Everything asked so far, in order.
    pub(super) fn asked(&self) -> Vec<Asked> {
        lock(&self.log.asked).clone()
    }

    /// Wait until somebody asked this.
    pub(super) async fn heard(&self, question: &str) {
        let heard = |_: &usize| {
            let asked = lock(&self.log.asked);
            asked.iter().any(|asked| asked.last_question == question)
        };
        // The sender lives in `log`, so waiting cannot fail.
        let _ = self.log.count.subscribe().wait_for(heard).await;
    }
}

/// A panic elsewhere says enough by itself.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn header(received: &Received, name: &str) -> String {
    let value = received.headers.get(name);
    let text = value.and_then(|value| value.to_str().ok());
    text.unwrap_or_default().to_owned()
}

fn own_words(received: &Received) -> Vec<String> {
    let messages = received.body["messages"].as_array();
    let own = messages
        .into_iter()
        .flatten()
        .filter(|message| message["role"] == "assistant");
    own.filter_map(|message| Some(message["content"].as_str()?.to_owned()))
        .collect()
}

/// The words, each after a while of its own. The first takes longest, as with real models.
fn stream(words: Vec<String>, chance: &mut Chance) -> Reply {
    let mut reply = Reply::stream();
    let mut gates = Vec::new();
    let mut delay = chance.between(0, 60);
    let pace = chance.between(1, 16);
    for word in &words {
        let gate = Gate::new();
        reply = reply.wait(&gate).say(word);
        gates.push((Duration::from_millis(delay), gate));
        delay = chance.between(0, 2 * pace);
    }
    tokio::spawn(async move {
        for (delay, gate) in gates {
            // Not to wait for anything: this is how fast the model speaks.
            tokio::time::sleep(delay).await;
            gate.open();
        }
    });
    reply.finish("stop")
}
