//! How the process is, for commands that show it.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Result, bail};
use cilmark::ops::cluster::number::socket;
use cilmark::state::pin::Root;
use jiff::{SignedDuration, Timestamp};

use super::Context;
use crate::service::state::State;

/// Whether the process of a root answers. Who may not ask it is told whether it is there.
pub fn is_running(root: &Root) -> bool {
    match UnixStream::connect(socket(root)) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let state = State::read(root).ok().flatten();
            state.is_some_and(|state| Path::new(&format!("/proc/{}", state.pid)).exists())
        }
        Err(_) => false,
    }
}

/// What it has written last; an error where it has not since the host came up.
pub fn read(context: &Context) -> Result<State> {
    match State::read(&context.root)? {
        Some(state) => Ok(state),
        None if context.config.exists() => {
            bail!("cilmark-sync has not run since this host came up: systemctl start cilmark-sync")
        }
        None => bail!(
            "this host is in no cluster: there is no {}, which `cilmark cluster init` writes",
            context.config.display()
        ),
    }
}

/// How long ago something was, as people say it: `42s`, `5m`, `3h`, `12d`.
pub fn age(of: Timestamp, now: Timestamp) -> String {
    span(now.duration_since(of))
}

/// How long something takes yet, the same.
pub fn rest(until: Timestamp, now: Timestamp) -> String {
    span(until.duration_since(now))
}

fn span(time: SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_unit_that_tells_enough() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7199, "119m"),
            (7200, "2h"),
            (172_800, "2d"),
        ] {
            assert_eq!(span(SignedDuration::from_secs(seconds)), text);
        }
    }
}
