//! Reading a stream of events.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::client::HANGS;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

impl Event {
    fn of_block(block: &str) -> Option<Self> {
        let field = |name: &str| {
            let lines = block.lines().filter_map(|line| line.strip_prefix(name));
            lines.collect::<Vec<_>>().join("\n")
        };
        let (id, kind, data) = (field("id: "), field("event: "), field("data: "));
        // A comment.
        if data.is_empty() {
            return None;
        }
        let data = serde_json::from_str(&data).expect("the data of an event is JSON");
        Some(Self { id, kind, data })
    }
}

/// An open stream. Dropping it hangs up.
pub(crate) struct Events {
    line: String,
    pub(crate) head: HeaderMap,
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
}

impl Events {
    pub(crate) async fn new(line: String, response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let head = response.headers().clone();
        if status != 200 {
            let text = response.text().await.unwrap_or_default();
            panic!("{line}: {status} {text}");
        }
        assert_eq!(head["content-type"], "text/event-stream", "{line}");
        Self {
            line,
            head,
            bytes: response.bytes_stream().boxed(),
            buffer: Vec::new(),
        }
    }

    /// The next event; none when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        // Of a stream on which nothing happens comments come for ever.
        let line = self.line.clone();
        let next = tokio::time::timeout(HANGS, self.read()).await;
        next.unwrap_or_else(|_| panic!("{line}: no more events"))
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let block = String::from_utf8(block).expect("UTF-8");
                if let Some(event) = Event::of_block(&block) {
                    return Some(event);
                }
            }
            match self.bytes.next().await {
                Some(chunk) => self
                    .buffer
                    .extend_from_slice(&chunk.expect("the stream is whole")),
                None => return None,
            }
        }
    }

    /// All events up to and with the first that is wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            let last = wanted(&event);
            events.push(event);
            if last {
                return events;
            }
        }
        panic!("{}: ended after {events:?}", self.line);
    }

    /// All events up to the end of this agent's next turn.
    pub(crate) async fn turn(&mut self, agent: &str) -> Vec<Event> {
        self.until(|event| event.kind == "turn-ended" && event.data["agent"] == agent)
            .await
    }

    /// Wait until so much was shown; answers exactly that.
    pub(crate) async fn shown(&mut self, text: &str) -> Vec<Event> {
        let mut events = Vec::new();
        while said(&events) != text {
            let event = self.next().await;
            events.push(event.unwrap_or_else(|| panic!("{}: only {events:?}", self.line)));
        }
        events
    }

    /// All events to the end of the stream.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// What people were shown in these events.
pub(crate) fn said(events: &[Event]) -> String {
    let spoke = events.iter().filter(|event| event.kind == "spoke");
    spoke
        .map(|event| event.data["text"].as_str().expect("words"))
        .collect()
}

/// The kinds, in order.
pub(crate) fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}
