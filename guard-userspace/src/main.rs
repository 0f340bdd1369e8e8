use std::process::ExitCode;

fn main() -> ExitCode {
    guard_userspace::cli::main(std::env::args_os())
}
