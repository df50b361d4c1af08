//! Requests to a file worker and its replies. Each is one packet of a `SOCK_SEQPACKET` socket, with a descriptor beside it
//! where one belongs to it. Both ends are the same program, so numbers are in its byte order.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::process::digest::FileState;
use crate::process::identity::Sha256;

/// A longer packet is none: a path has at most `PATH_MAX` bytes.
const PACKET_MAX: usize = 8192;

/// What a worker is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Open what is at this path in the directory that comes with it, as its root.
    Open(Box<[u8]>),
    /// Begin to hash the file that comes with it, under a number.
    Hash(u64, FileState),
    /// Go on with the file of this number.
    Continue(u64),
}

/// What a worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The file was opened, and comes with it.
    Opened,
    /// So many bytes of the file were read, and there are more.
    Read(u64),
    /// The hash; `None`: the file changed meanwhile.
    Hashed(Option<Sha256>),
    /// The error number of what failed.
    Failed(i32),
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Open(path) => [b"o", &**path].concat(),
            Self::Hash(number, state) => {
                let words = state.words().into_iter().flat_map(u64::to_ne_bytes);
                [b'h'].into_iter().chain(number.to_ne_bytes()).chain(words).collect()
            }
            Self::Continue(number) => [b'c'].into_iter().chain(number.to_ne_bytes()).collect(),
        }
    }

    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        Some(match kind {
            b'o' => Self::Open(rest.into()),
            b'h' => {
                let (number, state) = rest.split_first_chunk()?;
                let (words, []) = state.as_chunks() else { return None };
                let words: Vec<_> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
                Self::Hash(u64::from_ne_bytes(*number), FileState::of_words(words.try_into().ok()?))
            }
            b'c' => Self::Continue(u64::from_ne_bytes(rest.try_into().ok()?)),
            _ => return None,
        })
    }
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Opened => b"o".to_vec(),
            Self::Read(bytes) => [b"r", &bytes.to_ne_bytes()[..]].concat(),
            Self::Hashed(Some(hash)) => [b"h", &hash[..]].concat(),
            Self::Hashed(None) => b"h".to_vec(),
            Self::Failed(errno) => [b"f", &errno.to_ne_bytes()[..]].concat(),
        }
    }

    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        Some(match (kind, rest) {
            (b'o', []) => Self::Opened,
            (b'r', bytes) => Self::Read(u64::from_ne_bytes(bytes.try_into().ok()?)),
            (b'h', []) => Self::Hashed(None),
            (b'h', hash) => Self::Hashed(Some(hash.try_into().ok()?)),
            (b'f', errno) => Self::Failed(i32::from_ne_bytes(errno.try_into().ok()?)),
            _ => return None,
        })
    }
}

/// Sends a packet. A peer that is gone is an error and no signal.
pub(super) fn send(socket: impl AsFd, packet: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let files = file.map(|file| [file]);
    if let Some(files) = &files {
        beside.push(SendAncillaryMessage::ScmRights(files));
    }
    let socket = socket.as_fd();
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(packet)], &mut beside, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives a packet into `room`; its descriptor is closed on exec. `None`: the peer is gone.
pub(super) fn receive(socket: impl AsFd, room: &mut Room) -> io::Result<Option<(&[u8], Option<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let socket = socket.as_fd();
    let received = retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut room.0)], &mut beside, RecvFlags::CMSG_CLOEXEC)
    });
    let length = match received {
        Ok(message) => message.bytes,
        Err(Errno::CONNRESET) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut file = None;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            file = files.last().or(file);
        }
    }
    // No packet is empty, so this is the end.
    Ok((length > 0).then(|| (&room.0[..length.min(PACKET_MAX)], file)))
}

/// Where a packet is received.
#[derive(Debug)]
pub(super) struct Room(Box<[u8]>);

impl Default for Room {
    fn default() -> Self {
        Self(vec![0; PACKET_MAX].into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::process::file_stat::FileStat;

    #[test]
    fn packets_come_as_they_were_sent() {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("sockets");
        let mut room = Room::default();
        let file = File::open("/proc/self/exe").expect("open");
        let stat = FileStat::of(&file).expect("stat");
        for request in [
            Request::Open(b"/a b\n"[..].into()),
            Request::Hash(7, FileState::of(&stat)),
            Request::Continue(u64::MAX),
        ] {
            send(&one, &request.encode(), Some(file.as_fd())).expect("sent");
            let (packet, beside) = receive(&other, &mut room).expect("received").expect("a packet");
            assert_eq!(Request::decode(packet), Some(request));
            assert_eq!(FileStat::of(beside.expect("a file")).expect("stat"), stat);
        }
        for reply in [
            Reply::Opened,
            Reply::Read(1 << 40),
            Reply::Hashed(None),
            Reply::Hashed(Some([7; 32])),
            Reply::Failed(5),
        ] {
            send(&other, &reply.encode(), None).expect("sent");
            let (packet, beside) = receive(&one, &mut room).expect("received").expect("a packet");
            assert_eq!((Reply::decode(packet), beside.is_none()), (Some(reply), true));
        }
        drop(other);
        assert!(receive(&one, &mut room).expect("the end").is_none());
        assert!(send(&one, b"o", None).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes(packet in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Request::decode(&packet), Reply::decode(&packet));
        }
    }
}
