//! What the benchmark counts as one turn of work: pull, read a slot, lock it, commit the
//! next number, say one short chunk. In this order, and nothing else.

use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, kernel, mailbox, reply};

const SLOT: &str = "count";

struct Worker;

impl Agent for Worker {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        mailbox::pull_all();
        let count = kernel::read(SLOT)
            .and_then(|slot| slot.content.parse::<u64>().ok())
            .unwrap_or(0);
        kernel::lock(SLOT)?.commit(&(count + 1).to_string())?;
        reply::say("done")?;
        Ok(TurnOutput::default())
    }
}

antiphon_sdk::export!(Worker);

#[cfg(test)]
mod tests {
    use antiphon_sdk::testing::Host;

    use super::{SLOT, Worker};

    #[test]
    fn each_turn_counts_one_further() {
        let host = Host::new("worker");
        for count in ["1", "2"] {
            host.receive("ana", "go");
            assert_eq!(host.turn::<Worker>().said, "done");
            assert_eq!(host.document(SLOT).as_deref(), Some(count));
        }
    }
}
