//! Bounds that somebody came to, by name.

use metrics::{counter, describe_counter};

const LIMITS: &str = "antiphon_limits_hit_total";

pub(super) fn describe() {
    describe_counter!(
        LIMITS,
        "What was refused or ended because it had come to a limit, by the limit's name"
    );
}

/// A bound that somebody came to. Those that are settings have their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    ComponentBytes,
    /// What a component is made of: too many of something.
    ComponentShape,
    CompileMs,
    CompileMemoryBytes,
    CompilesWaiting,
    MemoryBytes,
    CpuMs,
    CpuTenantMinute,
    TurnMs,
    /// A recursion without an end.
    Stack,
    HostCalls,
    HostCallBytes,
    WrittenBytes,
    Handles,
    ReplyBytes,
    MessageBytes,
    SlotBytes,
    Slots,
    MailboxMessages,
    Recounted,
    CallDepth,
    QuestionBytes,
    QuestionChoices,
    QuestionsTurn,
    QuestionMs,
    QuestionWaitMs,
    HttpCalls,
    HttpMs,
    /// Of a request of an agent or of its answer: body or headers.
    HttpBytes,
    Streams,
    StreamsTenant,
    Connections,
    Handshakes,
    HandshakeMs,
    InstanceWaitMs,
    HeadMs,
    BodyStallMs,
    BodyMs,
    WriteStallMs,
    IdleMs,
    TurnsWaiting,
    TurnsWaitingTenant,
    SessionsOpen,
    Forks,
    RequestBytes,
    StreamBodyBytes,
    StreamOpen,
    StreamProducers,
    StreamForkDepth,
    Subscriptions,
    SubscriptionStreams,
    Webhooks,
    WebhooksTenant,
    DeadLetters,
    Notices,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Self::ComponentBytes => "component_bytes_max",
            Self::ComponentShape => "component_shape",
            Self::CompileMs => "compile_ms_max",
            Self::CompileMemoryBytes => "compile_memory_bytes_max",
            Self::CompilesWaiting => "compiles_waiting_max",
            Self::MemoryBytes => "memory_bytes_max",
            Self::CpuMs => "cpu_ms_max",
            Self::CpuTenantMinute => "cpu_tenant_minute_ms_max",
            Self::TurnMs => "turn_ms_max",
            Self::Stack => "stack",
            Self::HostCalls => "host_calls_max",
            Self::HostCallBytes => "host_call_bytes_max",
            Self::WrittenBytes => "written_bytes_max",
            Self::Handles => "handles_max",
            Self::ReplyBytes => "reply_bytes_max",
            Self::MessageBytes => "message_bytes_max",
            Self::SlotBytes => "slot_bytes_max",
            Self::Slots => "slots_max",
            Self::MailboxMessages => "mailbox_messages_max",
            Self::Recounted => "recounted_max",
            Self::CallDepth => "call_depth_max",
            Self::QuestionBytes => "question_bytes_max",
            Self::QuestionChoices => "question_choices_max",
            Self::QuestionsTurn => "questions_turn_max",
            Self::QuestionMs => "question_ms_max",
            Self::QuestionWaitMs => "question_wait_ms_max",
            Self::HttpCalls => "http_calls_max",
            Self::HttpMs => "http_ms_max",
            Self::HttpBytes => "http_bytes",
            Self::Streams => "streams_max",
            Self::StreamsTenant => "streams_tenant_max",
            Self::Connections => "connections_max",
            Self::Handshakes => "handshakes_max",
            Self::HandshakeMs => "handshake_ms_max",
            Self::InstanceWaitMs => "instance_wait_ms_max",
            Self::HeadMs => "head_ms_max",
            Self::BodyStallMs => "body_stall_ms_max",
            Self::BodyMs => "body_ms_max",
            Self::WriteStallMs => "write_stall_ms_max",
            Self::IdleMs => "idle_ms_max",
            Self::TurnsWaiting => "turns_waiting_max",
            Self::TurnsWaitingTenant => "turns_waiting_tenant_max",
            Self::SessionsOpen => "sessions_open_max",
            Self::Forks => "forks_max",
            Self::RequestBytes => "request_bytes_max",
            Self::StreamBodyBytes => "stream_body_bytes_max",
            Self::StreamOpen => "stream_open_max",
            Self::StreamProducers => "stream_producers_max",
            Self::StreamForkDepth => "stream_fork_depth_max",
            Self::Subscriptions => "subscriptions_max",
            Self::SubscriptionStreams => "subscription_streams_max",
            Self::Webhooks => "webhooks_max",
            Self::WebhooksTenant => "webhooks_tenant_max",
            Self::DeadLetters => "dead_letters_max",
            Self::Notices => "notices_max",
        }
    }
}

/// Somebody came to a limit, and was refused or ended for it.
pub fn hit(limit: Limit) {
    counter!(LIMITS, "limit" => limit.name()).increment(1);
}
