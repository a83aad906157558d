//! Processes, as far as they can be seen below /proc.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The inodes of sockets that processes of these names have, of whatever network namespace. What can't be looked at
/// has none.
pub fn sockets_of(names: &[&str]) -> HashSet<u64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|it| it.path());
    let wanted = processes.filter(|process| {
        let name = fs::read_to_string(process.join("comm"));
        name.is_ok_and(|name| names.contains(&name.trim_end()))
    });
    wanted.flat_map(|process| sockets(&process)).collect()
}

fn sockets(process: &Path) -> Vec<u64> {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|it| fs::read_link(it.path()).ok());
    targets.filter_map(|target| inode(target.to_str()?)).collect()
}

/// As proc(5) shows a socket.
fn inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_has_the_number_of_one() {
        let targets = ["socket:[4711]", "pipe:[4711]", "/dev/null", "socket:[]"];
        assert_eq!(targets.map(inode), [Some(4711), None, None, None]);
    }
}
