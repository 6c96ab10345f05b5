//! An agent that means harm. Its message is `{"mode": NAME, "port": N}`: see [`Mode`].
//!
//! What it finds or hears is said, one line each, so that tests see what it got out of it.

mod burden;
mod mode;
mod pry;

use antiphon_sdk::mailbox::{self, Body};
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, reply};
use serde::Deserialize;

use mode::Mode;

#[derive(Deserialize)]
struct Order {
    mode: String,
    /// Of something that listens on this machine.
    #[serde(default)]
    port: u16,
}

struct Hostile;

impl Agent for Hostile {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        let mut output = TurnOutput::default();
        for message in mailbox::pull_all() {
            let (Body::Text(order) | Body::Json(order)) = &message.body;
            let order: Order = serde_json::from_str(order)
                .map_err(|error| AgentError::InvalidInput(error.to_string()))?;
            let mode = Mode::ALL.iter().find(|mode| mode.name() == order.mode);
            let mode = mode.ok_or_else(|| AgentError::InvalidInput(order.mode.clone()))?;
            perform(*mode, order.port, &mut output)?;
        }
        Ok(output)
    }
}

fn perform(mode: Mode, port: u16, output: &mut TurnOutput) -> Result<(), AgentError> {
    match mode {
        Mode::Spins => burden::spin(),
        Mode::Calls => burden::call(),
        Mode::Allocates => burden::allocate(),
        Mode::Recurses => {
            std::hint::black_box(burden::recurse(0));
        }
        Mode::Opens => burden::open(),
        Mode::SendsGiB => burden::send(1024 * 1024 * 1024),
        Mode::SendsTooMuch => burden::send(10 * 1024 * 1024),
        Mode::TrapsHolding => burden::trap_holding(),
        Mode::TrapsSpeaking => burden::trap_speaking(),
        Mode::Waits => burden::wait(),
        Mode::Speaks => burden::speak(),
        Mode::Prints => burden::print(),
        Mode::Commits => burden::commit(),
        Mode::MakesSlots => burden::make_slots()?,
        Mode::Notes => burden::note()?,
        Mode::Mails => burden::mail()?,
        Mode::Wakes => output.wake_at = Some(0),
        Mode::FailsAtLength => return Err(burden::failure()),
        Mode::Exits => std::process::exit(0),
        Mode::Guesses => pry::guess()?,
        Mode::Reaches => pry::reach(port)?,
        Mode::Fetches => pry::fetch(port)?,
        Mode::Forges => pry::forge(port)?,
        Mode::Injects => return pry::inject(port),
    }
    Ok(())
}

/// Say what came of something, as a line.
fn tell(line: &str) -> Result<(), AgentError> {
    Ok(reply::say(&format!("{line}\n"))?)
}

antiphon_sdk::export!(Hostile);

#[cfg(test)]
mod tests {
    use antiphon_sdk::testing::Host;

    use super::{Hostile, Mode};

    #[test]
    fn modes_have_names_of_their_own() {
        let mut names: Vec<_> = Mode::ALL.iter().map(|mode| mode.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Mode::ALL.len());
    }

    #[test]
    fn does_what_its_message_names() {
        let host = Host::new("hostile");
        host.receive("ana", r#"{"mode": "guesses"}"#);
        let said = host.turn::<Hostile>().said;
        assert!(said.lines().count() > 10, "{said}");
    }
}
