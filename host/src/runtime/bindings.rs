//! Generated from `wit/`, and nothing else.
//!
//! Functions that may wait are async; the others answer from memory. All may
//! trap: that is how an instance ends whose turn is over.

#![allow(
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::use_self,
    reason = "generated code"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "component",
    imports: {
        "antiphon:agent/kernel.read": async | trappable,
        "antiphon:agent/mailbox.pending": async | trappable,
        "antiphon:agent/mailbox.pull": async | trappable,
        "antiphon:agent/mailbox.read": async | trappable,
        "antiphon:agent/mailbox.search": async | trappable,
        "antiphon:agent/transcript.window": async | trappable,
        "antiphon:agent/reply.say": async | trappable,
        "antiphon:agent/model.complete": async | trappable,
        "antiphon:agent/model.open": async | trappable,
        "antiphon:agent/model.[method]deltas.next": async | trappable,
        "antiphon:agent/model.[static]deltas.relay": async | trappable,
        "antiphon:agent/agents.call": async | trappable,
        "antiphon:agent/agents.spawn": async | trappable,
        "antiphon:agent/agents.[static]run.wait": async | trappable,
        "antiphon:agent/http.fetch": async | trappable,
        "antiphon:agent/questions.ask": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "antiphon:agent/kernel.slot-lock": super::host::kernel::SlotLock,
        "antiphon:agent/agents.run": super::host::agents::Run,
        "antiphon:agent/model.deltas": super::host::model::Deltas,
    },
});
