//! The binary `antiphon`. Everything is in [`cli`]; the server itself is the library.

mod cli;

/// Turns come and go on every core, and what they allocate on one they free on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
