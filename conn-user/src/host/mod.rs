//! What the kernel says of this machine when it is asked: sockets, connections that it tracks, interfaces,
//! network namespaces, mounts.

pub mod conntrack;
pub mod interfaces;
pub mod mounts;
pub mod netlink;
pub mod netns;
pub mod netns_names;
pub mod sockdiag;
pub mod tcp_file;
pub mod unixdiag;
