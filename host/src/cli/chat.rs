//! `antiphon chat`: a conversation, line by line, that outlives the server's restart.
//!
//! Each line is sent under an idempotency key of its own and repeated until the server
//! has it, in order; the words come from [`follow`], each once. So a line typed while the
//! server is away is neither lost nor said twice.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use antiphon::id::{AgentName, Seq, SessionId};
use serde_json::Value;
use tokio::sync::mpsc;

use super::client::{CallError, Client};
use super::fault::{Hint, Interrupted, hinted};
use super::follow::{Update, follow};
use super::place::{Remote, agent_name, author, person, session_id};
use super::questions::{Line, Question, Questions};
use super::term::{Paint, Style, out};
use super::voices::{Layout, Unanswered, Voices};

/// Lines typed ahead of what the server has taken.
const LINES_MAX: usize = 64;
/// What is shown of a conversation that was going on already.
const HISTORY_ITEMS: u32 = 10;
const PROMPT: &str = "› ";

/// Talk with an agent
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon chat poet\n\n\
    While an agent asks something, the next line answers it; /say TEXT is a message all the same.\n\
    Ctrl-C stops the reply that is being made; once more, or /quit, leaves. The session stays:\n\
    --session goes on with it. With stdin not a terminal, every line is sent, and the command\n\
    ends when all are answered.")]
pub(super) struct Args {
    #[arg(value_parser = agent_name)]
    agent: AgentName,
    /// The session to go on with, or to open under this name
    #[arg(long, value_parser = session_id)]
    session: Option<SessionId>,
    /// Who you are
    #[arg(long = "as", value_name = "NAME", value_parser = author)]
    author: Option<antiphon::id::Author>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let author = args.author.map_or_else(person, |author| author.to_string());
    let (_, notes) = mpsc::channel(1);
    let chat = Chat::join(client, &args.agent, args.session.as_ref(), author).await?;
    chat.run(notes).await
}

pub(super) struct Chat {
    client: Client,
    session: SessionId,
    /// Whom messages go to; none is the session's entry agent.
    to: Option<AgentName>,
    author: String,
    voices: Voices,
    unanswered: Unanswered,
    questions: Questions,
    /// Lines read and not yet taken by the server.
    waiting: usize,
    is_terminal: bool,
    has_prompt: bool,
    is_interrupted: bool,
    offset: String,
}

impl Chat {
    /// Open the session, or join it where it stands.
    pub(super) async fn join(
        client: Client,
        agent: &AgentName,
        id: Option<&SessionId>,
        author: String,
    ) -> anyhow::Result<Self> {
        let is_terminal = std::io::stdin().is_terminal();
        let known = match id {
            Some(id) => match client.session(id).await {
                Ok(session) => Some(session),
                Err(error) if error.is("session_not_found") => None,
                Err(error) => return Err(error.explain()),
            },
            None => None,
        };
        let is_new = known.is_none();
        let session = match known {
            Some(session) => session,
            None => client
                .open_session(id, &[agent], agent)
                .await
                .map_err(CallError::explain)?,
        };
        let agents: Vec<&str> = session.agents().collect();
        if !agents.contains(&agent.as_str()) {
            return Err(hinted(
                format!("{agent} is not in session {}", session.session),
                format!("it has {}", agents.join(", ")),
            ));
        }
        let voices = Voices::new(Paint::stdout(), Layout::Plain, agents.len() > 1);
        let mut offset = "-1".to_owned();
        if !is_new {
            let transcript = client
                .transcript(&session.session, HISTORY_ITEMS)
                .await
                .map_err(CallError::explain)?;
            for item in transcript.items.iter().filter(|_| is_terminal) {
                out(&voices.line(item.speaker(), &item.text))?;
            }
            offset = transcript.offset.unwrap_or(offset);
        }
        let mut chat = Self {
            client,
            session: session.session,
            to: (!is_new).then(|| agent.clone()),
            author,
            voices,
            unanswered: Unanswered::default(),
            questions: Questions::default(),
            waiting: 0,
            is_terminal,
            has_prompt: false,
            is_interrupted: false,
            offset,
        };
        if !is_new {
            let open = chat.client.questions(&chat.session).await;
            for question in open.map_err(CallError::explain)? {
                chat.ask(&question)?;
                chat.questions.add(question);
            }
        }
        Ok(chat)
    }

    /// Show a question that was asked before, and how to answer one.
    fn ask(&mut self, question: &Question) -> anyhow::Result<()> {
        let Question {
            agent,
            text,
            choices,
            ..
        } = question;
        let mut shown = self.voices.question(agent, text, choices);
        shown.push_str(&self.hint(question));
        self.show(&shown)
    }

    /// Where lines are typed it is said what the next one will be.
    fn hint(&mut self, question: &Question) -> String {
        if self.is_terminal {
            return self.voices.note(question.hint());
        }
        let how = format!(
            "answer with: antiphon answer {} ANSWER --question {}",
            self.session, question.question
        );
        self.voices.note(&how)
    }

    /// Talk until somebody leaves. `notes` are shown between the words.
    pub(super) async fn run(mut self, mut notes: mpsc::Receiver<String>) -> anyhow::Result<()> {
        if self.is_terminal {
            let paint = Paint::stderr();
            let text = format!("session {}  ·  /quit leaves", self.session);
            eprintln!("{}", paint.paint(Style::Dim, &text));
        }
        let mut updates = follow(
            self.client.clone(),
            self.session.clone(),
            self.offset.clone(),
        );
        let mut lines = read_lines();
        let mut stops = stops();
        let (outbox, mut receipts) = self.start_sending();
        loop {
            self.show_prompt()?;
            tokio::select! {
                // Read no further ahead than the server takes.
                line = lines.recv(), if self.waiting < LINES_MAX => match line {
                    Some(line) if line.trim() == "/quit" => return Ok(()),
                    Some(line) => self.take_line(line, &outbox).await?,
                    // Ctrl-D leaves; the end of a pipe waits for the answers.
                    None if self.is_terminal => return Ok(out("\n")?),
                    None => break,
                },
                update = updates.recv() => self.take_update(update)?,
                receipt = receipts.recv() => self.take_receipt(receipt)?,
                Some(note) = notes.recv() => {
                    let note = self.voices.note(&note);
                    self.show(&note)?;
                }
                _ = stops.recv() => {
                    let again = std::mem::replace(&mut self.is_interrupted, true);
                    if again || self.voices.busy().is_none() {
                        return Ok(out("\n")?);
                    }
                    self.interrupt().await?;
                }
            }
        }
        drop(outbox);
        while self.waiting > 0 || !self.unanswered.is_empty() {
            tokio::select! {
                update = updates.recv() => self.take_update(update)?,
                receipt = receipts.recv(), if self.waiting > 0 => self.take_receipt(receipt)?,
                _ = stops.recv() => return Err(Interrupted.into()),
            }
        }
        match self.unanswered.failure() {
            Some(failure) => Err(anyhow::anyhow!("{failure}")),
            None => Ok(()),
        }
    }

    async fn take_line(&mut self, line: String, outbox: &mpsc::Sender<Line>) -> anyhow::Result<()> {
        self.has_prompt = false;
        if line.trim().is_empty() {
            return Ok(());
        }
        // Lines of a pipe were written before anybody was asked.
        let line = match self.is_terminal {
            true => self.questions.line(line),
            false => Line::Message(line),
        };
        match &line {
            Line::Message(text) => self.voices.expect_own(text),
            Line::Answer { .. } => {}
            Line::Neither(why) => {
                let why = self.voices.note(why);
                return self.show(&why);
            }
        }
        if outbox.send(line).await.is_ok() {
            self.waiting += 1;
        }
        Ok(())
    }

    fn take_update(&mut self, update: Option<Update>) -> anyhow::Result<()> {
        match update {
            Some(Update::Event(event)) => {
                self.unanswered.event(&event);
                let mut shown = self.voices.event(&event);
                if let Some(question) = self.questions.event(&event) {
                    shown.push_str(&self.hint(&question));
                }
                if self.voices.busy().is_none() {
                    self.is_interrupted = false;
                }
                self.show(&shown)
            }
            Some(Update::Reconnecting) => {
                eprintln!("{}", Paint::stderr().paint(Style::Dim, "reconnecting…"));
                Ok(())
            }
            Some(Update::Connected) => Ok(()),
            Some(Update::Failed(error)) => Err(error.explain()),
            None => anyhow::bail!("the connection was lost"),
        }
    }

    fn take_receipt(&mut self, receipt: Option<Result<Taken, CallError>>) -> anyhow::Result<()> {
        self.waiting = self.waiting.saturating_sub(1);
        match receipt {
            Some(Ok(Taken::Message(message))) => {
                self.unanswered.sent(message);
                Ok(())
            }
            Some(Ok(Taken::Answer)) => Ok(()),
            // Somebody else was faster, or nobody waits any more.
            Some(Err(error)) if error.is("question_answered") => {
                let late = self
                    .voices
                    .note("it was not open any more: your answer was not taken");
                self.show(&late)
            }
            Some(Err(error)) => Err(error.explain()).hint("the line was not sent"),
            None => anyhow::bail!("messages can no longer be sent"),
        }
    }

    async fn interrupt(&mut self) -> anyhow::Result<()> {
        match self
            .client
            .interrupt(&self.session, self.voices.busy())
            .await
        {
            // It ended by itself, or the server is away: then so is the reply.
            Err(error) if error.is("idle") || error.is_transient() => Ok(()),
            Err(error) => Err(error.explain()),
            Ok(()) => Ok(()),
        }
    }

    fn show(&mut self, text: &str) -> anyhow::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.has_prompt) {
            // Over the prompt, which comes again below.
            out("\r\x1b[K")?;
        }
        out(text).map_err(Into::into)
    }

    fn show_prompt(&mut self) -> anyhow::Result<()> {
        if self.is_terminal && !self.has_prompt && !self.voices.is_speaking() && self.waiting == 0 {
            self.has_prompt = true;
            out(PROMPT)?;
        }
        Ok(())
    }

    /// A task that sends lines in order, each until the server has it.
    fn start_sending(&self) -> (mpsc::Sender<Line>, mpsc::Receiver<Result<Taken, CallError>>) {
        let (outbox, mut lines) = mpsc::channel::<Line>(LINES_MAX);
        let (receipt, receipts) = mpsc::channel(LINES_MAX);
        let sender = Sender {
            client: self.client.clone(),
            session: self.session.clone(),
            to: self.to.clone(),
            author: self.author.clone(),
        };
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                let key = format!("chat-{}", uuid::Uuid::now_v7().simple());
                let mut wait = Duration::from_millis(100);
                let result = loop {
                    match sender.send(&line, &key).await {
                        Ok(taken) => break Ok(taken),
                        Err(error) if error.is_transient() => {
                            tokio::time::sleep(error.retry_after().unwrap_or(wait)).await;
                            wait = (wait * 2).min(Duration::from_secs(2));
                        }
                        Err(error) => break Err(error),
                    }
                };
                if receipt.send(result).await.is_err() {
                    return;
                }
            }
        });
        (outbox, receipts)
    }
}

/// What the server took.
enum Taken {
    /// Its id.
    Message(String),
    Answer,
}

/// Whoever sends lines, and where.
struct Sender {
    client: Client,
    session: SessionId,
    to: Option<AgentName>,
    author: String,
}

impl Sender {
    async fn send(&self, line: &Line, key: &str) -> Result<Taken, CallError> {
        match line {
            Line::Message(text) | Line::Neither(text) => {
                let sent = self
                    .client
                    .send_message(&self.session, self.to.as_ref(), &self.author, text, key)
                    .await?;
                Ok(Taken::Message(sent.message))
            }
            Line::Answer { question, with } => self.answer(*question, with, key).await,
        }
    }

    async fn answer(&self, question: Seq, with: &Value, key: &str) -> Result<Taken, CallError> {
        let mut body = with.clone();
        body["author"] = self.author.as_str().into();
        self.client
            .answer(&self.session, question, &body, key)
            .await?;
        Ok(Taken::Answer)
    }
}

/// Lines of stdin, read on a thread of their own: a terminal cannot be waited for otherwise.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Each Ctrl-C.
fn stops() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    receiver
}
