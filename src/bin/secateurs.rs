//! The worker: prunes, and looks at models before and after.

fn main() -> std::process::ExitCode {
    secateurs::cli::main()
}
