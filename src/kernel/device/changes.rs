//! When devices or their addresses change.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use anyhow::{Context, Result};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// A socket that can be read when something has changed in the network namespace in which it was opened.
pub struct Changes(Socket);

impl Changes {
    /// From now on.
    pub fn open() -> Result<Changes> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, GROUPS))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        open().map(Changes).context("open a netlink socket for changes of devices")
    }

    /// Whether anything has changed since it was asked last.
    pub fn take(&self) -> Result<bool> {
        let mut changed = false;
        loop {
            match self.0.recv(&mut &mut [0; 64][..], 0) {
                Ok(_) => {}
                // It had no room for all of them.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) => return Err(error).context("read changes of devices"),
            }
            changed = true;
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
