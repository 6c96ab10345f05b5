//! The smallest agent: it says back what it is sent.
//!
//! The reply is the messages' bodies, byte for byte, in order of arrival, joined by line
//! breaks: to the one message `hello` it is `hello`. JSON comes back as it was written. It
//! asks no model, so what it says depends on nothing but its messages.

use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, mailbox, reply};

struct Echo;

impl Agent for Echo {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        let messages = mailbox::pull_all();
        let bodies: Vec<&str> = messages
            .iter()
            .map(|message| message.body.as_text())
            .collect();
        reply::say(&bodies.join("\n"))?;
        Ok(TurnOutput::default())
    }
}

antiphon_sdk::export!(Echo);

#[cfg(test)]
mod tests {
    use antiphon_sdk::AgentError;
    use antiphon_sdk::mailbox::{Body, Sender};
    use antiphon_sdk::testing::{Host, Limits};

    use super::Echo;

    #[test]
    fn one_message_comes_back_as_it_is() {
        let host = Host::new("echo");
        let id = host.receive("ana", "hello");

        let turn = host.turn::<Echo>();
        assert_eq!(turn.said, "hello");
        assert_eq!(turn.consumed, [id]);
    }

    #[test]
    fn a_burst_is_one_reply_in_order() {
        let host = Host::new("echo");
        host.receive("ana", "one");
        host.receive("ben", " two ");
        host.receive_from(
            Sender::Agent("clerk".to_owned()),
            Body::Json("{\"n\": 3}".to_owned()),
        );

        assert_eq!(host.turn::<Echo>().said, "one\n two \n{\"n\": 3}");
    }

    #[test]
    fn what_is_too_long_to_say_fails_and_waits() {
        let host = Host::new("echo");
        host.limits(Limits {
            reply_bytes_max: 4,
            ..Limits::default()
        });
        let id = host.receive("ana", "hello");

        let turn = host.turn::<Echo>();
        assert!(matches!(turn.result, Err(AgentError::Unavailable(_))));
        assert_eq!((turn.said.as_str(), turn.left), ("", vec![id]));
    }
}
