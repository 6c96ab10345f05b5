//! The kinds of entries: their numbers on disk and their words.

/// The number of a kind on disk. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    SessionOpened = 1,
    SessionChanged = 2,
    MessageReceived = 3,
    MessageSent = 4,
    TurnStarted = 5,
    Called = 6,
    Returned = 7,
    Streamed = 8,
    Observed = 9,
    Spoke = 10,
    SlotLocked = 11,
    SlotCommitted = 12,
    SlotReleased = 13,
    InterruptRequested = 14,
    TurnEnded = 15,
    MessageSetAside = 16,
    Retried = 17,
    AgentSuspended = 18,
    AgentResumed = 19,
    SessionForked = 20,
    SpeakerStarted = 21,
    SpeakerEnded = 22,
    Halted = 23,
    AgentCalled = 24,
    CallCancelled = 25,
    Recounted = 26,
    ToolsCalled = 27,
    Asked = 28,
    Answered = 29,
}

impl Kind {
    pub const ALL: [Self; 29] = [
        Self::SessionOpened,
        Self::SessionChanged,
        Self::MessageReceived,
        Self::MessageSent,
        Self::TurnStarted,
        Self::Called,
        Self::Returned,
        Self::Streamed,
        Self::Observed,
        Self::Spoke,
        Self::SlotLocked,
        Self::SlotCommitted,
        Self::SlotReleased,
        Self::InterruptRequested,
        Self::TurnEnded,
        Self::MessageSetAside,
        Self::Retried,
        Self::AgentSuspended,
        Self::AgentResumed,
        Self::SessionForked,
        Self::SpeakerStarted,
        Self::SpeakerEnded,
        Self::Halted,
        Self::AgentCalled,
        Self::CallCancelled,
        Self::Recounted,
        Self::ToolsCalled,
        Self::Asked,
        Self::Answered,
    ];

    pub fn of_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn number(self) -> u16 {
        self as u16
    }

    /// The word used in events, queries and docs.
    pub fn name(self) -> &'static str {
        match self {
            Self::SessionOpened => "session-opened",
            Self::SessionChanged => "session-changed",
            Self::MessageReceived => "message-received",
            Self::MessageSent => "message-sent",
            Self::TurnStarted => "turn-started",
            Self::Called => "called",
            Self::Returned => "returned",
            Self::Streamed => "streamed",
            Self::Observed => "observed",
            Self::Spoke => "spoke",
            Self::SlotLocked => "slot-locked",
            Self::SlotCommitted => "slot-committed",
            Self::SlotReleased => "slot-released",
            Self::InterruptRequested => "interrupt-requested",
            Self::TurnEnded => "turn-ended",
            Self::MessageSetAside => "message-set-aside",
            Self::Retried => "retried",
            Self::AgentSuspended => "agent-suspended",
            Self::AgentResumed => "agent-resumed",
            Self::SessionForked => "session-forked",
            Self::SpeakerStarted => "speaker-started",
            Self::SpeakerEnded => "speaker-ended",
            Self::Halted => "halted",
            Self::AgentCalled => "agent-called",
            Self::CallCancelled => "call-cancelled",
            Self::Recounted => "recounted",
            Self::ToolsCalled => "tools-called",
            Self::Asked => "asked",
            Self::Answered => "answered",
        }
    }

    /// Whether clients see it as an event.
    pub fn is_visible(self) -> bool {
        match self {
            Self::SessionOpened
            | Self::SessionChanged
            | Self::MessageReceived
            | Self::MessageSent
            | Self::TurnStarted
            | Self::Spoke
            | Self::SlotCommitted
            | Self::InterruptRequested
            | Self::TurnEnded
            | Self::MessageSetAside
            | Self::Retried
            | Self::AgentSuspended
            | Self::AgentResumed
            | Self::SessionForked
            | Self::SpeakerStarted
            | Self::SpeakerEnded
            | Self::Halted
            | Self::AgentCalled
            | Self::CallCancelled
            | Self::Recounted
            | Self::ToolsCalled
            | Self::Asked
            | Self::Answered => true,
            Self::Called
            | Self::Returned
            | Self::Streamed
            | Self::Observed
            | Self::SlotLocked
            | Self::SlotReleased => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_number_and_one_name_each() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_number(kind.number()), Some(kind));
            assert_eq!(Kind::of_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::of_number(0), None);
        assert_eq!(Kind::of_number(30), None);
    }
}
