//! Every bound of the host, with its number and where it comes from.

use serde::Deserialize;

use crate::bus;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Bounds. The unit is the last word before `_max`; `…s_max` without a unit counts things.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    // What a component may be.
    /// Of an uploaded component.
    pub component_bytes_max: u64,

    /// What compiling a component computes, on all cores together.
    pub compile_ms_max: u64,
    /// Address space of the process that compiles it.
    pub compile_memory_bytes_max: u64,
    /// Components compiled at once, of all tenants; of each one it is one.
    pub compiles_max: u64,
    /// Uploads of one tenant that wait for that; more are refused with 429.
    pub compiles_waiting_max: u64,

    // What a turn may use.
    /// Linear memory, summed over the instance.
    pub memory_bytes_max: u64,
    /// Time computing in the guest, waiting not counted.
    pub cpu_ms_max: u64,
    /// The same of all turns of a tenant, in a minute.
    pub cpu_tenant_minute_ms_max: u64,
    /// Guests that compute for longer than a moment, at once: others of them wait for their turn.
    pub computing_max: u64,
    /// Time from start to outcome, waiting counted.
    pub turn_ms_max: u64,
    pub host_calls_max: u64,
    /// Handed over by the guest in one host call.
    pub host_call_bytes_max: u64,
    /// What one turn writes into its session's journal, in one attempt.
    pub written_bytes_max: u64,
    /// Resources of the host held at once.
    pub handles_max: u64,
    /// Said in one turn.
    pub reply_bytes_max: u64,
    /// Of a question to people, its choices counted.
    pub question_bytes_max: u64,
    /// Of one question.
    pub question_choices_max: u64,
    /// Questions of one turn.
    pub questions_turn_max: u64,
    /// How long people may take to answer one; agents may ask for less.
    pub question_ms_max: u64,
    /// Requests of one turn to places outside.
    pub http_calls_max: u64,
    /// Of one request, from the call to the last byte.
    pub http_ms_max: u64,
    /// Of a request's body.
    pub http_request_bytes_max: u64,
    /// Of an answer's body; never more than `host_call_bytes_max`.
    pub http_response_bytes_max: u64,
    /// Of a request's URL and headers, and of an answer's headers.
    pub http_header_bytes_max: u64,

    /// Calls between agents that are so many calls deep are refused, also those from outside.
    pub call_depth_max: u64,

    // What a session may hold.
    pub message_bytes_max: u64,
    pub slot_bytes_max: u64,
    pub slots_max: u64,
    /// Waiting in one agent's mailbox.
    pub mailbox_messages_max: u64,
    /// Messages before the last ones in a request of the OpenAI API that begins a session.
    pub recounted_max: u64,

    /// A request that waits for a turn, while the turn asks people.
    pub question_wait_ms_max: u64,

    // What the host does at once.
    /// Streams of events and polls that are open.
    pub streams_max: u64,
    /// The same of one tenant.
    pub streams_tenant_max: u64,
    /// Connections of clients that are open; more are closed as they come.
    pub connections_max: u64,
    /// Requests of one HTTP/2 connection at once.
    pub connection_streams_max: u64,
    /// Connections that are agreeing on TLS; more are closed as they come.
    pub handshakes_max: u64,
    /// Until TLS is agreed on.
    pub handshake_ms_max: u64,
    /// From the first byte of a request's head to its last.
    pub head_ms_max: u64,
    /// Until more of a request's body comes.
    pub body_stall_ms_max: u64,
    /// Until all of it has come.
    pub body_ms_max: u64,
    /// Until a client takes more of what is written to it.
    pub write_stall_ms_max: u64,
    /// A connection without a request.
    pub idle_ms_max: u64,
    /// Turns running in the host.
    pub turns_max: u64,
    /// How long a turn keeps its instance, and its place, while it waits for a model to begin its answer.
    pub instance_wait_ms_max: u64,
    /// Those of one tenant, where there are several: a lone one may have all.
    pub turns_tenant_max: u64,
    /// Turns waiting for a place; more are refused with 429.
    pub turns_waiting_max: u64,
    /// The same of one tenant.
    pub turns_waiting_tenant_max: u64,
    /// Sessions held in memory; others wait in the store.
    pub sessions_open_max: u64,
    /// Sessions being copied; more are refused with 429.
    pub forks_max: u64,
    /// Days whose usage is kept apart; older ones become one sum.
    pub usage_days_max: u64,
    /// Of a request's body, uploads of components excepted.
    pub request_bytes_max: u64,
    /// Of a request's head.
    pub header_bytes_max: u64,
    /// Durable Streams held in memory; others wait in the store.
    pub stream_open_max: u64,
    /// Of one request that appends to a Durable Stream.
    pub stream_body_bytes_max: u64,
    /// Of one answer that reads a Durable Stream; one append more than that may be in it.
    pub stream_read_bytes_max: u64,
    /// A long poll of a Durable Stream.
    pub stream_wait_ms_max: u64,
    /// A live connection to a Durable Stream; its reader comes back.
    pub stream_live_ms_max: u64,
    /// Subscriptions to Durable Streams, of one tenant.
    pub subscriptions_max: u64,
    /// Streams that one subscription looks at.
    pub subscription_streams_max: u64,
    /// Requests to webhooks under way; more wait.
    pub webhooks_max: u64,
    /// Commits that had something to tell, kept of a tenant's notices; the oldest goes first.
    pub notices_max: u64,
    /// Days after which notices are not kept.
    pub notice_days_max: u64,
    /// Webhooks of one tenant.
    pub webhooks_tenant_max: u64,
    /// Times that a webhook is sent the same notices, before they are put aside as a dead letter.
    pub webhook_attempts_max: u64,
    /// The longest pause between two of these times.
    pub webhook_backoff_ms_max: u64,
    /// Dead letters kept of one webhook; the oldest goes first.
    pub dead_letters_max: u64,
    /// Entries kept of what administrators did, of each tenant; the oldest goes first.
    pub audit_entries_max: u64,
    /// Kept of what one agent printed and logged; the oldest goes first.
    pub log_bytes_max: u64,
    /// Of models' answers kept to be given again, of all tenants.
    pub cache_bytes_max: u64,
    /// The same of one tenant.
    pub cache_tenant_bytes_max: u64,
    /// How old such an answer may be.
    pub cache_seconds_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Agents in Rust are below 1 MiB, in JavaScript 12, in Python 18.
            component_bytes_max: 32 * MIB,

            // 18 MB of functions, as an interpreter has, took 9 s of one core.
            compile_ms_max: 60_000,
            // And 330 MB; one very long function takes more.
            compile_memory_bytes_max: 2 * 1024 * MIB,
            // Half of the cores: the others serve.
            compiles_max: (cores() / 2).max(1),
            // Each holds its component in memory: 128 MiB of a tenant with the largest there are.
            compiles_waiting_max: 4,

            // A JavaScript engine with its heap takes 2-3 MB when idle; room for documents of
            // `slot_bytes_max` many times over, and 64 such turns still fit in 8 GiB.
            memory_bytes_max: 128 * MIB,
            // A turn computes for microseconds and waits for seconds; 2 s is a runaway.
            cpu_ms_max: 2_000,
            // All of every core: no bound until an operator sets one.
            cpu_tenant_minute_ms_max: cores() * 60_000,
            // One core is for all that takes a moment.
            computing_max: (cores() - 1).max(1),
            // The slowest models think for minutes, and a turn may ask several times.
            turn_ms_max: 600_000,
            // A streamed answer of 10,000 tokens read piece by piece, ten times over.
            host_calls_max: 100_000,
            // One whole slot in one call.
            host_call_bytes_max: 4 * MIB,
            // Sixty-four of the longest documents.
            written_bytes_max: 256 * MIB,
            handles_max: 1_000,
            // More text than any model says in one answer.
            reply_bytes_max: MIB,
            // What somebody reads on the way: longer things are said before it, or belong in a slot.
            question_bytes_max: 16 * KIB,
            // More is a list that somebody searches.
            question_choices_max: 32,
            // For each, the turn does again what it has done so far.
            questions_turn_max: 100,
            // Somebody is on leave, and comes back.
            question_ms_max: 30 * 24 * 60 * 60 * 1_000,
            // Each leaves its answer in the journal: a turn that wants more is a crawler.
            http_calls_max: 1_000,
            // The slowest interfaces answer within a minute, or with a place to ask again.
            http_ms_max: 60_000,
            // What a model can make sense of is far shorter; larger files want another way.
            http_request_bytes_max: MIB,
            http_response_bytes_max: MIB,
            // Twice what common servers take; an entry holds an answer's.
            http_header_bytes_max: 16 * KIB,

            // The protocol's: cycles end there, and people nest no deeper.
            call_depth_max: bus::DEPTH_MAX as u64,

            // A message is what a person writes or pastes; longer things belong in a slot.
            message_bytes_max: MIB,
            slot_bytes_max: 4 * MIB,
            slots_max: 256,
            mailbox_messages_max: 10_000,
            // More than fits into what models read; one commit writes them all.
            recounted_max: 2_000,

            // As long as a turn may run: whoever answers at once is not missed.
            question_wait_ms_max: 600_000,

            streams_max: 1_000,
            // Two tenants that take all they may leave nobody out.
            streams_tenant_max: 500,
            // What servers are usually allowed in file descriptors, less what the store holds.
            connections_max: 8_000,
            // A page that follows all its sessions over one connection.
            connection_streams_max: 100,
            // A handshake computes for a millisecond: a queue of these is a quarter of a second.
            handshakes_max: 256,
            // Three round trips over the worst of networks.
            handshake_ms_max: 10_000,
            // A head is a few kilobytes: who has not sent it by then holds the connection for nothing.
            head_ms_max: 10_000,
            // A radio that looks for its cell is silent for less.
            body_stall_ms_max: 20_000,
            // `component_bytes_max` at 1 Mbit/s.
            body_ms_max: 300_000,
            // A page in the background reads nothing for a while; who comes later resumes.
            write_stall_ms_max: 30_000,
            // Longer than pools of common proxies keep a connection that nobody uses.
            idle_ms_max: 120_000,

            // About 5,000 live instances fit under the default `vm.max_map_count`.
            turns_max: 1_000,
            // Models that have nothing to think about begin sooner; coming back costs a thousandth of it.
            instance_wait_ms_max: 1_000,
            // Fifteen busy tenants fill the host.
            turns_tenant_max: 64,
            // Twenty rounds of a full host: at 3,000 turns/s the last waits some seconds.
            turns_waiting_max: 20_000,
            // Half: whoever has as many leaves the others room to be heard.
            turns_waiting_tenant_max: 10_000,
            // Some 50 KB each: 1 GB.
            sessions_open_max: 20_000,
            // A copy keeps the disk busy for as long as the journal is long: a few of them leave
            // most of it to those who talk.
            forks_max: 4,
            // A year can be compared with the one before it, month by month.
            usage_days_max: 400,
            // `slot_bytes_max`, or a message of `message_bytes_max` in which JSON escapes
            // every byte in six, and the rest of the request.
            request_bytes_max: 8 * MIB,
            header_bytes_max: 64 * KIB,
            // Some 2 KB each, and 64 KB while they are followed.
            stream_open_max: 10_000,
            // A picture, or a batch of ten thousand messages.
            stream_body_bytes_max: 8 * MIB,
            // A thousand messages of a kilobyte, in one answer that a cache can keep.
            stream_read_bytes_max: MIB,
            // The protocol's: shorter than the minute after which proxies give up.
            stream_wait_ms_max: 30_000,
            // The protocol's: caches and balancers in between get their turn.
            stream_live_ms_max: 60_000,
            subscriptions_max: 1_000,
            // Some 300 bytes each, in memory and in the store.
            subscription_streams_max: 10_000,
            webhooks_max: 64,
            // Some 200 bytes each: a week of a busy server, or what nobody looks at.
            notices_max: 1_000_000,
            notice_days_max: 7,
            webhooks_tenant_max: 20,
            // With the pauses some nineteen hours: somebody looks at a server that is away for a working day.
            webhook_attempts_max: 30,
            webhook_backoff_ms_max: 60 * 60 * 1_000,
            dead_letters_max: 1_000,
            // A year of a deploy an hour, 300 bytes each.
            audit_entries_max: 10_000,
            log_bytes_max: MIB,
            // Ten thousand long answers.
            cache_bytes_max: 64 * MIB,
            // Four tenants that ask much leave each other room.
            cache_tenant_bytes_max: 16 * MIB,
            // A day: what is older is looked up better elsewhere.
            cache_seconds_max: 24 * 60 * 60,
        }
    }
}

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

impl Limits {
    /// Every limit by name.
    pub(super) fn named(&self) -> [(&'static str, u64); 71] {
        // Taken apart whole, so that a new field cannot be forgotten here.
        let Self {
            component_bytes_max,
            compile_ms_max,
            compile_memory_bytes_max,
            compiles_max,
            compiles_waiting_max,
            memory_bytes_max,
            cpu_ms_max,
            cpu_tenant_minute_ms_max,
            computing_max,
            turn_ms_max,
            host_calls_max,
            host_call_bytes_max,
            written_bytes_max,
            handles_max,
            reply_bytes_max,
            call_depth_max,
            question_bytes_max,
            question_choices_max,
            questions_turn_max,
            question_ms_max,
            http_calls_max,
            http_ms_max,
            http_request_bytes_max,
            http_response_bytes_max,
            http_header_bytes_max,
            message_bytes_max,
            slot_bytes_max,
            slots_max,
            mailbox_messages_max,
            recounted_max,
            question_wait_ms_max,
            streams_max,
            streams_tenant_max,
            connections_max,
            connection_streams_max,
            handshakes_max,
            handshake_ms_max,
            head_ms_max,
            body_stall_ms_max,
            body_ms_max,
            write_stall_ms_max,
            idle_ms_max,
            turns_max,
            instance_wait_ms_max,
            turns_tenant_max,
            turns_waiting_max,
            turns_waiting_tenant_max,
            sessions_open_max,
            forks_max,
            usage_days_max,
            request_bytes_max,
            header_bytes_max,
            stream_open_max,
            stream_body_bytes_max,
            stream_read_bytes_max,
            stream_wait_ms_max,
            stream_live_ms_max,
            subscriptions_max,
            subscription_streams_max,
            webhooks_max,
            notices_max,
            notice_days_max,
            webhooks_tenant_max,
            webhook_attempts_max,
            webhook_backoff_ms_max,
            dead_letters_max,
            audit_entries_max,
            log_bytes_max,
            cache_bytes_max,
            cache_tenant_bytes_max,
            cache_seconds_max,
        } = *self;
        [
            ("component_bytes_max", component_bytes_max),
            ("compile_ms_max", compile_ms_max),
            ("compile_memory_bytes_max", compile_memory_bytes_max),
            ("compiles_max", compiles_max),
            ("compiles_waiting_max", compiles_waiting_max),
            ("memory_bytes_max", memory_bytes_max),
            ("cpu_ms_max", cpu_ms_max),
            ("cpu_tenant_minute_ms_max", cpu_tenant_minute_ms_max),
            ("computing_max", computing_max),
            ("turn_ms_max", turn_ms_max),
            ("host_calls_max", host_calls_max),
            ("host_call_bytes_max", host_call_bytes_max),
            ("written_bytes_max", written_bytes_max),
            ("handles_max", handles_max),
            ("reply_bytes_max", reply_bytes_max),
            ("call_depth_max", call_depth_max),
            ("question_bytes_max", question_bytes_max),
            ("question_choices_max", question_choices_max),
            ("questions_turn_max", questions_turn_max),
            ("question_ms_max", question_ms_max),
            ("http_calls_max", http_calls_max),
            ("http_ms_max", http_ms_max),
            ("http_request_bytes_max", http_request_bytes_max),
            ("http_response_bytes_max", http_response_bytes_max),
            ("http_header_bytes_max", http_header_bytes_max),
            ("message_bytes_max", message_bytes_max),
            ("slot_bytes_max", slot_bytes_max),
            ("slots_max", slots_max),
            ("mailbox_messages_max", mailbox_messages_max),
            ("recounted_max", recounted_max),
            ("question_wait_ms_max", question_wait_ms_max),
            ("streams_max", streams_max),
            ("streams_tenant_max", streams_tenant_max),
            ("connections_max", connections_max),
            ("connection_streams_max", connection_streams_max),
            ("handshakes_max", handshakes_max),
            ("handshake_ms_max", handshake_ms_max),
            ("head_ms_max", head_ms_max),
            ("body_stall_ms_max", body_stall_ms_max),
            ("body_ms_max", body_ms_max),
            ("write_stall_ms_max", write_stall_ms_max),
            ("idle_ms_max", idle_ms_max),
            ("turns_max", turns_max),
            ("instance_wait_ms_max", instance_wait_ms_max),
            ("turns_tenant_max", turns_tenant_max),
            ("turns_waiting_max", turns_waiting_max),
            ("turns_waiting_tenant_max", turns_waiting_tenant_max),
            ("sessions_open_max", sessions_open_max),
            ("forks_max", forks_max),
            ("usage_days_max", usage_days_max),
            ("request_bytes_max", request_bytes_max),
            ("header_bytes_max", header_bytes_max),
            ("stream_open_max", stream_open_max),
            ("stream_body_bytes_max", stream_body_bytes_max),
            ("stream_read_bytes_max", stream_read_bytes_max),
            ("stream_wait_ms_max", stream_wait_ms_max),
            ("stream_live_ms_max", stream_live_ms_max),
            ("subscriptions_max", subscriptions_max),
            ("subscription_streams_max", subscription_streams_max),
            ("webhooks_max", webhooks_max),
            ("notices_max", notices_max),
            ("notice_days_max", notice_days_max),
            ("webhooks_tenant_max", webhooks_tenant_max),
            ("webhook_attempts_max", webhook_attempts_max),
            ("webhook_backoff_ms_max", webhook_backoff_ms_max),
            ("dead_letters_max", dead_letters_max),
            ("audit_entries_max", audit_entries_max),
            ("log_bytes_max", log_bytes_max),
            ("cache_bytes_max", cache_bytes_max),
            ("cache_tenant_bytes_max", cache_tenant_bytes_max),
            ("cache_seconds_max", cache_seconds_max),
        ]
    }
}
