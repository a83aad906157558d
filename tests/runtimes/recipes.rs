//! docs/recipes/docker.md and docs/recipes/libvirt.md, with a real Docker and a real libvirt. Nothing of systemd runs on
//! these hosts: its lines are left out, or what they do is done.

mod docker;
mod libvirt;

use super::Host;
use crate::common::pages::blocks;

/// Pastes all that a page says below a heading; what it prints.
fn paste(host: &Host, page: &str, heading: &str) -> String {
    let blocks = blocks(page, heading, "sh");
    assert!(!blocks.is_empty(), "nothing to paste below {heading}");
    let here = |block: &String| {
        let block = block.replace("systemctl reload docker", "pkill -HUP -x dockerd");
        let block = block.replace(" && systemctl restart docker", "");
        block.replace("systemctl restart libvirtd\n", "")
    };
    blocks.iter().map(|block| host.sh(&here(block))).collect()
}
