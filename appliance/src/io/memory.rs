//! What the process and the machine have in memory, and the heap of the io thread.

use std::path::Path;

/// `VmRSS`, where there is a /proc.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// What could be had of the machine whose files lie below `root`: what is available, within what this process's group
/// may have.
pub fn available_bytes(root: &Path) -> Option<u64> {
    let available = meminfo_bytes(root, "MemAvailable:")?;
    Some(available.min(cgroup_limit_bytes(root).unwrap_or(u64::MAX)))
}

/// All of that machine.
pub fn total_bytes(root: &Path) -> Option<u64> {
    meminfo_bytes(root, "MemTotal:")
}

fn meminfo_bytes(root: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// `MemoryMax=` of this process's own cgroup and those above it: the smallest counts.
fn cgroup_limit_bytes(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |group: &Path| {
        let file = root.join("sys/fs/cgroup").join(group).join("memory.max");
        let text = std::fs::read_to_string(file).ok()?;
        text.trim().parse::<u64>().ok()
    };
    Path::new(own).ancestors().filter_map(limit).min()
}

/// Takes memory that the io thread will want sooner or later, page by page, and gives it to the heap's free lists, so
/// that the process has its size from the start and not after hours of unlucky mixtures.
///
/// Blocks are small enough to come from the heap itself and not from a map of their own; the last one stays for good,
/// since the C library gives free memory at the heap's very end back to the system.
pub fn touch_heap(bytes: usize) {
    let blocks: Vec<Vec<u8>> = (0..bytes / BLOCK_BYTES)
        .map(|_| vec![1; BLOCK_BYTES])
        .collect();
    let last: &'static mut [u8] = Box::leak(vec![1; 64].into());
    std::hint::black_box((&blocks, last));
}

/// Below glibc's threshold for maps of their own, 128 KiB.
const BLOCK_BYTES: usize = 32 << 10;
