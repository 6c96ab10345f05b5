//! What wit-bindgen makes of `../wit`: the types that every module of this crate
//! re-exposes, and, for wasm only, the functions behind them.
//!
//! Invariant: off wasm nothing calls a function of this module. Generated imports
//! abort the process there; `host` is the only way to them.

#![allow(
    missing_docs,
    unsafe_code,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated code; its lints are wit-bindgen's business"
)]
#![cfg_attr(
    not(target_arch = "wasm32"),
    allow(dead_code, reason = "off wasm only the types are used")
)]

wit_bindgen::generate!({
    path: "../wit",
    world: "component",
    pub_export_macro: true,
    default_bindings_module: "antiphon_sdk::bindings",
    additional_derives: [PartialEq],
});
