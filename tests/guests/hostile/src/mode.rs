//! What the hostile agent does, by name. The tests read this file too: there, a mode without an outcome
//! that is expected of it does not compile.

macro_rules! modes {
    ($($(#[doc = $doc:literal])+ $mode:ident = $name:literal,)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Mode {
            $($(#[doc = $doc])+ $mode,)+
        }

        impl Mode {
            pub(crate) const ALL: &[Self] = &[$(Self::$mode,)+];

            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$mode => $name,)+
                }
            }
        }
    };
}

modes! {
    /// Computes for ever.
    Spins = "spins",
    /// Calls the host for ever, and waits for nothing.
    Calls = "calls",
    /// Allocates for ever.
    Allocates = "allocates",
    /// Recurses for ever.
    Recurses = "recurses",
    /// Opens handles for ever, and drops none.
    Opens = "opens",
    /// Makes a text of 1 GiB to hand over.
    SendsGiB = "sends-gib",
    /// Hands over one text that fits into its memory and into no call.
    SendsTooMuch = "sends-too-much",
    /// Traps while it holds a lock.
    TrapsHolding = "traps-holding",
    /// Traps in the middle of its reply.
    TrapsSpeaking = "traps-speaking",
    /// Waits, and never returns from it.
    Waits = "waits",
    /// Speaks for ever.
    Speaks = "speaks",
    /// Prints for ever.
    Prints = "prints",
    /// Commits long documents for ever.
    Commits = "commits",
    /// Makes slots for ever.
    MakesSlots = "makes-slots",
    /// Adds to its context for ever.
    Notes = "notes",
    /// Sends itself and others messages for ever.
    Mails = "mails",
    /// Asks to be woken at once, at the beginning of time and at its end.
    Wakes = "wakes",
    /// Fails with a text as long as its memory allows.
    FailsAtLength = "fails-at-length",
    /// Ends its process.
    Exits = "exits",
    /// Guesses names of other sessions, tenants, slots and agents.
    Guesses = "guesses",
    /// Asks for files, variables, addresses and threads.
    Reaches = "reaches",
    /// Asks for the host's network and the cloud's metadata over HTTP.
    Fetches = "fetches",
    /// Sets headers that are the host's to set.
    Forges = "forges",
    /// Puts newlines and control characters into whatever takes a text.
    Injects = "injects",
}
