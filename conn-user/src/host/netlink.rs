//! Requests over netlink: a dump has many messages for an answer, all asked for before the next request; a single object has one.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NlaBuffer, NlasIterator,
};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use crate::clock::boot_now;
use crate::units::BootNs;

/// The kernel fills at most this much for one receive (`netlink_dump`: 32 KiB at most, by the receiver's buffer).
const BUFFER: usize = 32 * 1024;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Message types of netlink itself (include/uapi/linux/netlink.h); a family's own begin at 16.
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// How often a dump is repeated that the kernel calls inconsistent.
const REPEATS: usize = 3;

/// Why a dump failed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The socket could not be made, or a call on it failed.
    #[error("netlink: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused the request.
    #[error("refused: {0}")]
    Refused(#[source] io::Error),
    /// The kernel's table changed during each try (`NLM_F_DUMP_INTR`).
    #[error("the kernel's table changed during {REPEATS} tries")]
    Inconsistent,
    /// An answer that does not have the form it must have.
    #[error("an answer of the kernel cannot be read")]
    Malformed,
}

impl DumpError {
    /// The kernel does not know what was asked for (a protocol that it was built without).
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused(error) if error.raw_os_error() == Some(libc::ENOENT))
    }
}

/// When the kernel filled in a message: between these two instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Not before.
    pub from: BootNs,
    /// Not after.
    pub to: BootNs,
}

/// A netlink socket of the network namespace in which it was made.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    buffer: Box<[u8]>,
    sequence: u32,
}

/// What a buffer of messages led to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    Done,
}

impl Netlink {
    /// Opens a socket of this netlink protocol in the thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn open(protocol: impl Into<Option<Protocol>>) -> Result<Self, DumpError> {
        let protocol = protocol.into();
        let open = || {
            let socket =
                socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
            bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|errno: rustix::io::Errno| DumpError::Socket(errno.into()))?;
        Ok(Self { socket, buffer: vec![0; BUFFER].into_boxed_slice(), sequence: 0 })
    }

    /// Asks with a message of this type and body for everything, and gives each answer to `each`, which returns
    /// `None` when it cannot read one. A dump that the kernel calls inconsistent is repeated a few times; `begin` is
    /// called before each try, to forget the last.
    ///
    /// # Errors
    /// When the kernel refuses, or an answer cannot be read.
    pub fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut begin: impl FnMut(),
        mut each: impl FnMut(&[u8], Filled) -> Option<()>,
    ) -> Result<(), DumpError> {
        for _ in 0..REPEATS {
            begin();
            match self.try_dump(kind, body, &mut each) {
                Err(DumpError::Inconsistent) => {}
                other => return other,
            }
        }
        Err(DumpError::Inconsistent)
    }

    /// Asks with a message of this type and body for one object, and returns what `read` makes of the answer.
    ///
    /// # Errors
    /// When the kernel refuses ([`DumpError::is_absent`]: there is no such object), or the answer cannot be read.
    pub fn get<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        read: impl Fn(&[u8], Filled) -> Option<T>,
    ) -> Result<T, DumpError> {
        self.sequence += 1;
        let request = request(kind, NLM_F_REQUEST, self.sequence, body);
        // The kernel answers while it takes the request (`netlink_rcv_skb`).
        let from = boot_now();
        retry(|| sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)))?;
        let to = boot_now();
        let mut found = None;
        while found.is_none() {
            let (kept, length) = retry(|| recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC))?;
            let bytes = self.buffer.get(..length).filter(|_| kept == length).ok_or(DumpError::Malformed)?;
            let mut each = |payload: &[u8], filled| {
                found = Some(read(payload, filled)?);
                Some(())
            };
            let step = messages(bytes, self.sequence, Filled { from, to }, &mut each, &mut true)?;
            if step == Step::Done && found.is_none() {
                return Err(DumpError::Malformed);
            }
        }
        found.ok_or(DumpError::Malformed)
    }

    fn try_dump(
        &mut self,
        kind: u16,
        body: &[u8],
        each: &mut impl FnMut(&[u8], Filled) -> Option<()>,
    ) -> Result<(), DumpError> {
        self.sequence += 1;
        let request = request(kind, NLM_F_REQUEST | NLM_F_DUMP, self.sequence, body);
        // The kernel fills the first buffer while it takes the request, and each further one while it hands over the
        // one before (`netlink_recvmsg`): the interval goes from before that call to after the one that delivers.
        let mut from = boot_now();
        retry(|| sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)))?;
        let mut consistent = true;
        loop {
            let asked = boot_now();
            let (kept, length) = retry(|| recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC))?;
            let bytes = self.buffer.get(..length).filter(|_| kept == length).ok_or(DumpError::Malformed)?;
            let filled = Filled { from, to: boot_now() };
            from = asked;
            match messages(bytes, self.sequence, filled, each, &mut consistent)? {
                Step::More => {}
                Step::Done if consistent => return Ok(()),
                Step::Done => return Err(DumpError::Inconsistent),
            }
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> Result<T, DumpError> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(|errno| DumpError::Socket(errno.into())),
        }
    }
}

fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(body);
    let length = bytes.len() as u32;
    let mut header = NetlinkBuffer::new(&mut bytes);
    header.set_length(length);
    header.set_message_type(kind);
    header.set_flags(flags);
    header.set_sequence_number(sequence);
    bytes
}

/// Handles a buffer of messages; those with another sequence number belong to an earlier try.
fn messages(
    mut bytes: &[u8],
    sequence: u32,
    filled: Filled,
    each: &mut impl FnMut(&[u8], Filled) -> Option<()>,
    consistent: &mut bool,
) -> Result<Step, DumpError> {
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes).map_err(|_| DumpError::Malformed)?;
        let payload = message.payload();
        if message.sequence_number() == sequence {
            *consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
            match message.message_type() {
                NLMSG_NOOP => {}
                kind @ (NLMSG_DONE | NLMSG_ERROR) => {
                    // Both begin with an error number, negative; 0 or nothing: none.
                    let code = word(payload, 0).map_or(0, u32::cast_signed);
                    if code < 0 {
                        return Err(DumpError::Refused(io::Error::from_raw_os_error(code.saturating_neg())));
                    }
                    if kind == NLMSG_DONE {
                        return Ok(Step::Done);
                    }
                }
                _ => each(payload, filled).ok_or(DumpError::Malformed)?,
            }
        }
        bytes = bytes.get(message.length().next_multiple_of(4) as usize..).unwrap_or_default();
    }
    Ok(Step::More)
}

/// Handles one buffer of messages with the number 1, as the first dump of a [`Netlink`] does.
pub(super) fn read_buffer(
    bytes: &[u8],
    mut each: impl FnMut(&[u8], Filled) -> Option<()>,
) -> Result<(), DumpError> {
    let filled = Filled { from: BootNs(0), to: BootNs(0) };
    messages(bytes, 1, filled, &mut each, &mut true).map(|_| ())
}

/// The attributes in `bytes`: kind and value; `None` for one that is cut off, which ends them.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    NlasIterator::new(bytes).map(|attribute| {
        let attribute: NlaBuffer<&[u8]> = attribute.ok()?;
        let value = attribute.into_inner().get(4..usize::from(attribute.length()))?;
        Some((attribute.kind(), value))
    })
}

/// A 32 bit number in the machine's order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A 64 bit number in the machine's order.
pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A 16 bit number in network order.
pub(super) fn port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod testing {
    /// Appends an attribute with its padding.
    pub(in crate::host) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
        bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    /// Appends a message with its padding.
    pub(in crate::host) fn message(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
        bytes.extend((body.len() as u32 + 16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{attribute, message};
    use super::*;

    const FILLED: Filled = Filled { from: BootNs(1), to: BootNs(2) };

    fn run(bytes: &[u8]) -> (Result<Step, DumpError>, Vec<Vec<u8>>, bool) {
        let mut seen = Vec::new();
        let mut consistent = true;
        let mut each = |payload: &[u8], _| {
            seen.push(payload.to_vec());
            (payload != b"bad!").then_some(())
        };
        let step = messages(bytes, 7, FILLED, &mut each, &mut consistent);
        (step, seen, consistent)
    }

    #[test]
    fn messages_until_done() {
        let mut bytes = Vec::new();
        message(&mut bytes, 20, 2, 7, b"one");
        message(&mut bytes, 20, 2, 6, b"earlier try");
        message(&mut bytes, NLMSG_NOOP, 0, 7, b"");
        message(&mut bytes, 20, 2, 7, b"three");
        let (step, seen, consistent) = run(&bytes);
        assert!(matches!(step, Ok(Step::More)) && consistent);
        assert_eq!(seen, [b"one".to_vec(), b"three".to_vec()]);
        message(&mut bytes, NLMSG_DONE, 2 | NLM_F_DUMP_INTR, 7, &0_i32.to_ne_bytes());
        let (step, _, consistent) = run(&bytes);
        assert!(matches!(step, Ok(Step::Done)) && !consistent);
    }

    #[test]
    fn errors() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let mut bytes = Vec::new();
            message(&mut bytes, kind, 0, 7, &(-libc::ENOENT).to_ne_bytes());
            assert!(run(&bytes).0.is_err_and(|error| error.is_absent()));
        }
        let mut bytes = Vec::new();
        message(&mut bytes, NLMSG_ERROR, 0, 7, &i32::MIN.to_ne_bytes());
        assert!(matches!(run(&bytes).0, Err(DumpError::Refused(_))));
        bytes.clear();
        message(&mut bytes, 20, 0, 7, b"bad!");
        assert!(matches!(run(&bytes).0, Err(DumpError::Malformed)));
        bytes.clear();
        message(&mut bytes, 20, 0, 7, b"cut off");
        bytes.truncate(20);
        assert!(matches!(run(&bytes).0, Err(DumpError::Malformed)));
    }

    #[test]
    fn a_cut_attribute_ends_them() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 3, b"x");
        attribute(&mut bytes, 4 | 0x8000, b"four and more");
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [Some((3, &b"x"[..])), Some((4, &b"four and more"[..]))]);
        bytes.truncate(bytes.len() - 5);
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [Some((3, &b"x"[..])), None]);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = run(&bytes);
            let _ = attributes(&bytes).count();
        }

        /// A well-formed buffer with a byte turned over.
        #[test]
        fn nearly_right(at in 0usize..64, byte in any::<u8>()) {
            let mut bytes = Vec::new();
            message(&mut bytes, 20, 2, 7, &[1; 13]);
            message(&mut bytes, NLMSG_DONE, 2, 7, &0_i32.to_ne_bytes());
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = run(&bytes);
        }
    }
}
