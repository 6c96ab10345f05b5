//! A host for tests: one agent in one session, in memory, off wasm only.
//!
//! It keeps the promises of the WIT files: locks have one holder and die with the turn,
//! pulled messages are consumed or returned by the outcome, a failed turn leaves the
//! context as it was, the transcript holds what was shown. Its clock stands still unless a
//! test moves it, and its model says what a test scripted.
//! Not simulated: crashes and replay, interruption of a turn by the host, durability.
//!
//! ```
//! use antiphon_sdk::testing::{Answer, Host};
//! use antiphon_sdk::{mailbox, model, prompt::Prompt, turn};
//!
//! let host = Host::new("guide");
//! host.receive("ana", "Where is the museum?");
//! host.answer(Answer::pieces(["Second ", "street on the left."]));
//!
//! let turn = host.turn_with(|_| {
//!     model::relay(&Prompt::new().messages(&mailbox::pull_all()).request())?;
//!     Ok(Default::default())
//! });
//!
//! assert_eq!(turn.said, "Second street on the left.");
//! assert_eq!(turn.requests.len(), 1);
//! ```

mod answer;
mod context;
pub(crate) mod imports;
mod session;
mod slots;
mod turn;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

pub use answer::Answer;
pub use turn::Turn;

use crate::agent::{Agent, AgentError, Cause, TurnInput, TurnOutput};
use crate::agents::CallError;
use crate::context::Item;
use crate::http;
use crate::kernel::{SlotState, Snapshot};
use crate::log::Level;
use crate::mailbox::{Body, Message, Sender};
use crate::model::{Request, Tool};
use crate::questions;
use crate::transcript;
use session::Session;

/// The host of one agent in one session. Clones are the same host.
#[derive(Clone)]
pub struct Host(Rc<RefCell<Session>>);

/// Something that the agent sent to another agent, or called one with.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The agent it went to.
    pub to: String,
    /// What it says.
    pub body: Body,
}

/// Something that the agent logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// How grave it is.
    pub level: Level,
    /// What happened.
    pub message: String,
    /// Details by name.
    pub fields: Vec<(String, String)>,
}

/// What the host allows, where reaching it is an error that the agent gets to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes that one turn may say.
    pub reply_bytes_max: usize,
    /// Bytes of one document.
    pub slot_bytes_max: usize,
    /// Slots of the session.
    pub slots_max: usize,
    /// Bytes of one message or context item.
    pub message_bytes_max: usize,
    /// Items of the context.
    pub items_max: usize,
    /// Bytes of one question to people, its choices counted.
    pub question_bytes_max: usize,
    /// Choices of one question.
    pub question_choices_max: usize,
    /// Questions of one turn.
    pub questions_turn_max: usize,
}

impl Default for Limits {
    /// The real host's defaults.
    fn default() -> Self {
        Self {
            reply_bytes_max: 1 << 20,
            slot_bytes_max: 4 << 20,
            slots_max: 256,
            message_bytes_max: 1 << 20,
            items_max: 256,
            question_bytes_max: 16 << 10,
            question_choices_max: 32,
            questions_turn_max: 100,
        }
    }
}

impl Host {
    /// An empty session with this agent in it.
    pub fn new(agent: &str) -> Self {
        Self(Rc::new(RefCell::new(Session::new(agent))))
    }

    /// Another agent is in the session too: messages can be sent to it.
    pub fn peer(&self, name: &str) -> &Self {
        self.0.borrow_mut().peers.push(name.to_owned());
        self
    }

    /// The agent is configured to watch this slot: commits by others start turns.
    pub fn watch(&self, slot: &str) -> &Self {
        self.0.borrow_mut().watches.push(slot.to_owned());
        self
    }

    /// Requests come with this system text.
    pub fn instructions(&self, text: &str) -> &Self {
        self.0.borrow_mut().instructions = Some(text.to_owned());
        self
    }

    /// Requests come with these tools of the caller's. What they answer is a message that a
    /// test sends with [`Host::receive_from`].
    pub fn tools(&self, tools: &[Tool]) -> &Self {
        self.0.borrow_mut().tools = tools.to_vec();
        self
    }

    /// An item of the context is full for this many turns after the turn that added or kept
    /// it, then expired for this many, then gone.
    pub fn ageing(&self, full_turns: u32, expired_turns: u32) -> &Self {
        self.0
            .borrow_mut()
            .context
            .set_ageing(full_turns, expired_turns);
        self
    }

    /// Allow more or less than the real host does.
    pub fn limits(&self, limits: Limits) -> &Self {
        self.0.borrow_mut().limits = limits;
        self
    }

    /// Let time pass.
    pub fn advance(&self, time: Duration) -> &Self {
        let milliseconds = u64::try_from(time.as_millis()).expect("a test's time fits in 64 bits");
        self.0.borrow_mut().now += milliseconds;
        self
    }

    /// A person sends text to the agent. Answers the message's id.
    pub fn receive(&self, person: &str, text: &str) -> String {
        self.receive_from(
            Sender::Person(person.to_owned()),
            Body::Text(text.to_owned()),
        )
    }

    /// Anybody sends anything to the agent. Answers the message's id.
    pub fn receive_from(&self, sender: Sender, body: Body) -> String {
        self.0.borrow_mut().receive(sender, body)
    }

    /// Another agent says something to the people.
    pub fn hear(&self, agent: &str, text: &str) -> &Self {
        self.0.borrow_mut().hear(agent, text);
        self
    }

    /// Somebody else commits a document.
    ///
    /// # Panics
    /// If the agent holds the slot's lock: nobody else can commit then.
    pub fn commit(&self, slot: &str, content: &str) -> &Self {
        self.0.borrow_mut().commit_by_other(slot, content);
        self
    }

    /// Another turn takes a slot's lock.
    ///
    /// # Panics
    /// If the lock is held.
    pub fn lock(&self, slot: &str, turn: &str) -> &Self {
        let locked = self.0.borrow_mut().lock_slot(slot, turn.to_owned());
        locked.unwrap_or_else(|error| panic!("{turn} cannot lock {slot:?}: {error}"));
        self
    }

    /// Whoever holds the slot's lock loses it, as happens when the host restarts and
    /// somebody else wrote first: the holder's commit answers `lost`.
    pub fn lose_lock(&self, slot: &str) -> &Self {
        self.0.borrow_mut().slots.lose_lock(slot);
        self
    }

    /// Script the answer to the next model call that has none yet.
    pub fn answer(&self, answer: Answer) -> &Self {
        self.0.borrow_mut().answers.push_back(answer);
        self
    }

    /// There is such an agent to call, and it replies this to the next call that has no reply yet.
    pub fn agent_says(&self, agent: &str, text: &str) -> &Self {
        self.agent_replies(agent, Ok(text.to_owned()))
    }

    /// Like [`agent_says`](Self::agent_says), for a call that fails.
    pub fn agent_fails(&self, agent: &str, error: CallError) -> &Self {
        self.agent_replies(agent, Err(error))
    }

    fn agent_replies(&self, agent: &str, reply: Result<String, CallError>) -> &Self {
        let mut session = self.0.borrow_mut();
        let replies = session.replies.entry(agent.to_owned()).or_default();
        replies.push_back(reply);
        drop(session);
        self
    }

    /// Script what a person answers to the next question that has no answer yet.
    pub fn person_answers(&self, person: &str, text: &str) -> &Self {
        self.person_says(questions::Answer {
            text: text.to_owned(),
            by: person.to_owned(),
            note: None,
        })
    }

    /// Like [`person_answers`](Self::person_answers), whole.
    pub fn person_says(&self, answer: questions::Answer) -> &Self {
        self.0.borrow_mut().answered.push_back(Some(answer));
        self
    }

    /// Nobody answers the next question that has no answer yet: the time that it waits passes.
    pub fn nobody_answers(&self) -> &Self {
        self.0.borrow_mut().answered.push_back(None);
        self
    }

    /// Script the answer to the next request to a place outside that has none yet. What the
    /// configuration would allow is not looked at.
    pub fn respond(&self, response: http::Response) -> &Self {
        self.0.borrow_mut().responses.push_back(Ok(response));
        self
    }

    /// The next request that has no answer yet fails.
    pub fn refuse(&self, error: http::HttpError) -> &Self {
        self.0.borrow_mut().responses.push_back(Err(error));
        self
    }

    /// Let the agent handle what is due: messages that no turn was given yet, commits of
    /// watched slots by others, the time it asked to be woken at.
    ///
    /// # Panics
    /// If nothing is due: the real host would not start a turn.
    pub fn turn<A: Agent>(&self) -> Turn {
        let causes = self.0.borrow().due();
        assert!(
            !causes.is_empty(),
            "nothing is due: the host would not start a turn"
        );
        self.perform(causes, A::handle)
    }

    /// Like [`turn`](Self::turn), with the causes that a test wants.
    pub fn turn_because<A: Agent>(&self, causes: Vec<Cause>) -> Turn {
        self.perform(causes, A::handle)
    }

    /// Like [`turn`](Self::turn), for code that is not an agent. Starts also if nothing is
    /// due, as a schedule named `test` would start it.
    pub fn turn_with(
        &self,
        handle: impl FnOnce(TurnInput) -> Result<TurnOutput, AgentError>,
    ) -> Turn {
        let mut causes = self.0.borrow().due();
        if causes.is_empty() {
            causes.push(Cause::Schedule("test".to_owned()));
        }
        self.perform(causes, handle)
    }

    fn perform(
        &self,
        causes: Vec<Cause>,
        handle: impl FnOnce(TurnInput) -> Result<TurnOutput, AgentError>,
    ) -> Turn {
        let input = self.0.borrow_mut().start_turn(causes);
        // The guard ends also when the agent panics, so that the next test of this thread
        // does not find this host.
        let installed = imports::install(self.clone());
        let result = handle(input);
        drop(installed);
        self.0.borrow_mut().end_turn(result)
    }

    /// A slot as anybody would read it now.
    pub fn slot(&self, name: &str) -> Option<Snapshot> {
        self.0.borrow().slots.read(name)
    }

    /// A slot's document.
    pub fn document(&self, name: &str) -> Option<String> {
        self.slot(name).map(|snapshot| snapshot.content)
    }

    /// Who holds a slot's lock.
    pub fn slot_state(&self, name: &str) -> SlotState {
        self.0.borrow().slots.state(name)
    }

    /// Messages that wait to be pulled.
    pub fn waiting(&self) -> Vec<Message> {
        self.0.borrow().waiting()
    }

    /// What the agent keeps in view for its next turn.
    pub fn context(&self) -> Vec<Item> {
        self.0.borrow().context.items()
    }

    /// What people were shown and sent, as a turn starting now would see it.
    pub fn transcript(&self) -> Vec<transcript::Item> {
        self.0.borrow().transcript()
    }

    /// All model requests of all turns.
    pub fn requests(&self) -> Vec<Request> {
        self.0.borrow().requests.clone()
    }

    /// Everything that was logged.
    pub fn logs(&self) -> Vec<Logged> {
        self.0.borrow().logs.clone()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}
