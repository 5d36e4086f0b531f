//! The `dreamclear` command.

fn main() -> std::process::ExitCode {
    dreamclear::cli::main()
}
