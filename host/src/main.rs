//! The binary `antiphon`. Everything is in [`cli`]; the server itself is the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
