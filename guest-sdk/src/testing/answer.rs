//! What a scripted model answers.

use serde_json::Value;

use super::Host;
use crate::model::{Completion, Delta, Finish, Finished, ModelError, Request, ToolCall, Usage};

/// One answer of the scripted model, for [`Host::answer`].
#[must_use]
pub struct Answer {
    deltas: Vec<Delta>,
    finish: Option<Finish>,
    usage: Option<Usage>,
    end: End,
    meanwhile: Option<Happening>,
}

/// What a test lets happen while the model thinks.
type Happening = Box<dyn FnOnce(&Host)>;

enum End {
    Finished,
    Interrupted,
    Refused(ModelError),
}

impl Answer {
    fn new(deltas: Vec<Delta>, end: End) -> Self {
        Self {
            deltas,
            finish: None,
            usage: None,
            end,
            meanwhile: None,
        }
    }

    /// Text in one piece.
    pub fn text(text: &str) -> Self {
        Self::pieces([text])
    }

    /// Text that arrives in these pieces.
    pub fn pieces<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Self {
        let deltas = pieces
            .into_iter()
            .map(|piece| Delta::Text(piece.to_owned()))
            .collect();
        Self::new(deltas, End::Finished)
    }

    /// A call of a tool.
    pub fn call(name: &str, arguments: Value) -> Self {
        Self::new(Vec::new(), End::Finished).and_call(name, arguments)
    }

    /// No answer but this error.
    pub fn error(error: ModelError) -> Self {
        Self::new(Vec::new(), End::Refused(error))
    }

    /// And then a call of a tool.
    pub fn and_call(self, name: &str, arguments: Value) -> Self {
        self.and_raw_call(name, &arguments.to_string())
    }

    /// And then a call of a tool with arguments that need not be JSON.
    pub fn and_raw_call(mut self, name: &str, arguments: &str) -> Self {
        self.deltas.push(Delta::ToolCall(ToolCall {
            id: String::new(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        }));
        self
    }

    /// Breaks off after what it has: `interrupted`.
    pub fn interrupted(mut self) -> Self {
        self.end = End::Interrupted;
        self
    }

    /// Finishes for this reason; without it, `tool-calls` or `stop`.
    pub fn finish(mut self, reason: Finish) -> Self {
        self.finish = Some(reason);
        self
    }

    /// The provider says what it used.
    pub fn usage(mut self, input_tokens: u64, output_tokens: u64) -> Self {
        self.usage = Some(Usage {
            input_tokens,
            output_tokens,
        });
        self
    }

    /// Something happens while the model thinks: after the request, before the first piece.
    pub fn meanwhile(mut self, happens: impl FnOnce(&Host) + 'static) -> Self {
        self.meanwhile = Some(Box::new(happens));
        self
    }
}

/// A whole answer to a request that allowed it to be kept.
#[derive(Debug)]
pub(super) struct Kept {
    /// Without how old its answer may be.
    request: Request,
    deltas: Vec<Delta>,
    at: u64,
}

/// An answer being given.
#[derive(Debug)]
pub(super) struct Given {
    deltas: std::vec::IntoIter<Delta>,
    /// What was handed out, and what `complete` or `relay` answer in the end.
    completion: Completion,
    /// It breaks off once all deltas are handed out.
    interrupted: bool,
    over: bool,
}

impl Given {
    /// Begin the next scripted answer to a request.
    pub(super) fn begin(host: &Host, request: &Request) -> Result<Self, ModelError> {
        let (answer, number) = {
            let mut session = host.0.borrow_mut();
            session.count_call();
            let kept = request.cache.and_then(|seconds| {
                let (plain, oldest) = (without_cache(request), u64::from(seconds) * 1_000);
                let mut kept = session.kept.iter().rev();
                kept.find(|kept| kept.request == plain && session.now - kept.at <= oldest)
            });
            if let Some(kept) = kept {
                return Ok(Self::again(&kept.deltas));
            }
            session.requests.push(request.clone());
            (session.answers.pop_front(), session.requests.len())
        };
        let Some(answer) = answer else {
            panic!("no scripted answer for model call {number} of this host: {request:#?}");
        };
        if let Some(happens) = answer.meanwhile {
            happens(host);
        }
        let interrupted = match answer.end {
            End::Refused(error) => return Err(error),
            End::Interrupted => true,
            End::Finished => false,
        };

        let mut deltas = answer.deltas;
        let mut calls = 0;
        for delta in &mut deltas {
            if let Delta::ToolCall(call) = delta {
                calls += 1;
                call.id = format!("call-{number}-{calls}");
            }
        }
        let finish = answer.finish.unwrap_or(if calls > 0 {
            Finish::ToolCalls
        } else {
            Finish::Stop
        });
        if !interrupted {
            deltas.push(Delta::Finished(Finished {
                reason: finish,
                usage: answer.usage,
            }));
            if request.cache.is_some() {
                let mut session = host.0.borrow_mut();
                let (at, request) = (session.now, without_cache(request));
                let deltas = deltas.clone();
                session.kept.push(Kept {
                    request,
                    deltas,
                    at,
                });
            }
        }
        let completion = Completion {
            text: String::new(),
            tool_calls: Vec::new(),
            finish,
            usage: answer.usage,
        };
        Ok(Self {
            deltas: deltas.into_iter(),
            completion,
            interrupted,
            over: false,
        })
    }

    /// The same pieces once more. Nothing is used for them.
    fn again(deltas: &[Delta]) -> Self {
        let nothing = Usage {
            input_tokens: 0,
            output_tokens: 0,
        };
        let mut deltas = deltas.to_vec();
        let mut finish = Finish::Stop;
        if let Some(Delta::Finished(finished)) = deltas.last_mut() {
            finished.usage = Some(nothing);
            finish = finished.reason;
        }
        Self {
            deltas: deltas.into_iter(),
            completion: Completion {
                text: String::new(),
                tool_calls: Vec::new(),
                finish,
                usage: Some(nothing),
            },
            interrupted: false,
            over: false,
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Delta>, ModelError> {
        match self.deltas.next() {
            Some(delta) => {
                match &delta {
                    Delta::Text(text) => self.completion.text.push_str(text),
                    Delta::ToolCall(call) => self.completion.tool_calls.push(call.clone()),
                    Delta::Finished(_) => {}
                }
                Ok(Some(delta))
            }
            None if self.over => Ok(None),
            None => {
                self.over = true;
                self.failure().map_or(Ok(None), Err)
            }
        }
    }

    /// The whole answer, `said` hearing each piece of text that was not taken before.
    pub(super) fn rest(
        mut self,
        mut said: impl FnMut(&str) -> Result<(), ModelError>,
    ) -> Result<Completion, ModelError> {
        for delta in self.deltas.by_ref() {
            match delta {
                Delta::Text(text) => {
                    said(&text)?;
                    self.completion.text.push_str(&text);
                }
                Delta::ToolCall(call) => self.completion.tool_calls.push(call),
                Delta::Finished(_) => {}
            }
        }
        match self.failure() {
            Some(error) => Err(error),
            None => Ok(self.completion),
        }
    }

    fn failure(&self) -> Option<ModelError> {
        self.interrupted
            .then(|| ModelError::Interrupted(self.completion.text.clone()))
    }
}

fn without_cache(request: &Request) -> Request {
    Request {
        cache: None,
        ..request.clone()
    }
}
