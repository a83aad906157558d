//! File systems of others, as /proc/mounts lists what is mounted (proc(5), nfs(5), mount.cifs(8)).

use std::net::IpAddr;

use super::protocol::{TCP, UDP};

/// A file system that another host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Where it is mounted.
    pub at: String,
    /// Of which kind.
    pub kind: String,
    /// Who has it.
    pub server: IpAddr,
    /// TCP or UDP.
    pub protocol: u8,
    /// Of the server.
    pub port: u16,
}

/// Those of a table.
pub fn remote(table: &str) -> Vec<Remote> {
    table.lines().filter_map(remote_of).collect()
}

/// `SOURCE TARGET KIND OPTIONS 0 0`. The address that is in use stands in the options.
fn remote_of(line: &str) -> Option<Remote> {
    let mut fields = line.split(' ');
    let (target, kind, options) = (fields.nth(1)?, fields.next()?, fields.next()?);
    let usual = match kind {
        "nfs" | "nfs4" => 2049,
        "cifs" | "smb3" => 445,
        _ => return None,
    };
    let option =
        |name: &str| options.split(',').find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
    // A link-local address has a device behind it.
    let server = option("addr")?.split('%').next()?.parse().ok()?;
    let port = option("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let is_udp = option("proto").is_some_and(|protocol| protocol.starts_with("udp"));
    Some(Remote {
        at: unescaped(target),
        kind: kind.to_owned(),
        server,
        protocol: if is_udp { UDP } else { TCP },
        port: port.unwrap_or(usual),
    })
}

/// A blank, a tab, a newline and a backslash are written in octal.
fn unescaped(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_file_systems_are_those_that_are_in_use() {
        let table = "sysfs /sys sysfs rw,nosuid 0 0\n\
             nas:/root / nfs rw,vers=3,hard,nolock,proto=udp,mountaddr=198.51.100.9,mountport=635,addr=198.51.100.9 0 0\n\
             nas:/a /srv/a\\040b nfs4 rw,vers=4.2,hard,proto=tcp6,port=0,clientaddr=fd00::1,addr=fd00::9 0 0\n\
             nas:/b /srv/b nfs4 rw,proto=tcp,port=20049,addr=198.51.100.9 0 0\n\
             //nas/c /srv/c cifs rw,vers=3.1.1,addr=198.51.100.8,port=445 0 0\n\
             nas:/d /srv/d nfs rw 0 0\n";
        let told: Vec<String> = remote(table)
            .iter()
            .map(|it| format!("{} {} {} {}/{}", it.at, it.kind, it.server, it.protocol, it.port))
            .collect();
        assert_eq!(
            told,
            [
                "/ nfs 198.51.100.9 17/2049",
                "/srv/a b nfs4 fd00::9 6/2049",
                "/srv/b nfs4 198.51.100.9 6/20049",
                "/srv/c cifs 198.51.100.8 6/445",
            ]
        );
    }
}
