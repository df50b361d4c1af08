//! The interfaces of this thread's network namespace: their addresses and names, and which of them are bridges.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

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
/// Where interfaces report what they are.
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
/// When the kernel refuses to report. What `/sys/class/net` does not report is no bridge.
pub fn read() -> Result<BTreeMap<u32, Interface>, DumpError> {
    let mut interfaces = BTreeMap::<u32, Interface>::new();
    // What a repeated try reported twice is one address; one that vanished in between does no harm.
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

/// An interface that a socket is bound to (`SO_BINDTODEVICE`, or by a link-local address), by its name: at most 15 bytes that whoever
/// made the interface chose.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device(Box<str>);

impl Device {
    /// With this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// With this index (`ifindex`) in the place of a name, as in RFC 4007.
    pub fn of_index(index: u32) -> Self {
        Self::new(itoa::Buffer::new().format(index))
    }

    /// Its name; `7` where only its index is known.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Names the interfaces of one network namespace by their indices, each once.
#[derive(Debug, Default)]
pub struct Devices {
    /// A socket of the namespace, once one was needed.
    socket: Option<OwnedFd>,
    known: BTreeMap<u32, Arc<Device>>,
}

impl Devices {
    /// The interface with this index (`sk_bound_dev_if`). The thread must be in the namespace. `None`: 0, which is none.
    pub fn named(&mut self, index: u32) -> Option<Arc<Device>> {
        if index == 0 {
            return None;
        }
        if let Some(device) = self.known.get(&index) {
            return Some(Arc::clone(device));
        }
        let device = Arc::new(self.ask(index).unwrap_or_else(|_| Device::of_index(index)));
        self.known.insert(index, Arc::clone(&device));
        Some(device)
    }

    /// Asks the kernel, also for what is known. The thread must be in the namespace.
    ///
    /// # Errors
    /// When there is no interface with this index (any more), or its name is no text (`dev_valid_name`).
    pub fn ask(&mut self, index: u32) -> io::Result<Device> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?,
        };
        Ok(Device::new(&index_to_name(self.socket.insert(socket), index)?))
    }
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
    fn interfaces_are_named_by_their_index() {
        let lo = rustix::net::netdevice::name_to_index(
            socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .expect("a socket"),
            "lo",
        );
        let mut devices = Devices::default();
        let mut name = |index| devices.named(index).map(|device| device.name().to_owned());
        assert_eq!(name(lo.expect("loopback")).as_deref(), Some("lo"));
        assert_eq!(name(u32::MAX / 2).as_deref(), Some("2147483647"), "no interface has it");
        assert_eq!(name(0), None);
    }

    #[test]
    fn loopback_is_there() {
        let all = read().expect("the kernel reports");
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
