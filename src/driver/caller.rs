//! Who calls the driver.

/// The first argument with which `cargo secateurs` starts itself as the worker.
pub(super) const WORKER: &str = "worker";

/// Who calls the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// An xtask crate: the worker is built from the source of `secateurs` that the workspace has.
    Xtask,
    /// The installed program `cargo-secateurs`, which is the worker as well.
    Plugin,
}

impl Driver {
    /// What the user types before the command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xtask => "cargo xtask",
            Self::Plugin => "cargo secateurs",
        }
    }
}
