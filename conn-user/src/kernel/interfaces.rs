//! The interfaces of this thread's network namespace: their addresses, and which of them are bridges.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use rustix::net::Protocol;

use super::netlink::{DumpError, Netlink, attributes, word};

/// `NETLINK_ROUTE` is 0, which is no protocol to rustix.
const ROUTE: Option<Protocol> = None;
/// `RTM_GETADDR` (include/uapi/linux/rtnetlink.h).
const RTM_GETADDR: u16 = 22;
/// Length of `struct ifaddrmsg` (include/uapi/linux/if_addr.h): family, prefix length, flags, scope, index.
const MESSAGE: usize = 8;
/// The address; of a point-to-point interface that of the peer.
const IFA_ADDRESS: u16 = 1;
/// The interface's own address, where it differs.
const IFA_LOCAL: u16 = 2;
/// Where interfaces tell what they are.
const INTERFACES: &str = "/sys/class/net";

/// An interface that has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its addresses with the networks that they are in.
    pub addresses: Vec<IpNet>,
    /// It is a bridge of which no port is a device: what is behind it is on this machine.
    pub inner_bridge: bool,
}

/// Every interface that has an address, by its index.
///
/// # Errors
/// When the kernel refuses to tell. What `/sys/class/net` does not tell is no bridge.
pub fn read() -> Result<BTreeMap<u32, Interface>, DumpError> {
    let mut interfaces = BTreeMap::<u32, Interface>::new();
    // What a repeated try told twice is one address; one that vanished in between does no harm.
    let begin = || ();
    Netlink::open(ROUTE)?.dump(RTM_GETADDR, &[0; MESSAGE], begin, |bytes, _| {
        let (index, net) = address(bytes)?;
        let addresses = &mut interfaces.entry(index).or_default().addresses;
        if !addresses.contains(&net) {
            addresses.push(net);
        }
        Some(())
    })?;
    for index in inner_bridges(Path::new(INTERFACES)).unwrap_or_default() {
        if let Some(interface) = interfaces.get_mut(&index) {
            interface.inner_bridge = true;
        }
    }
    Ok(interfaces)
}

fn address(bytes: &[u8]) -> Option<(u32, IpNet)> {
    let (family, prefix) = (*bytes.first()?, *bytes.get(1)?);
    let index = word(bytes, 4)?;
    let mut own = None;
    for attribute in attributes(bytes.get(MESSAGE..)?) {
        match attribute? {
            (IFA_ADDRESS, value) if own.is_none() => own = Some(value),
            (IFA_LOCAL, value) => own = Some(value),
            _ => {}
        }
    }
    let own = own?;
    let ip = match i32::from(family) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(own).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(own).ok()?),
        _ => return None,
    };
    Some((index, IpNet::new(ip, prefix).ok()?))
}

/// Indices of the bridges without a device among their ports.
fn inner_bridges(interfaces: &Path) -> io::Result<Vec<u32>> {
    let mut indices = Vec::new();
    for entry in std::fs::read_dir(interfaces)? {
        let path = entry?.path();
        if !path.join("bridge").exists() {
            continue;
        }
        let mut ports = std::fs::read_dir(path.join("brif")).into_iter().flatten().flatten();
        // `device` leads to the hardware; virtual interfaces have none.
        if ports.any(|port| interfaces.join(port.file_name()).join("device").exists()) {
            continue;
        }
        if let Some(index) =
            std::fs::read_to_string(path.join("ifindex")).ok().and_then(|text| text.trim().parse().ok())
        {
            indices.push(index);
        }
    }
    Ok(indices)
}

#[cfg(test)]
mod tests {
    use super::super::netlink::testing::attribute;
    use super::*;

    #[test]
    fn an_address_is_read() {
        let mut bytes = vec![libc::AF_INET as u8, 24, 0, 0];
        bytes.extend(7_u32.to_ne_bytes());
        attribute(&mut bytes, IFA_ADDRESS, &[10, 0, 0, 9]);
        attribute(&mut bytes, IFA_LOCAL, &[10, 0, 0, 5]);
        assert_eq!(address(&bytes), Some((7, "10.0.0.5/24".parse().expect("a network"))));
        for length in 0..bytes.len() - 8 {
            assert_eq!(address(&bytes[..length]), None, "{length}");
        }
    }

    #[test]
    fn loopback_is_there() {
        let all = read().expect("the kernel tells");
        assert!(all.values().flat_map(|one| &one.addresses).any(|net| net.addr().is_loopback()));
    }

    #[test]
    fn a_bridge_with_a_device_is_no_inner_one() {
        let root = std::env::temp_dir().join(format!("conn-bridges-{}", std::process::id()));
        for (bridge, index, port) in [("docker0", "4\n", "veth1"), ("br0", "5\n", "eth0")] {
            for folder in ["bridge", &format!("brif/{port}")] {
                std::fs::create_dir_all(root.join(bridge).join(folder)).expect("a folder");
            }
            std::fs::write(root.join(bridge).join("ifindex"), index).expect("a file");
        }
        std::fs::create_dir_all(root.join("eth0/device")).expect("a folder");
        std::fs::create_dir_all(root.join("veth1")).expect("a folder");
        let indices = inner_bridges(&root).expect("readable");
        std::fs::remove_dir_all(&root).expect("removed");
        assert_eq!(indices, [4]);
    }
}
