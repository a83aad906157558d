//! What systemd is told: that the process is ready, that it lives, and how it is.

use std::time::Duration;

use log::debug;
use sd_notify::NotifyState;

/// It is ready: commands find in the ipcache what the cluster says, as far as etcd answers.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Tells that the loop turns, for as long as it does. Etcd has no part in that.
pub async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval((limit / 3).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // Nobody listens if it was started by hand.
    if let Err(error) = sd_notify::notify(state) {
        debug!("tell systemd: {error}");
    }
}
