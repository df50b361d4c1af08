//! Sockets for tests.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::model::{SnapSocket, TcpState};
use crate::flow::model::Transport;
use crate::units::NetNs;

/// An established connection with a file.
pub(crate) fn socket(local: &str, remote: &str) -> SnapSocket {
    let end = |text: &str| text.parse::<SocketAddr>().expect("address");
    SnapSocket {
        cookie: Some(1),
        inode: 7,
        netns: NetNs(1),
        state: TcpState::Established,
        transport: Transport::Tcp,
        local: end(local),
        remote: end(remote),
        mapped: false,
        v6only: false,
        device: None,
        device_index: 0,
        uid: 0,
        recv_queue: 0,
        send_queue: 0,
        direction: None,
        traffic: None,
        holders: SmallVec::new(),
        no_holder: None,
        born: None,
    }
}

/// A listener.
pub(crate) fn listener(local: &str) -> SnapSocket {
    let remote = if local.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    SnapSocket { state: TcpState::Listen, ..socket(local, remote) }
}
