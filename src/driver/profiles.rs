//! The device profiles that come with secateurs, for workspaces that have none yet.

/// Their names and texts, sorted by name.
pub const SHIPPED: [(&str, &str); 11] = [
    ("generic-aarch64", include_str!("../../targets/generic-aarch64.toml")),
    ("host", include_str!("../../targets/host.toml")),
    ("jetson", include_str!("../../targets/jetson.toml")),
    ("jetson-agx-orin", include_str!("../../targets/jetson-agx-orin.toml")),
    ("jetson-orin-nano", include_str!("../../targets/jetson-orin-nano.toml")),
    ("jetson-xavier-nx", include_str!("../../targets/jetson-xavier-nx.toml")),
    ("rk3588", include_str!("../../targets/rk3588.toml")),
    ("rpi-zero2w", include_str!("../../targets/rpi-zero2w.toml")),
    ("rpi4", include_str!("../../targets/rpi4.toml")),
    ("rpi5", include_str!("../../targets/rpi5.toml")),
    ("x86-64-v3", include_str!("../../targets/x86-64-v3.toml")),
];

/// The text of one.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_profile_of_the_repository_comes_along() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
            .filter(|name| !name.ends_with(".local"))
            .collect();
        there.sort();
        assert_eq!(there, SHIPPED.map(|(name, _)| name));
        assert!(shipped("jetson").is_some() && shipped("../jetson").is_none());
    }
}
