//! Embeds the model that `cargo xtask prune --target host` left in `dist/host`, and refuses a stale one.

fn main() -> Result<(), secateurs::build::BuildError> {
    secateurs::build::embed("host")
}
