//! `cargo secateurs`: driver and worker in one program, for any workspace.

fn main() -> std::process::ExitCode {
    secateurs::driver::plugin(secateurs::cli::run)
}
