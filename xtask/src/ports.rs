//! Ports for `up`: the documented one when it is free, another when it is not.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// `preferred` when nothing listens there on loopback, otherwise any free port.
pub(crate) fn choose(preferred: u16) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, preferred))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("find a free port on loopback")?;
    Ok(listener.local_addr().context("read the chosen port")?.port())
}
