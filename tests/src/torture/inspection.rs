//! Looking at what is durable: after each restart, and when all is done.

use std::collections::BTreeSet;

use serde_json::Value;

use super::book::{Book, seq};
use super::client::{Acknowledged, HANGS};
use super::course::Torture;
use super::provider::lock;
use super::{Summary, laws, script};

impl Torture {
    /// Read everything that is in use, and hold it against what was promised, shown and asked.
    pub(super) async fn look(&mut self, at_rest: bool) {
        // What was promised and asked before the journals are read must be in them; what
        // they hold was asked by the time they were read.
        let promises = lock(&self.promises).clone();
        let asked = self.provider.asked();
        let mut books = std::mem::take(&mut self.books);
        for book in &mut books {
            self.look_into(book, &promises, at_rest).await;
        }
        let keys = laws::Keys::of(books.iter());
        laws::calls_are_made_once(&keys, &asked, &mut self.wrong);
        let asked = self.provider.asked();
        laws::answers_are_kept(&keys, &asked, &mut self.wrong);
        laws::models_see_what_people_saw(&keys, &asked, &mut self.wrong);
        if at_rest {
            laws::nothing_is_asked_unwritten(&keys, &asked, &mut self.wrong);
        }
        for followed in &mut self.followers {
            let follower = &followed.follower;
            let book = books.iter().find(|book| book.session == follower.session);
            let book = book.expect("followers follow what is in use");
            let (name, after) = (follower.name, followed.checked);
            let shown = follower.shown(after);
            followed.checked += laws::shown_is_kept(book, name, after, &shown, &mut self.wrong);
        }
        self.books = books;
    }

    async fn look_into(&mut self, book: &mut Book, promises: &[Acknowledged], at_rest: bool) {
        self.read(book).await;
        let turns = book.turns.iter();
        let ended = turns.filter(|(_, turn)| turn.ended.is_some());
        let ended: BTreeSet<String> = ended.map(|(id, _)| id.clone()).collect();
        let slots = self.slots(&book.session).await;
        let mut pages = Vec::new();
        let mut before = String::new();
        loop {
            let session = &book.session;
            let page = self
                .get(&format!(
                    "/v1/sessions/{session}/transcript?limit=200{before}"
                ))
                .await;
            let older = page["before"].as_str().map(|it| format!("&before={it}"));
            pages.push(page);
            match older {
                // Older pages are what they were, so they are read once, at the end.
                Some(older) if at_rest => before = older,
                _ => break,
            }
        }
        self.read(book).await;
        let wrong = &mut self.wrong;
        laws::transcript_is_events(book, &pages, wrong);
        laws::locks_die_with_their_turns(book, &slots, &ended, at_rest, wrong);
        laws::promises_are_kept(book, promises, wrong);
        laws::messages_are_consumed_once(book, at_rest, wrong);
        laws::words_are_said_once(book, wrong);
        laws::turns_outlive_the_host(book, wrong);
        let broken = std::mem::take(&mut book.broken);
        let session = &book.session;
        wrong.extend(broken.into_iter().map(|why| format!("{session}: {why}")));
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.json("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Read the journal on from where the book ends.
    async fn read(&self, book: &mut Book) {
        loop {
            let (session, offset) = (&book.session, book.offset());
            let mut page = self
                .get(&format!("/v1/sessions/{session}/journal?offset={offset}"))
                .await;
            if let Value::Array(entries) = page["entries"].take() {
                entries.into_iter().for_each(|entry| book.take(entry));
            }
            if page["up_to_date"] == true {
                return;
            }
        }
    }

    /// The session's slots with their documents.
    async fn slots(&self, session: &str) -> Vec<Value> {
        let list = self.get(&format!("/v1/sessions/{session}/slots")).await;
        let mut slots = Vec::new();
        for slot in list["slots"].as_array().into_iter().flatten() {
            let name = slot["slot"].as_str().expect("a name");
            let path = format!("/v1/sessions/{session}/slots/{name}");
            let (status, slot) = self.json("GET", &path, None).await;
            match status {
                200 => slots.push(slot),
                // It was only locked, never written, and the lock is gone.
                404 => {}
                _ => panic!("{path}: {status} {slot}"),
            }
        }
        slots
    }

    /// Let everything come to rest, and look at all of it once more.
    pub(super) async fn finish(mut self) -> Result<Summary, String> {
        if self.wrong.is_empty() {
            self.rest().await;
            self.look(true).await;
            self.read_again().await;
            if let Err(why) = self.close() {
                self.wrong.push(why);
            }
        }
        self.count();
        if self.summary.resumed == 0 && self.wrong.is_empty() {
            self.wrong.push("no turn was resumed".to_owned());
        }
        if self.wrong.is_empty() {
            return Ok(std::mem::take(&mut self.summary));
        }
        let (summary, count) = (&self.summary, self.wrong.len());
        self.wrong.truncate(20);
        let wrong = self.wrong.join("\n- ");
        Err(format!("{summary}\n{count} findings:\n- {wrong}"))
    }

    /// Nobody sends any more; what was sent is answered, and everybody is shown it.
    async fn rest(&mut self) {
        self.stop.send_replace(true);
        for client in std::mem::take(&mut self.clients) {
            client.await.expect("clients do not panic");
        }
        let mut books = std::mem::take(&mut self.books);
        for book in &mut books {
            self.quiet(book).await;
        }
        // Those left alone have asked, and nobody has opened them: only now somebody does.
        for session in &self.alone {
            let question = format!("{session}{}", script::BARE);
            let heard = tokio::time::timeout(HANGS, self.provider.heard(&question)).await;
            if heard.is_err() {
                let why = format!("{session}: what is due is not done by itself");
                self.wrong.push(why);
            }
        }
        for session in self.alone.clone() {
            let mut book = Book::new(&session);
            self.quiet(&mut book).await;
            books.push(book);
        }
        for followed in &self.followers {
            let follower = &followed.follower;
            let book = books.iter().find(|book| book.session == follower.session);
            let last = book.and_then(|book| Some(seq(&book.events.last()?["offset"])));
            follower.reached(last.unwrap_or(0)).await;
        }
        self.books = books;
    }

    /// Read on until nothing is open and no message waits.
    async fn quiet(&self, book: &mut Book) {
        loop {
            self.read(book).await;
            let open = book.turns.values().any(|turn| turn.ended.is_none());
            let mut messages = book.messages.values();
            let waits = messages.any(|it| it.consumed.is_empty() && !it.set_aside);
            let agents = self.get(&format!("/v1/sessions/{}", book.session)).await;
            let mut agents = agents["agents"].as_array().into_iter().flatten();
            let runs = agents.any(|agent| !agent["turn"].is_null());
            if !open && !waits && !runs {
                return;
            }
            let (session, offset) = (&book.session, book.offset());
            let path = format!("/v1/sessions/{session}/events?live=long-poll&offset={offset}");
            let next = tokio::time::timeout(HANGS, self.get(&path)).await;
            assert!(next.is_ok(), "{session} does not come to rest");
        }
    }

    /// A whole new reading is what was read bit by bit over all crashes.
    async fn read_again(&mut self) {
        for book in &self.books {
            let mut again = Book::new(&book.session);
            self.read(&mut again).await;
            if again.entries != book.entries {
                let why = format!("{}: the journal is not what it was", book.session);
                self.wrong.push(why);
            }
        }
    }

    /// The last process stops in order, and the store is sound.
    fn close(&mut self) -> Result<(), String> {
        self.up.send_replace(0);
        let process = self.process.take().ok_or("nobody runs")?;
        if !process.terminate().success() {
            return Err("the last stop was not clean".to_owned());
        }
        let check = crate::process::command(&["store", "check", "--data"])
            .arg(self.data.path())
            .output()
            .map_err(|error| error.to_string())?;
        if check.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&check.stdout).into_owned())
    }

    fn count(&mut self) {
        let summary = &mut self.summary;
        let promises = lock(&self.promises);
        let messages = promises.iter().filter(|it| it.message.is_some());
        summary.acknowledged = messages.count();
        summary.interruptions = promises.len() - summary.acknowledged;
        summary.calls = self.provider.asked().len();
        for book in &self.books {
            summary.entries += book.entries.len();
            summary.words += laws::words_are_said_once(book, &mut Vec::new());
            summary.set_aside += book.messages.values().filter(|it| it.set_aside).count();
            for turn in book.turns.values() {
                summary.commits += turn.commits;
                let calls = turn.calls.values();
                summary.repeats_declared += calls.map(|call| call.retried).sum::<usize>();
                let Some(ended) = &turn.ended else { continue };
                summary.resumed += usize::from(turn.resumed > 0 && ended.outcome == "completed");
                let outcome = match &ended.error {
                    Some(error) => format!("{} ({error})", ended.outcome),
                    None => ended.outcome.clone(),
                };
                *summary.turns.entry(outcome).or_default() += 1;
            }
        }
        for followed in &self.followers {
            summary.events_shown += followed.checked;
        }
    }
}
