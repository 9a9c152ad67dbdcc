//! Free ports on 127.0.0.1, outside the range from which the kernel serves outgoing connections.
//!
//! A port of that range is a trap for a server that restarts: while it is down, any outgoing connection may be given its
//! port, and a client that keeps dialling may even be connected to itself.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use rand::Rng;

/// The preferred port if it is free, else another that is. Free when looked at: the caller must cope with a race.
pub(crate) fn free(preferred: Option<u16>) -> io::Result<u16> {
    if let Some(port) = preferred.filter(|port| is_free(*port)) {
        return Ok(port);
    }
    let outgoing = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let range = servers_range(&outgoing);
    let mut rng = rand::rng();
    if let Some(port) = (0..200).map(|_| rng.random_range(range.clone())).find(|port| is_free(*port)) {
        return Ok(port);
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Ports for servers, given the kernel's range for outgoing connections (`"32768\t60999"`).
fn servers_range(outgoing: &str) -> Range<u16> {
    const FROM: u16 = 15_000;
    let mut bounds = outgoing.split_whitespace().map(str::parse::<u16>);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(low)), _) if low > FROM + 1_000 => FROM..low,
        (Some(Ok(_)), Some(Ok(high))) if high < 64_000 => high + 1..u16::MAX,
        (None, _) => FROM..32_768,
        // The kernel keeps nearly everything for itself: then there is nothing better than a port of its range.
        _ => FROM..u16::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::{free, servers_range};
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn servers_get_ports_the_kernel_does_not_hand_out() {
        let check = |outgoing, expected| assert_eq!(servers_range(outgoing), expected, "{outgoing}");
        check("32768\t60999\n", 15_000..32_768);
        check("1024\t60999\n", 61_000..65_535);
        check("1024\t65535\n", 15_000..65_535);
        check("", 15_000..32_768);
        check("garbage", 15_000..65_535);
    }

    #[test]
    fn a_preferred_port_is_kept_unless_somebody_has_it() {
        let port = free(None).unwrap();
        assert_eq!(free(Some(port)).unwrap(), port);
        let _holder = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(free(Some(port)).unwrap(), port);
    }
}
