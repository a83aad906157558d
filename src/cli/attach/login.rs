//! By which port the user has come, which a policy must not close.

use std::env;
use std::fs;

use log::debug;
use nix::unistd::getppid;

/// The port of the SSH server by which the user has logged in. sudo drops SSH_CONNECTION, so the environments of the
/// parent processes are read, too.
pub fn ssh_server_port() -> Option<u16> {
    if let Ok(connection) = env::var("SSH_CONNECTION") {
        return server_port(&connection);
    }
    let mut process = getppid().as_raw();
    while process > 1 {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let connection = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="));
        if let Some(connection) = connection {
            debug!("process {process} has come by SSH");
            return server_port(&String::from_utf8_lossy(connection));
        }
        // The parent is the second field behind the name, which may contain anything.
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        process = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    }
    None
}

/// The last field of SSH_CONNECTION: client address, client port, server address, server port.
fn server_port(connection: &str) -> Option<u16> {
    connection.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_the_ssh_server_is_the_last_word() {
        assert_eq!(server_port("192.0.2.7 51022 192.0.2.1 2222"), Some(2222));
        assert_eq!(server_port("192.0.2.7 51022"), None);
    }
}
