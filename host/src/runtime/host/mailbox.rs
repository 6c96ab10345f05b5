//! `mailbox`: what was sent to this agent.

use serde_json::Value;

use crate::journal::state::Sender as StateSender;
use crate::runtime::bindings::antiphon::agent::mailbox::{
    Body, Header, Host, Message, Page, SendError, Sender,
};
use crate::runtime::guest::Guest;
use crate::runtime::scope::messages::{self, SendRefused};

/// A message's header in the guest's words.
pub(in crate::runtime) fn header(header: messages::Header) -> Header {
    Header {
        id: header.message.as_str().to_owned(),
        sender: match header.sender {
            StateSender::Person(author) => Sender::Person(author.as_str().to_owned()),
            StateSender::Agent(agent) => Sender::Agent(agent.as_str().to_owned()),
        },
        received_at: header.received_at.0,
        bytes: header.bytes,
    }
}

fn message(message: messages::Message) -> Message {
    Message {
        header: header(message.header),
        body: match message.body {
            Value::String(text) => Body::Text(text),
            other => Body::Json(other.to_string()),
        },
    }
}

impl Host for Guest {
    async fn pending(&mut self) -> wasmtime::Result<Vec<Header>> {
        let headers = self.scope.pending().await?;
        Ok(headers.into_iter().map(header).collect())
    }

    async fn pull(&mut self, max: u32) -> wasmtime::Result<Vec<Message>> {
        let messages = self.scope.pull(max).await?;
        Ok(messages.into_iter().map(message).collect())
    }

    fn leave(&mut self, id: String) -> wasmtime::Result<bool> {
        Ok(self.scope.leave(&id)?)
    }

    async fn read(&mut self, id: String) -> wasmtime::Result<Option<Message>> {
        Ok(self.scope.read_message(&id).await?.map(message))
    }

    async fn search(&mut self, query: String, cursor: Option<String>) -> wasmtime::Result<Page> {
        let page = self.scope.search(&query, cursor.as_deref()).await?;
        Ok(Page {
            headers: page.headers.into_iter().map(header).collect(),
            next: page.next.map(|seq| seq.to_string()),
        })
    }

    fn send(&mut self, to: String, body: Body) -> wasmtime::Result<Result<String, SendError>> {
        let (Body::Text(text) | Body::Json(text)) = &body;
        let length = text.len();
        let body = match body {
            Body::Text(text) => Ok(Value::String(text)),
            Body::Json(text) => serde_json::from_str(&text),
        };
        Ok(match self.scope.send(&to, body, length)? {
            Ok(message) => Ok(message.as_str().to_owned()),
            Err(SendRefused::UnknownAgent) => Err(SendError::UnknownAgent),
            Err(SendRefused::Full) => Err(SendError::Full),
            Err(SendRefused::TooLarge) => Err(SendError::TooLarge),
            Err(SendRefused::NotJson) => Err(SendError::Other("the body is not JSON".into())),
        })
    }
}
