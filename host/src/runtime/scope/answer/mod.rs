//! Calls of models: made, streamed, returned; or answered from the record.
//!
//! A call is written down and durable before it leaves the host, its pieces before
//! the guest gets them, and the guest gets them as they are written down. Text and tool calls live
//! in the `streamed` entries, so the journal holds an answer once.
//!
//! Invariant: a call is made again only while no piece of its answer was written down.

mod call;
mod failure;
mod kept;
mod pieces;
mod stream;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::journal::entry::{CallKind, CallResult, Payload, Piece, Usage};
use crate::journal::state::Used;
use crate::ledger::WINDOW_MS;
use crate::model::{ModelError, Request, Target};

pub(in crate::runtime) use self::failure::{Failed, NoAnswer};
pub use self::kept::Kept;

use self::call::{Begin, Call, DETAIL_CHARS_MAX};
use self::failure::no_answer;
use super::forwarded::Behalf;
use super::reply::TooLarge;
use super::{Back, Scope, Stop};

/// What is written down of a target's name.
const TARGET_CHARS_MAX: usize = 64;

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::runtime) struct Completion {
    pub(in crate::runtime) text: String,
    /// Of kind `ToolCall`.
    pub(in crate::runtime) tool_calls: Vec<Piece>,
    pub(in crate::runtime) finish: String,
    pub(in crate::runtime) usage: Option<Usage>,
}

/// An answer on its way, and what came of it.
pub(in crate::runtime) struct Answer {
    call: Option<Call>,
    /// Written down, not yet taken by the guest.
    ready: VecDeque<Piece>,
    text: String,
    tool_calls: Vec<Piece>,
    end: Option<(String, Option<Usage>)>,
    /// Pieces came.
    begun: bool,
    /// Once the call has come back: how often it was made, and what is booked for it.
    attempts: u32,
    booked: Usage,
}

impl Scope {
    /// The model of this name, or the agent's first.
    pub(in crate::runtime) fn model(&self, name: Option<String>) -> Target {
        let default = || self.model_names.first().map_or("default", String::as_str);
        let name = name.unwrap_or_else(|| default().to_owned());
        // Longer than any that there is: what is written down of it is bounded.
        Target::Model(name.chars().take(TARGET_CHARS_MAX).collect())
    }

    /// Ask a model: write the call down, make it durable, make it.
    ///
    /// Boxed: a guest's calls are polled on its fiber, and what they touch of that stack stays as long as it waits.
    pub(in crate::runtime) async fn ask(
        &self,
        target: Target,
        request: Request,
    ) -> Result<Answer, Failed> {
        Box::pin(self.ask_as(Behalf::default(), target, request)).await
    }

    /// The same on behalf of somebody else than the turn's agent.
    pub(in crate::runtime) async fn ask_as(
        &self,
        behalf: Behalf,
        target: Target,
        request: Request,
    ) -> Result<Answer, Failed> {
        let (digest, request_bytes) = request.digest_and_bytes();
        let name = target.name().to_owned();
        let asked = || format!("asks the model {name:?}, request {digest}");
        let recorded = self.recorded(asked).map_err(|stop| stop.asking(&request))?;
        if let Some(recorded) = recorded {
            let n = match &recorded.payload {
                Payload::Called(it)
                    if it.call == CallKind::Model && it.request == digest && it.target == name =>
                {
                    it.n
                }
                _ => return Err(self.differs(&recorded, asked()).asking(&request).into()),
            };
            self.record.keep(&request);
            if let Some(call) = self.take_kept(n) {
                return self.ask_on(call).await;
            }
            let failed = self.failed_at_opening(n)?;
            let mut answer = Answer::new(Call::new(self, target, behalf, request, digest));
            answer.is_call(n);
            return match failed {
                Some(result) => Err(Failed::Guest(no_answer(result, ""))),
                None => answer.handed_out(self, Ok(())),
            };
        }
        let may_ask = match &target {
            Target::Model(name) => self.model_names.contains(name),
            Target::Remote { .. } => true,
        };
        let price = match &target {
            Target::Model(name) => self.budgets.price(name),
            Target::Remote { price, .. } => *price,
        };
        let mut answer = Answer::new(Call::new(self, target, behalf, request, digest));
        let (n, over_budget) = self.called_model(&name, price, digest, request_bytes)?;
        answer.is_call(n);
        if let Some(result) = over_budget {
            return Err(Failed::Guest(no_answer(result, "")));
        }
        if !may_ask {
            let text = format!("the agent is not configured for the model {name:?}");
            let refused = ModelError::Refused(text);
            return Err(answer.fail(self, &refused, true)?);
        }
        let called = self.ledger.look(|state| state.last);
        let made = Box::pin(answer.make(self, Some(Begin::Written(called)))).await?;
        answer.handed_out(self, made)
    }

    /// A call that an instance before this one was given up with. If that one had no handle on it yet, nothing follows in the
    /// record, and this one goes on waiting for it.
    async fn ask_on(&self, call: Call) -> Result<Answer, Failed> {
        let (n, is_handed_out) = (call.n, call.is_handed_out);
        let mut answer = Answer::new(call);
        if is_handed_out {
            return Ok(answer);
        }
        let asked = || format!("waits for call {n}");
        if let Some(recorded) = self.recorded_part(asked)? {
            return Err(self.differs(&recorded, asked()).into());
        }
        let made = Box::pin(answer.make(self, None)).await?;
        answer.handed_out(self, made)
    }

    /// The recorded result of a call that failed before the guest had a handle on its answer.
    fn failed_at_opening(&self, n: u32) -> Result<Option<CallResult>, Stop> {
        let at_opening = {
            let record = self.record.lock();
            let front = record.as_ref().and_then(|replay| replay.peek());
            front.is_some_and(|recorded| {
                matches!(&recorded.payload, Payload::Returned(back) if back.n == n && back.opening)
            })
        };
        if !at_opening {
            return Ok(None);
        }
        let asked = || format!("hears why call {n} failed");
        Ok(self
            .recorded_part(asked)?
            .and_then(|recorded| match recorded.payload {
                Payload::Returned(back) => Some(back.result),
                _ => None,
            }))
    }
}

impl Answer {
    fn new(call: Call) -> Self {
        Self {
            call: Some(call),
            ready: VecDeque::new(),
            text: String::new(),
            tool_calls: Vec::new(),
            end: None,
            begun: false,
            attempts: 0,
            booked: Usage::default(),
        }
    }

    fn is_call(&mut self, n: u32) {
        if let Some(call) = &mut self.call {
            call.n = n;
        }
    }

    /// The guest gets a handle on it, or hears why not.
    fn handed_out(mut self, scope: &Scope, made: Result<(), ModelError>) -> Result<Self, Failed> {
        if let Err(error) = made {
            return Err(self.fail(scope, &error, true)?);
        }
        if let Some(call) = &mut self.call {
            call.is_handed_out = true;
        }
        Ok(self)
    }

    /// Make the call, and again while it fails in a way that may pass. Without `begin` an attempt is under way.
    async fn make(
        &mut self,
        scope: &Scope,
        mut begin: Option<Begin>,
    ) -> Result<Result<(), ModelError>, Stop> {
        loop {
            let Some(call) = &mut self.call else {
                return Ok(Ok(()));
            };
            let begun = match begin {
                Some(begin) => call.attempt(scope, begin).await?,
                None => Ok(()),
            };
            let opened = match begun {
                Ok(()) => self.opens(scope).await?,
                Err(error) => Err(error),
            };
            let (Err(error), Some(call)) = (opened, &mut self.call) else {
                return Ok(Ok(()));
            };
            begin = match call.again(scope, error).await {
                Ok(begin) => Some(begin),
                Err(error) => return Ok(Err(error)),
            };
        }
    }

    /// The next piece; none after the last one.
    pub(in crate::runtime) async fn next(
        &mut self,
        scope: &Scope,
    ) -> Result<Option<Piece>, Failed> {
        scope.count()?;
        if self.ready.is_empty() {
            self.advance(scope, None).await?;
        }
        Ok(self.ready.pop_front())
    }

    pub(in crate::runtime) async fn complete(
        mut self,
        scope: &Scope,
    ) -> Result<Completion, Failed> {
        while self.call.is_some() {
            // Nobody sees the pieces before the end, so they may be written in few entries.
            let window = Instant::now() + Duration::from_millis(100 * WINDOW_MS);
            self.advance(scope, Some(window)).await?;
        }
        Ok(self.completion())
    }

    /// Show the rest of the text while it arrives.
    pub(in crate::runtime) async fn relay(mut self, scope: &Scope) -> Result<Completion, Failed> {
        scope.count()?;
        if !scope.may_speak {
            self.give_up(scope)?;
            let refused = "the agent is not granted `reply`, so nothing can be relayed".to_owned();
            return Err(Failed::Guest(NoAnswer::Refused(refused)));
        }
        let mut shown = Instant::now() - Duration::from_millis(WINDOW_MS);
        loop {
            let until = shown + Duration::from_millis(WINDOW_MS);
            let Some(text) = self.words(scope, until).await? else {
                return Ok(self.completion());
            };
            if let Err(TooLarge) = scope.say(&text)? {
                self.give_up(scope)?;
                let error = "the turn has said as many bytes as it may".to_owned();
                return Err(Failed::Guest(NoAnswer::Other(error)));
            }
            if self.call.is_some() && !scope.is_replaying() {
                scope.ledger.flush();
            }
            shown = Instant::now();
            scope.may_say().await?;
        }
    }

    /// The text that has come, or the first to come; what follows it within the window comes with it.
    /// None after the end.
    pub(in crate::runtime) async fn words(
        &mut self,
        scope: &Scope,
        until: Instant,
    ) -> Result<Option<String>, Failed> {
        loop {
            let mut text = String::new();
            for piece in self.ready.drain(..) {
                if let Piece::Text(more) = piece {
                    text.push_str(&more);
                }
            }
            if !text.is_empty() {
                return Ok(Some(text));
            }
            if self.call.is_none() {
                return Ok(None);
            }
            self.advance(scope, Some(until)).await?;
        }
    }

    /// Whether more may come.
    pub(in crate::runtime) fn is_open(&self) -> bool {
        self.call.is_some()
    }

    /// How often the call was made; 0 until it has come back.
    pub(in crate::runtime) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What is booked for it; nothing until it has come back.
    pub(in crate::runtime) fn booked(&self) -> Usage {
        self.booked
    }

    /// The guest lets go of the answer.
    pub(in crate::runtime) fn give_up(&mut self, scope: &Scope) -> Result<(), Stop> {
        let Some(call) = self.call.take() else {
            return Ok(());
        };
        let asked = || format!("gives call {} up", call.n);
        if let Some(recorded) = scope.recorded(asked)? {
            return match &recorded.payload {
                Payload::Returned(it) if it.n == call.n && it.result == CallResult::Dropped => {
                    Ok(())
                }
                _ => Err(scope.differs(&recorded, asked())),
            };
        }
        let mut back = Back::new(call.n, CallResult::Dropped);
        back.cached = call.is_cached();
        back.attempts = match back.cached {
            true => call.tried.attempts,
            false => call.tried.attempts.max(1),
        };
        back.used = match back.cached {
            true => Used::Nothing,
            // Nobody waits for the rest, but it was asked for.
            false => Used::Estimated,
        };
        self.booked = scope.returned(back, &[])?;
        Ok(())
    }

    /// Write down that the call failed; answers what the guest is told.
    fn fail(&mut self, scope: &Scope, error: &ModelError, opening: bool) -> Result<Failed, Stop> {
        let (n, attempts, cached) = self.call.take().map_or((0, 1, false), |call| {
            (call.n, call.tried.attempts, call.is_cached())
        });
        // What broke off with the host was made by the process before this one.
        let attempts = match self.begun {
            true => attempts.max(scope.record.tried(n).attempts),
            false => attempts,
        };
        self.attempts = attempts;
        let mut back = Back::new(
            n,
            CallResult::Failed {
                error: error.name().into(),
                status: error.status(),
                detail: error.to_string().chars().take(DETAIL_CHARS_MAX).collect(),
            },
        );
        back.used = match attempts {
            // A refusal is none of the provider's calls.
            0 => Used::Nothing,
            _ if cached => Used::Nothing,
            _ if self.begun => Used::Estimated,
            _ => Used::Asked,
        };
        back.attempts = attempts;
        (back.opening, back.cached) = (opening, cached);
        let told = no_answer(back.result.clone(), &self.text);
        self.booked = scope.returned(back, &[])?;
        Ok(Failed::Guest(told))
    }

    /// What a whole answer used.
    fn used(&self) -> Used {
        match self.end {
            _ if self.is_cached() => Used::Nothing,
            Some((_, Some(usage))) => Used::Told {
                input_tokens: usage.input_tokens,
                output_tokens: usage.output_tokens,
            },
            _ => Used::Estimated,
        }
    }

    /// Whether the answer is one that another call got: its end says so, in this life and in the next.
    fn is_cached(&self) -> bool {
        let usage = self.end.as_ref().and_then(|(_, usage)| usage.as_ref());
        usage.is_some_and(|usage| usage.model_calls == 0)
    }

    fn completion(self) -> Completion {
        let (finish, usage) = self.end.unwrap_or_else(|| ("other".to_owned(), None));
        Completion {
            text: self.text,
            tool_calls: self.tool_calls,
            finish,
            usage,
        }
    }
}
