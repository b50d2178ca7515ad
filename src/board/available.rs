//! How much memory a program may still take: what the kernel and the control group of a container leave.

use super::read::text;
use std::path::Path;

/// Where nothing is told.
const UNTOLD: usize = 2 << 30;

/// Bytes that are free for this program, below a root folder: `MemAvailable` of the kernel, and less where a control
/// group (v2, or v1's memory controller) allows less.
pub fn available_memory(root: &Path) -> usize {
    let machine = text(&root.join("proc/meminfo")).and_then(|info| {
        let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
    });
    let bytes = |file: &str| text(&root.join("sys/fs/cgroup").join(file))?.parse::<usize>().ok();
    let group = |most: &str, used: &str| Some(bytes(most)?.saturating_sub(bytes(used).unwrap_or(0)));
    let groups =
        [group("memory.max", "memory.current"), group("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")];
    groups.into_iter().flatten().fold(machine.unwrap_or(UNTOLD), usize::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_tightest_of_machine_and_container_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(available_memory(root.path()), UNTOLD);
        write("proc/meminfo", "MemTotal:       24576000 kB\nMemAvailable:    1000 kB\n");
        assert_eq!(available_memory(root.path()), 1_024_000);
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(available_memory(root.path()), 1_024_000);
        write("sys/fs/cgroup/memory.max", "900000\n");
        write("sys/fs/cgroup/memory.current", "400000\n");
        assert_eq!(available_memory(root.path()), 500_000);
    }
}
