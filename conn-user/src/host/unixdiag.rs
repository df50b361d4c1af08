//! Which Unix sockets are connected, as `sock_diag` says (net/unix/diag.c).

use std::cell::RefCell;

use rustix::net::netlink::SOCK_DIAG;

use super::netlink::{DumpError, Netlink, attributes, word};

/// `SOCK_DIAG_BY_FAMILY` (include/uapi/linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// Address family (include/linux/socket.h).
const AF_UNIX: u8 = 1;
/// `UDIAG_SHOW_PEER` and `UNIX_DIAG_PEER` (include/uapi/linux/unix_diag.h).
const SHOW_PEER: u32 = 4;
const PEER: u16 = 2;
/// `TCP_ESTABLISHED`, which connected Unix sockets have.
const ESTABLISHED: u32 = 1;
/// Length of `struct unix_diag_msg`.
const MESSAGE: usize = 16;

/// Appends the inodes of each connected Unix socket of the thread's network namespace and of its peer: of a pair, both ways round.
///
/// # Errors
/// When the kernel refuses (it was built without `CONFIG_UNIX_DIAG`) or answers what cannot be read; `out` is then incomplete.
pub fn pairs(out: &mut Vec<(u32, u32)>) -> Result<(), DumpError> {
    let before = out.len();
    let shared = RefCell::new(out);
    Netlink::open(SOCK_DIAG)?.dump(
        BY_FAMILY,
        &request(),
        || shared.borrow_mut().truncate(before),
        |message, _| {
            shared.borrow_mut().extend(parse(message)?);
            Some(())
        },
    )
}

/// `struct unix_diag_req`.
fn request() -> [u8; 24] {
    let mut body = [0; 24];
    body[0] = AF_UNIX;
    body[4..8].copy_from_slice(&(1_u32 << ESTABLISHED).to_ne_bytes());
    body[12..16].copy_from_slice(&SHOW_PEER.to_ne_bytes());
    body
}

/// `struct unix_diag_msg` and its attributes. The inner `None`: it has no peer.
#[expect(clippy::option_option, reason = "an answer that cannot be read is not one without a peer")]
fn parse(message: &[u8]) -> Option<Option<(u32, u32)>> {
    let (head, rest) = message.split_at_checked(MESSAGE)?;
    let own = word(head, 4)?;
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        if kind == PEER {
            let peer = word(value, 0)?;
            return Some((own != 0 && peer != 0).then_some((own, peer)));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::host::netlink::testing::attribute;

    #[test]
    fn a_pair_both_ways_round() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let inode = |socket: &UnixStream| {
            let file = format!("/proc/self/fd/{}", socket.as_raw_fd());
            u32::try_from(fs::metadata(file).expect("stat").ino()).expect("32 bits")
        };
        let (one, other) = (inode(&one), inode(&other));
        let mut all = Vec::new();
        pairs(&mut all).expect("sock_diag");
        assert!(all.contains(&(one, other)) && all.contains(&(other, one)));
    }

    #[test]
    fn answers_that_are_cut_are_refused() {
        let mut message = vec![0; MESSAGE];
        message[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(parse(&message), Some(None), "no peer");
        attribute(&mut message, PEER, &9_u32.to_ne_bytes());
        assert_eq!(parse(&message), Some(Some((7, 9))));
        assert_eq!(parse(&message[..MESSAGE - 1]), None);
        assert_eq!(parse(&message[..MESSAGE + 6]), None);
    }
}
