//! A private network namespace, with its loopback up, and a cable between two of them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result};

use crate::sys::{self, check, socket};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct ifinfomsg` (include/uapi/linux/rtnetlink.h).
type IfInfo = [u8; 16];
/// Attributes of a link (include/uapi/linux/if_link.h, veth.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// Moves this process into a new network namespace and raises its loopback.
pub(crate) fn own_netns() -> Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).context("unshare(CLONE_NEWNET)")?;
    let fd = socket(false, false, 0)?;
    let mut request = interface(b"lo");
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is a valid ifreq that outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })
        .context("raise the loopback")?;
    Ok(())
}

/// The name of each end of [`cable`].
pub(crate) const PLUG: &str = "cable";

/// Puts one end of a virtual network cable (veth) into the network namespace of each of these processes.
pub(crate) fn cable(processes: [u32; 2]) -> Result<()> {
    let end = |pid: u32| {
        let mut end = vec![0; size_of::<IfInfo>()];
        attribute(&mut end, IFLA_IFNAME, &[PLUG.as_bytes(), b"\0"].concat());
        attribute(&mut end, IFLA_NET_NS_PID, &pid.to_ne_bytes());
        end
    };
    let mut peer = Vec::new();
    attribute(&mut peer, VETH_INFO_PEER, &end(processes[1]));
    let mut info = Vec::new();
    attribute(&mut info, IFLA_INFO_KIND, b"veth");
    attribute(&mut info, IFLA_INFO_DATA, &peer);
    let mut body = end(processes[0]);
    attribute(&mut body, IFLA_LINKINFO, &info);

    make(libc::RTM_NEWLINK, &body).context("a veth")
}

/// Asks the kernel to make something new.
fn make(what: u16, body: &[u8]) -> Result<()> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut message = u32::try_from(HEADER + body.len())?.to_ne_bytes().to_vec();
    message.extend(what.to_ne_bytes());
    message.extend(u16::try_from(flags)?.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE) })?;
    // SAFETY: the call has just made it, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    sys::send_all(&fd, &message).context("ask")?;
    let mut answer = [0; 1024];
    let length = sys::recv(&fd, &mut answer).context("the answer")?;
    let code = answer.get(HEADER..HEADER + 4).filter(|_| length >= HEADER + 4).context("a short answer")?;
    let error = i32::from_ne_bytes(code.try_into()?);
    anyhow::ensure!(error == 0, "{}", std::io::Error::from_raw_os_error(-error));
    Ok(())
}

/// Gives this namespace's end of the cable, which is up, a link-local address at once: without duplicate address detection.
pub(crate) fn link_local(address: Ipv6Addr) -> Result<()> {
    let mut body = vec![libc::AF_INET6 as u8, 64, libc::IFA_F_NODAD as u8, libc::RT_SCOPE_LINK];
    body.extend(plug_index()?.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &address.octets());
    attribute(&mut body, libc::IFA_ADDRESS, &address.octets());
    make(libc::RTM_NEWADDR, &body).context("a link-local address")
}

/// The index of this namespace's end of the cable.
pub(crate) fn plug_index() -> Result<u32> {
    let fd = socket(false, false, 0)?;
    let mut request = interface(PLUG.as_bytes());
    // SAFETY: the request is a valid ifreq that outlives the call, which fills the index in.
    let index = unsafe {
        check(libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFINDEX as _, &raw mut request))?;
        request.ifr_ifru.ifru_ifindex
    };
    Ok(u32::try_from(index)?)
}

/// Sends what this namespace has no other way for to that router.
pub(crate) fn route_by(router: Ipv4Addr) -> Result<()> {
    let address = |address: Ipv4Addr| {
        let address = ipv4(address);
        // SAFETY: both are plain data of the same size.
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
    };
    // SAFETY: rtentry is plain data, for which all zeroes is a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = address(router);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let fd = socket(false, false, 0)?;
    // SAFETY: the route is a valid rtentry that outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) })
        .context("a route")?;
    Ok(())
}

fn ipv4(address: Ipv4Addr) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    }
}

/// Gives this namespace's end of the cable an address in a network of 24 bits, and raises it.
pub(crate) fn plug_in(address: Ipv4Addr) -> Result<()> {
    let fd = socket(false, false, 0)?;
    let with_address = |address: Ipv4Addr| {
        let mut request = interface(PLUG.as_bytes());
        let address = ipv4(address);
        // SAFETY: both are plain data of the same size.
        request.ifr_ifru.ifru_addr =
            unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
        request
    };
    let mut up = interface(PLUG.as_bytes());
    up.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    for (call, request) in [
        (libc::SIOCSIFADDR, with_address(address)),
        (libc::SIOCSIFNETMASK, with_address(Ipv4Addr::new(255, 255, 255, 0))),
        (libc::SIOCSIFFLAGS, up),
    ] {
        // SAFETY: the request is a valid ifreq that outlives the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), call as _, &raw const request) })?;
    }
    Ok(())
}

/// A request about an interface.
fn interface(name: &[u8]) -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request
}

/// Appends an attribute of netlink.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((value.len() as u16 + 4).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
