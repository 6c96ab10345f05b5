//! The host's side of `host`: the same names and signatures as the generated imports,
//! answered by the host that is installed for the current thread.

use std::cell::RefCell;

use super::Host;
use super::session::Session;

thread_local! {
    static INSTALLED: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// While it lives, this thread's calls go to the host.
pub(super) struct Installed {
    outer: Option<Host>,
}

pub(super) fn install(host: Host) -> Installed {
    Installed {
        outer: INSTALLED.replace(Some(host)),
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        INSTALLED.set(self.outer.take());
    }
}

fn host() -> Host {
    INSTALLED.with_borrow(|host| {
        host.clone()
            .expect("no testing host: off wasm, call this in a turn of testing::Host")
    })
}

fn with<R>(call: impl FnOnce(&mut Session) -> R) -> R {
    let host = host();
    let mut session = host.0.borrow_mut();
    session.count_call();
    call(&mut session)
}

pub(crate) mod clock {
    use super::host;

    /// Not a call of the host's: WASI's clock is not counted.
    pub(crate) fn now() -> u64 {
        host().0.borrow().now
    }
}

pub(crate) mod kernel {
    use super::{Host, host, with};
    use crate::kernel::{CommitError, LockError, SlotState, Snapshot};

    pub(crate) fn read(name: &str) -> Option<Snapshot> {
        with(|session| session.slots.read(name))
    }

    pub(crate) fn state(name: &str) -> SlotState {
        with(|session| session.slots.state(name))
    }

    pub(crate) fn names() -> Vec<String> {
        with(|session| session.slots.names())
    }

    pub(crate) fn lock(name: &str) -> Result<SlotLock, LockError> {
        let seq = with(|session| {
            let turn = session.running().id.clone();
            session.lock_slot(name, turn)
        })?;
        Ok(SlotLock {
            host: host(),
            name: name.to_owned(),
            seq,
        })
    }

    #[derive(Debug)]
    pub(crate) struct SlotLock {
        /// A lock outlives a panic of its agent, when no host is installed any more.
        host: Host,
        name: String,
        seq: u64,
    }

    impl SlotLock {
        pub(crate) fn commit(lock: Self, content: &str) -> Result<u64, CommitError> {
            with(|session| session.commit_slot(&lock.name, lock.seq, content))
        }

        pub(crate) fn release(lock: Self) {
            drop(lock);
        }
    }

    impl Drop for SlotLock {
        fn drop(&mut self) {
            self.host.0.borrow_mut().slots.unlock(&self.name, self.seq);
        }
    }
}

pub(crate) mod agents {
    use super::with;
    use crate::agents::{CallError, Options, Reply};
    use crate::mailbox::Body;
    use crate::testing::Sent;

    pub(crate) fn call(agent: &str, body: &Body, options: Options) -> Result<Reply, CallError> {
        spawn(agent, body, options).and_then(Run::wait)
    }

    pub(crate) fn spawn(agent: &str, body: &Body, _: Options) -> Result<Run, CallError> {
        with(|session| {
            if body.as_text().len() > session.limits.message_bytes_max {
                return Err(CallError::TooLarge);
            }
            let replies = session.replies.get_mut(agent);
            let replies = replies.ok_or(CallError::UnknownAgent)?;
            let reply = replies.pop_front();
            let reply = reply.unwrap_or_else(|| panic!("no reply of {agent:?} is scripted"));
            let running = session.running();
            running.called.push(Sent {
                to: agent.to_owned(),
                body: body.clone(),
            });
            let session = format!("{}-called-{}", running.id, running.called.len());
            Ok(Run { session, reply })
        })
    }

    #[derive(Debug)]
    pub(crate) struct Run {
        session: String,
        reply: Result<String, CallError>,
    }

    impl Run {
        pub(crate) fn session(&self) -> String {
            self.session.clone()
        }

        pub(crate) fn wait(run: Self) -> Result<Reply, CallError> {
            let Self { session, reply } = run;
            with(|_| reply.map(|text| Reply { text, session }))
        }
    }
}

pub(crate) mod questions {
    use super::{Session, with};
    use crate::questions::{Answer, AskError, Question};

    /// As long as the real host waits by default, and at least.
    const WAIT_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;
    const WAIT_MS_MIN: u64 = 1_000;

    pub(crate) fn ask(question: &Question) -> Result<Answer, AskError> {
        with(|session| {
            may_ask(session, question)?;
            session.running().asked.push(question.clone());
            let answer = session.answered.pop_front();
            let answer = answer.unwrap_or_else(|| panic!("no answer is scripted to {question:?}"));
            let Some(answer) = answer else {
                let waits = question.timeout_ms.unwrap_or(WAIT_MS_MAX);
                session.now += waits.clamp(WAIT_MS_MIN, WAIT_MS_MAX);
                return Err(AskError::Expired);
            };
            assert!(
                question.choices.is_empty() || question.choices.contains(&answer.text),
                "{:?} is none of the choices of {question:?}",
                answer.text
            );
            Ok(answer)
        })
    }

    fn may_ask(session: &mut Session, question: &Question) -> Result<(), AskError> {
        let limits = session.limits;
        let turn = session.running().id.clone();
        if session.slots.holds_any(&turn) {
            return Err(AskError::HeldLock);
        }
        if session.running().open_answers > 0 {
            return Err(AskError::OpenAnswer);
        }
        let choices = &question.choices;
        let bytes = question.text.len() + choices.iter().map(String::len).sum::<usize>();
        if bytes > limits.question_bytes_max || choices.len() > limits.question_choices_max {
            return Err(AskError::TooLarge);
        }
        if session.running().asked.len() >= limits.questions_turn_max {
            return Err(AskError::TooMany);
        }
        if question.text.trim().is_empty() {
            return Err(AskError::Other("it asks nothing".to_owned()));
        }
        let is_own =
            |at: usize| !choices[at].trim().is_empty() && !choices[..at].contains(&choices[at]);
        if !(0..choices.len()).all(is_own) {
            let why = "each choice is a text of its own";
            return Err(AskError::Other(why.to_owned()));
        }
        Ok(())
    }
}

pub(crate) mod mailbox {
    use super::with;
    use crate::mailbox::{Body, Header, Message, Page, SendError};
    use crate::testing::Sent;

    pub(crate) fn pending() -> Vec<Header> {
        with(|session| {
            session
                .waiting()
                .into_iter()
                .map(|message| message.header)
                .collect()
        })
    }

    pub(crate) fn pull(max: u32) -> Vec<Message> {
        with(|session| session.pull(usize::try_from(max).unwrap_or(usize::MAX)))
    }

    pub(crate) fn leave(id: &str) -> bool {
        with(|session| session.leave(id))
    }

    pub(crate) fn read(id: &str) -> Option<Message> {
        with(|session| {
            session
                .messages()
                .find(|message| message.header.id == id)
                .cloned()
        })
    }

    pub(crate) fn search(query: &str, cursor: Option<&str>) -> Page {
        const PAGE_MAX: usize = 20;
        let query = query.to_lowercase();
        with(|session| {
            // The cursor is the last id of the page before; an unknown one finds nothing.
            let mut found = session
                .messages()
                .rev()
                .skip_while(|message| cursor.is_some_and(|cursor| message.header.id != cursor))
                .skip(usize::from(cursor.is_some()))
                .filter(|message| message.body.as_text().to_lowercase().contains(&query))
                .map(|message| message.header.clone());
            let headers: Vec<_> = found.by_ref().take(PAGE_MAX).collect();
            let next = found
                .next()
                .and(headers.last())
                .map(|header| header.id.clone());
            Page { headers, next }
        })
    }

    pub(crate) fn send(to: &str, body: &Body) -> Result<String, SendError> {
        with(|session| {
            if !session.peers.iter().any(|peer| peer == to) {
                return Err(SendError::UnknownAgent);
            }
            if body.as_text().len() > session.limits.message_bytes_max {
                return Err(SendError::TooLarge);
            }
            let running = session.running();
            running.sent.push(Sent {
                to: to.to_owned(),
                body: body.clone(),
            });
            Ok(format!("{}-sent-{}", running.id, running.sent.len()))
        })
    }
}

pub(crate) mod context {
    use super::with;
    use crate::context::{AddError, Content, Item};

    pub(crate) fn items() -> Vec<Item> {
        with(|session| session.running().context.items())
    }

    pub(crate) fn add(content: &Content) -> Result<String, AddError> {
        with(|session| {
            let limits = session.limits;
            let context = &mut session.running().context;
            context.add(content.clone(), limits.items_max, limits.message_bytes_max)
        })
    }

    pub(crate) fn keep(id: &str) -> bool {
        with(|session| session.running().context.keep(id))
    }

    pub(crate) fn drop(id: &str) -> bool {
        with(|session| session.running().context.drop(id))
    }

    pub(crate) fn pin(id: &str) -> bool {
        with(|session| session.running().context.pin(id))
    }
}

pub(crate) mod transcript {
    use super::with;
    use crate::transcript::Page;

    pub(crate) fn window(max_items: u32, cursor: Option<&str>) -> Page {
        const PAGE_MAX: usize = 200;
        let max_items = usize::try_from(max_items)
            .unwrap_or(usize::MAX)
            .clamp(1, PAGE_MAX);
        with(|session| {
            let mut items = session.transcript();
            if let Some(end) = cursor.and_then(|c| items.iter().position(|item| item.offset == c)) {
                items.truncate(end);
            }
            let items = items.split_off(items.len().saturating_sub(max_items));
            let earlier = session.transcript().first().map(|item| item.offset.clone());
            let first = items.first().map(|item| item.offset.clone());
            Page {
                before: first.filter(|first| Some(first) != earlier.as_ref()),
                items,
            }
        })
    }
}

pub(crate) mod reply {
    use super::{Session, with};
    use crate::bindings::antiphon::agent::reply::ToolCall;
    use crate::model;
    use crate::reply::{SayError, ToolsError};

    /// As many as the real host takes.
    const CALLS_MAX: usize = 128;

    pub(crate) fn call_tools(calls: &[ToolCall]) -> Result<(), ToolsError> {
        with(|session| {
            let bytes = calls
                .iter()
                .map(|it| it.id.len() + it.name.len() + it.arguments.len());
            let bytes: usize = bytes.sum();
            if !session.running().called_tools.is_empty() {
                return Err(ToolsError::AskedAlready);
            }
            if calls.is_empty() {
                return Err(ToolsError::Other("it calls nothing".to_owned()));
            }
            if calls.len() > CALLS_MAX || bytes > session.limits.message_bytes_max {
                return Err(ToolsError::TooLarge);
            }
            let offered = |name: &str| session.tools.iter().any(|tool| tool.name == name);
            if let Some(call) = calls.iter().find(|call| !offered(&call.name)) {
                return Err(ToolsError::NotOffered(call.name.clone()));
            }
            let ids: std::collections::BTreeSet<_> = calls.iter().map(|call| &call.id).collect();
            if ids.len() < calls.len() || ids.iter().any(|id| id.is_empty()) {
                let why = "each call has an id of its own";
                return Err(ToolsError::Other(why.to_owned()));
            }
            session.running().called_tools = calls
                .iter()
                .map(|call| model::ToolCall {
                    id: call.id.clone(),
                    name: call.name.clone(),
                    arguments: call.arguments.clone(),
                })
                .collect();
            Ok(())
        })
    }

    pub(crate) fn say(text: &str) -> Result<(), SayError> {
        with(|session| say_in(session, text))
    }

    pub(super) fn say_in(session: &mut Session, text: &str) -> Result<(), SayError> {
        assert!(
            session.running().called_tools.is_empty(),
            "a turn that has asked its caller for tools says nothing more: {text:?}"
        );
        if session.running().said.len() + text.len() > session.limits.reply_bytes_max {
            return Err(SayError::TooLarge);
        }
        session.say(text);
        Ok(())
    }
}

pub(crate) mod model {
    use std::cell::RefCell;

    use super::{Host, host, reply};
    use crate::model::{Completion, Delta, ModelError, Request};
    use crate::testing::answer::Given;

    pub(crate) fn complete(request: &Request) -> Result<Completion, ModelError> {
        Given::begin(&host(), request)?.rest(|_| Ok(()))
    }

    pub(crate) fn open(request: &Request) -> Result<Deltas, ModelError> {
        let given = Given::begin(&host(), request)?;
        Ok(Deltas {
            given: RefCell::new(given),
            under_way: RefCell::new(Some(UnderWay::new(host()))),
        })
    }

    #[derive(Debug)]
    pub(crate) struct Deltas {
        given: RefCell<Given>,
        /// None at its end.
        under_way: RefCell<Option<UnderWay>>,
    }

    /// As long as it lives, an answer is on its way.
    #[derive(Debug)]
    struct UnderWay(Host);

    impl UnderWay {
        fn new(host: Host) -> Self {
            host.0.borrow_mut().running().open_answers += 1;
            Self(host)
        }
    }

    impl Drop for UnderWay {
        fn drop(&mut self) {
            // A handle outlives a panic of its agent, when no turn runs any more.
            if let Some(running) = &mut self.0.0.borrow_mut().running {
                running.open_answers = running.open_answers.saturating_sub(1);
            }
        }
    }

    impl Deltas {
        pub(crate) fn next(&self) -> Result<Option<Delta>, ModelError> {
            host().0.borrow_mut().count_call();
            let next = self.given.borrow_mut().next();
            if !matches!(next, Ok(Some(_))) {
                self.under_way.take();
            }
            next
        }

        pub(crate) fn relay(deltas: Self) -> Result<Completion, ModelError> {
            let host = host();
            host.0.borrow_mut().count_call();
            deltas.given.into_inner().rest(|text| {
                reply::say_in(&mut host.0.borrow_mut(), text)
                    .map_err(|error| ModelError::Other(format!("say: {error}")))
            })
        }
    }
}

pub(crate) mod http {
    use super::with;
    use crate::http::{HttpError, Request, Response};

    pub(crate) fn fetch(request: &Request) -> Result<Response, HttpError> {
        with(|session| {
            session.fetched.push(request.clone());
            let number = session.fetched.len();
            session.responses.pop_front().unwrap_or_else(|| {
                panic!("no scripted response for request {number} of this host: {request:#?}")
            })
        })
    }
}

pub(crate) mod turn {
    use super::with;
    use crate::bindings::antiphon::agent::turn::Tool;
    use crate::turn::{Allowance, Info};

    /// The real host's defaults; see `Limits` for those that tests can reach.
    const HOST_CALLS_MAX: u64 = 100_000;
    const WALL_MS_MAX: u64 = 600_000;

    pub(crate) fn current() -> Info {
        with(|session| {
            let id = session.running().id.clone();
            Info {
                session: "session".to_owned(),
                run: id.split('.').next().unwrap_or_default().to_owned(),
                id,
                parent: None,
                agent: session.agent.clone(),
                deadline: None,
                instructions: session.instructions.clone(),
            }
        })
    }

    pub(crate) fn tools() -> Vec<Tool> {
        with(|session| {
            let tools = session.tools.iter();
            tools
                .map(|tool| Tool {
                    name: tool.name.clone(),
                    description: tool.description.clone(),
                    parameters: tool.parameters.clone(),
                })
                .collect()
        })
    }

    pub(crate) fn budget() -> Allowance {
        with(|session| {
            let reply_bytes_max = session.limits.reply_bytes_max;
            let running = session.running();
            Allowance {
                host_calls: HOST_CALLS_MAX.saturating_sub(running.calls),
                reply_bytes: reply_bytes_max.saturating_sub(running.said.len()) as u64,
                wall_ms: WALL_MS_MAX,
            }
        })
    }
}

pub(crate) mod log {
    use super::with;
    use crate::log::Level;
    use crate::testing::Logged;

    pub(crate) fn event(level: Level, message: &str, fields: &[(String, String)]) {
        with(|session| {
            let (message, fields) = (message.to_owned(), fields.to_vec());
            session.logs.push(Logged {
                level,
                message,
                fields,
            });
        });
    }
}
