//! What: a socket and its counters.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use conn_common::config::OFFSET_NONE;
use conn_common::record::{Counters, Sock, SockFlags};

use crate::mem::{Access, Common as _, copy, current, probe};
use crate::offsets::{
    COOKIE_HELPER, OFF_FILE_COUNT, OFF_FILE_INODE, OFF_FILE_REF, OFF_INET_SPORT, OFF_INODE_INO,
    OFF_INODE_LOCK_OWNER, OFF_INODE_RT_LOCK_OWNER, OFF_MPTCP_BYTES_RECEIVED, OFF_MPTCP_BYTES_RETRANS,
    OFF_MPTCP_BYTES_SENT, OFF_NET_INUM, OFF_SK_ERR, OFF_SK_ERR_SOFT, OFF_SK_KERN_SOCK, OFF_SK_LINGERTIME,
    OFF_SK_LOCK_OWNED, OFF_SK_PROTOCOL, OFF_SK_SHUTDOWN, OFF_SK_SOCKET, OFF_SKC_BOUND_DEV_IF, OFF_SKC_COOKIE,
    OFF_SKC_DADDR, OFF_SKC_DPORT, OFF_SKC_FAMILY, OFF_SKC_FLAGS, OFF_SKC_IPV6ONLY, OFF_SKC_NET, OFF_SKC_NUM,
    OFF_SKC_RCV_SADDR, OFF_SKC_V6_DADDR, OFF_SKC_V6_RCV_SADDR, OFF_SOCKET_ALLOC_INODE, OFF_SOCKET_FILE,
    OFF_SOCKET_SK, OFF_TCP_BYTES_RECEIVED, OFF_TCP_BYTES_RETRANS, OFF_TCP_BYTES_SENT, OFF_TCP_COPIED_SEQ,
    OFF_TCP_IS_MPTCP, OFF_TCP_RCV_NXT, OFF_TCP_SRTT_US, OFF_TCP_TOTAL_RETRANS,
};

pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const IPPROTO_TCP: u16 = 6;
pub(crate) const IPPROTO_MPTCP: u16 = 262;

pub(crate) const TCP_ESTABLISHED: u8 = 1;
pub(crate) const TCP_SYN_SENT: u8 = 2;
pub(crate) const TCP_SYN_RECV: u8 = 3;
pub(crate) const TCP_FIN_WAIT1: u8 = 4;
pub(crate) const TCP_CLOSE: u8 = 7;
pub(crate) const TCP_LAST_ACK: u8 = 9;
pub(crate) const TCP_LISTEN: u8 = 10;

/// `enum sock_flags` (include/net/sock.h).
const SOCK_DONE: u64 = 1 << 1;
/// `enum sock_flags` (include/net/sock.h).
const SOCK_LINGER: u64 = 1 << 4;

/// How a program names a socket.
pub(crate) trait Key: Access {
    /// The cookie, or the address and [`SockFlags::ADDRESS_KEY`].
    ///
    /// # Safety
    /// `sk` is a `struct sock` that the program may pass to its helpers.
    unsafe fn key(sk: *const c_void, common: &Self::Common) -> (u64, u16);
}

/// Programs that may call `bpf_get_socket_cookie`, where the kernel has it.
impl Key for crate::mem::Direct {
    #[inline(always)]
    unsafe fn key(sk: *const c_void, _: &Self::Common) -> (u64, u16) {
        if COOKIE_HELPER.load() != 0 {
            // The helper makes the cookie when there is none; to read one that is there is cheaper.
            // SAFETY: per the contract.
            let cookie = unsafe { Self::load::<u64>(sk, OFF_SKC_COOKIE.load()) };
            // SAFETY: per the contract.
            (if cookie != 0 { cookie } else { unsafe { bpf_get_socket_cookie(sk.cast_mut()) } }, 0)
        } else {
            (sk as u64, SockFlags::ADDRESS_KEY)
        }
    }
}

/// Programs that can only read what somebody else asked for: `skc_cookie` is 0 until then.
impl Key for crate::mem::Probe {
    #[inline(always)]
    unsafe fn key(sk: *const c_void, common: &Self::Common) -> (u64, u16) {
        if COOKIE_HELPER.load() != 0 {
            // SAFETY: the helper faults safely.
            let cookie = unsafe { common.load::<u64>(OFF_SKC_COOKIE.load()) };
            if cookie != 0 {
                return (cookie, 0);
            }
        }
        (sk as u64, SockFlags::ADDRESS_KEY)
    }
}

/// A socket that conn reports, and what was read to find that out. Each helper call costs: what one needs the others
/// use.
#[derive(Clone, Copy)]
pub(crate) struct Ours {
    pub(crate) sk: *const c_void,
    protocol: u16,
    /// [`SockFlags::KERNEL`] and [`SockFlags::MPTCP`].
    flags: u16,
    /// Null for MPTCP, and where no member of it is to be read.
    tcp: *const c_void,
}

/// A TCP or MPTCP socket over IP that conn reports. Subflows of an MPTCP connection are not: the MPTCP socket stands
/// for them.
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
pub(crate) unsafe fn ours<A: Access>(sk: *const c_void, with_counters: bool) -> Option<Ours> {
    // SAFETY: per the contract.
    unsafe {
        let protocol = protocol::<A>(sk);
        let flags = kernels_own::<A>(sk);
        if protocol == IPPROTO_MPTCP {
            return Some(Ours { sk, protocol, flags: flags | SockFlags::MPTCP, tcp: core::ptr::null() });
        }
        if protocol != IPPROTO_TCP {
            return None;
        }
        // Subflows are the kernel's own (`mptcp_subflow_create_socket`, and what is cloned from such a listener).
        let may_be_subflow =
            OFF_TCP_IS_MPTCP.load() != OFFSET_NONE && (flags != 0 || OFF_SK_KERN_SOCK.load() == OFFSET_NONE);
        if !with_counters && !may_be_subflow {
            return Some(Ours { sk, protocol, flags, tcp: core::ptr::null() });
        }
        let tcp = A::tcp_sock(sk);
        let subflow =
            may_be_subflow && !tcp.is_null() && A::load::<u8>(tcp, OFF_TCP_IS_MPTCP.load()) & 1 != 0;
        if subflow { None } else { Some(Ours { sk, protocol, flags, tcp }) }
    }
}

/// Returns a socket that conn reports, as [`ours`] does, of one that a descriptor leads to: subflows have
/// none.
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
pub(crate) unsafe fn handed_out<A: Access>(sk: *const c_void) -> Option<Ours> {
    // SAFETY: per the contract.
    let protocol = unsafe { protocol::<A>(sk) };
    (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP).then_some(Ours {
        sk,
        protocol,
        flags: if protocol == IPPROTO_MPTCP { SockFlags::MPTCP } else { 0 },
        tcp: core::ptr::null(),
    })
}

/// [`SockFlags::KERNEL`] if the kernel opened the socket for itself (`sk_kern_sock`).
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
unsafe fn kernels_own<A: Access>(sk: *const c_void) -> u16 {
    let bit = OFF_SK_KERN_SOCK.load();
    if bit == OFFSET_NONE {
        return 0;
    }
    // SAFETY: per the contract; the byte that holds the bit.
    let byte = unsafe { A::load::<u8>(sk, bit >> 3) };
    if byte >> (bit & 7) & 1 != 0 { SockFlags::KERNEL } else { 0 }
}

/// `sk_protocol`.
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
pub(crate) unsafe fn protocol<A: Access>(sk: *const c_void) -> u16 {
    // SAFETY: per the contract.
    unsafe { A::load(sk, OFF_SK_PROTOCOL.load()) }
}

/// `sk_shutdown`.
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
pub(crate) unsafe fn shutdown<A: Access>(sk: *const c_void) -> u8 {
    // SAFETY: per the contract.
    unsafe { A::load(sk, OFF_SK_SHUTDOWN.load()) }
}

/// [`SockFlags::HAS_SOCKET`] and [`SockFlags::IN_CLOSE`] of a socket whose state changes.
///
/// Three things together show that `current` closes it at this moment, which distinguishes close() from shutdown() and from
/// the network in a state transition, and names the closer exactly:
/// * The file's last reference is gone: `__fput` runs with the count at 0 (`f_count`), or dead (`f_ref` of 6.13 on, where
///   0 is one reference and a dead count is negative: `file_ref_put`). But all files of a dying task are dead before
///   `__fput` runs for the first one (`close_files` queues them, `task_work_run` releases them).
/// * `current` holds the lock of the socket's inode, as `__sock_release` (net/socket.c) does around the close.
/// * The socket's lock is owned by a process: a softirq that interrupts `current` after it took the inode's lock changes
///   the state of the socket only while nobody owns it (`tcp_v4_rcv`).
///
/// A socket without a file is the kernel's own: there a full shutdown is taken for the close.
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
pub(crate) unsafe fn holder<A: Access>(sk: *const c_void) -> u16 {
    // SAFETY: per the contract; each pointer is checked before it is used.
    unsafe {
        let socket = A::pointer(sk, OFF_SK_SOCKET.load());
        if socket.is_null() {
            return 0;
        }
        let file = A::pointer(socket, OFF_SOCKET_FILE.load());
        let in_close = if A::load::<i32>(sk, OFF_SK_LOCK_OWNED.load()) == 0 {
            false
        } else if file.is_null() {
            shutdown::<A>(sk) == 3
        } else {
            is_dead::<A>(file) && is_released_by_current::<A>(file)
        };
        if in_close { SockFlags::HAS_SOCKET | SockFlags::IN_CLOSE } else { SockFlags::HAS_SOCKET }
    }
}

/// Whether the last reference of a file is gone.
///
/// # Safety
/// `file` is a `struct file` for this access.
#[inline(always)]
unsafe fn is_dead<A: Access>(file: *const c_void) -> bool {
    // SAFETY: per the contract.
    unsafe {
        if OFF_FILE_REF.load() != OFFSET_NONE {
            A::load::<i64>(file, OFF_FILE_REF.load()) < 0
        } else if OFF_FILE_COUNT.load() != OFFSET_NONE {
            A::load::<i64>(file, OFF_FILE_COUNT.load()) == 0
        } else {
            false
        }
    }
}

/// The low bits of a lock's owner are flags (`RWSEM_OWNER_FLAGS_MASK` in kernel/locking/rwsem.c, `RT_MUTEX_HAS_WAITERS`).
const LOCK_FLAGS: u64 = 7;

/// Whether `current` holds the lock of a file's inode for writing: `i_rwsem`, which is an `rt_mutex` with `PREEMPT_RT`.
///
/// # Safety
/// `file` is a `struct file` for this access.
#[inline(always)]
unsafe fn is_released_by_current<A: Access>(file: *const c_void) -> bool {
    // SAFETY: per the contract; the member of the real-time kernel is a pointer, which only the helper reads as a number.
    unsafe {
        let inode = A::pointer(file, OFF_FILE_INODE.load());
        let owner = if OFF_INODE_LOCK_OWNER.load() == OFFSET_NONE {
            probe::<u64>(inode, OFF_INODE_RT_LOCK_OWNER.load())
        } else {
            A::load::<u64>(inode, OFF_INODE_LOCK_OWNER.load())
        };
        owner & !LOCK_FLAGS == current() as u64
    }
}

/// Bytes of `struct socket` that are copied at once: state, type, flags, file, sk, ops (include/linux/net.h).
const SOCKET_COPIED: usize = 40;

/// `file` and `sk` of a `struct socket`, in one call of the helper; null when the memory is not readable.
#[inline(always)]
pub(crate) fn file_and_sk(socket: *const c_void) -> (*const c_void, *const c_void) {
    let (file, sk) = (OFF_SOCKET_FILE.load(), OFF_SOCKET_SK.load());
    // SAFETY: the helper faults safely; the members are within the copy, aligned as in the struct.
    unsafe {
        if file as usize > SOCKET_COPIED - 8 || sk as usize > SOCKET_COPIED - 8 {
            return (probe::<u64>(socket, file) as *const c_void, probe::<u64>(socket, sk) as *const c_void);
        }
        let mut bytes = [0_u64; SOCKET_COPIED / 8];
        copy(socket, 0, (&raw mut bytes).cast(), SOCKET_COPIED as u32);
        let member =
            |at: u32| (&raw const bytes).byte_add(at as usize).cast::<*const c_void>().read_volatile();
        (member(file), member(sk))
    }
}

/// The inode number of the socket, 0 where it has none: `struct socket` and its inode are one `socket_alloc`.
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
pub(crate) unsafe fn inode<A: Access>(sk: *const c_void) -> u32 {
    // SAFETY: per the contract; the inode lies beyond `struct socket`, so the helper reads it.
    unsafe {
        let socket = A::pointer(sk, OFF_SK_SOCKET.load());
        if socket.is_null() {
            return 0;
        }
        probe::<u64>(socket, OFF_SOCKET_ALLOC_INODE.load().wrapping_add(OFF_INODE_INO.load())) as u32
    }
}

/// The key of a socket that changes between these states, and [`SockFlags::ADDRESS_KEY`] or nothing.
///
/// It is the address of an MPTCP connection although that has a cookie: an accepted one has the cookie of its listener
/// (`sk_clone_lock` copies it, and unlike `inet_csk_clone_lock` for TCP, `mptcp_sk_clone_init` gives no other), and
/// nothing that can be read here distinguishes it from one that connected.
///
/// # Safety
/// `ours` was found with this access.
#[inline(always)]
pub(crate) unsafe fn key<A: Access + Key>(
    ours: Ours,
    common: &A::Common,
    (old, new): (u8, u8),
) -> (u64, u16) {
    let listener = new == TCP_LISTEN || (old == TCP_LISTEN && new == TCP_CLOSE);
    if ours.protocol == IPPROTO_MPTCP && !listener {
        return (ours.sk as u64, SockFlags::ADDRESS_KEY);
    }
    // SAFETY: per the contract.
    unsafe { A::key(ours.sk, common) }
}

/// Returns [`SockFlags::V6ONLY`] or nothing, of a listener.
///
/// # Safety
/// `common` is the beginning of a socket.
#[inline(always)]
pub(crate) unsafe fn v6only<A: Access>(common: &A::Common) -> u16 {
    // SAFETY: per the contract; of the bit the byte that holds it.
    unsafe {
        let bit = OFF_SKC_IPV6ONLY.load();
        if bit != OFFSET_NONE
            && common.load::<u16>(OFF_SKC_FAMILY.load()) == AF_INET6
            && common.load::<u8>(bit >> 3) >> (bit & 7) & 1 != 0
        {
            SockFlags::V6ONLY
        } else {
            0
        }
    }
}

/// Describes a socket in place.
///
/// # Safety
/// `ours` was found with this access, `to` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn fill<A: Access + Key>(
    to: *mut Sock,
    ours: Ours,
    common: &A::Common,
    (old, new): (u8, u8),
    flags: u16,
    is_end: bool,
) {
    // SAFETY: per the contract.
    unsafe {
        let sk = ours.sk;
        let (key, key_flags) = key::<A>(ours, common, (old, new));
        (*to).key = key;
        let family = common.load::<u16>(OFF_SKC_FAMILY.load());
        if family == AF_INET6 && OFF_SKC_V6_DADDR.load() != OFFSET_NONE {
            copy(sk, OFF_SKC_V6_RCV_SADDR.load(), (&raw mut (*to).laddr).cast(), 16);
            copy(sk, OFF_SKC_V6_DADDR.load(), (&raw mut (*to).raddr).cast(), 16);
        } else {
            let laddr = (&raw mut (*to).laddr).cast::<u32>();
            let raddr = (&raw mut (*to).raddr).cast::<u32>();
            laddr.write(common.load::<u32>(OFF_SKC_RCV_SADDR.load()));
            laddr.add(1).write(0);
            laddr.add(2).write(0);
            laddr.add(3).write(0);
            raddr.write(common.load::<u32>(OFF_SKC_DADDR.load()));
            raddr.add(1).write(0);
            raddr.add(2).write(0);
            raddr.add(3).write(0);
        }
        let mut netns = 0;
        if OFF_SKC_NET.load() != OFFSET_NONE && OFF_NET_INUM.load() != OFFSET_NONE {
            let net = A::common_pointer(common, OFF_SKC_NET.load());
            if !net.is_null() {
                netns = A::load::<u32>(net, OFF_NET_INUM.load());
            }
        }
        (*to).netns = netns;
        (*to).inode = 0;
        // `skc_num` is 0 once the port was given back (`inet_put_port`); `inet_sport` keeps it, but is stale on a
        // socket that connects again.
        let num = common.load::<u16>(OFF_SKC_NUM.load());
        let pending = num == 0 && flags & SockFlags::PORT_PENDING != 0;
        (*to).lport =
            if num != 0 || pending { num } else { u16::from_be(probe::<u16>(sk, OFF_INET_SPORT.load())) };
        (*to).rport = u16::from_be(common.load::<u16>(OFF_SKC_DPORT.load()));
        (*to).device = common.load::<u32>(OFF_SKC_BOUND_DEV_IF.load());
        // Only an end has a use for these.
        (*to).err = if is_end { error::<A>(sk, old) } else { 0 };
        let flags = if pending { flags } else { flags & !SockFlags::PORT_PENDING };
        (*to).flags = flags | key_flags | ours.flags;
        (*to).old_state = old;
        (*to).new_state = new;
        (*to).shutdown = if is_end { shutdown::<A>(sk) } else { 0 };
        (*to).family = family as u8;
    }
}

/// Why a connection ended, 0 if for no error.
///
/// What the network answers to a SYN while the connect still holds the socket's lock (a firewall or router that rejects in the same
/// call) becomes `sk_err_soft` alone, and the attempt stays (`tcp_v4_err`, `tcp_v6_err`). Getting `SO_ERROR` clears it
/// (`sk_getsockopt`).
///
/// # Safety
/// `sk` is a `struct sock` for this access.
#[inline(always)]
unsafe fn error<A: Access>(sk: *const c_void, old: u8) -> u16 {
    // SAFETY: per the contract.
    unsafe {
        let error = A::load::<i32>(sk, OFF_SK_ERR.load());
        if error == 0 && old == TCP_SYN_SENT {
            A::load::<i32>(sk, OFF_SK_ERR_SOFT.load()) as u16
        } else {
            error as u16
        }
    }
}

/// What was received when the counters were read, for [`settle_fin`].
#[derive(Clone, Copy)]
pub(crate) struct Received {
    /// `rcv_nxt`.
    next: u32,
    /// `copied_seq`.
    read: u32,
}

/// Reads the counters in place. [`settle_fin`] must follow, when everything else is read.
///
/// # Safety
/// `ours` was found with this access and with counters, `to` is valid for writes.
#[inline(always)]
pub(crate) unsafe fn fill_counters<A: Access>(
    to: *mut Counters,
    Ours { sk, protocol, tcp, .. }: Ours,
) -> Received {
    // SAFETY: per the contract; members of `mptcp_sock` lie beyond `struct sock`, so the helper reads them.
    unsafe {
        if tcp.is_null() {
            let counts = protocol == IPPROTO_MPTCP && has_mptcp_counters();
            let count = |offset: u32| if counts { probe::<u64>(sk, offset) } else { 0 };
            let retrans = count(OFF_MPTCP_BYTES_RETRANS.load());
            // Unlike that of TCP it counts no retransmission (`mptcp_update_post_push`).
            (*to).bytes_sent = count(OFF_MPTCP_BYTES_SENT.load()).wrapping_add(retrans);
            (*to).bytes_retrans = retrans;
            (*to).bytes_received = count(OFF_MPTCP_BYTES_RECEIVED.load());
            (*to).total_retrans = 0;
            (*to).srtt_us = 0;
            return Received { next: 0, read: 0 };
        }
        (*to).bytes_received = A::load::<u64>(tcp, OFF_TCP_BYTES_RECEIVED.load());
        let next = A::load::<u32>(tcp, OFF_TCP_RCV_NXT.load());
        let read = A::load::<u32>(tcp, OFF_TCP_COPIED_SEQ.load());
        (*to).bytes_sent = A::load::<u64>(tcp, OFF_TCP_BYTES_SENT.load());
        (*to).bytes_retrans = A::load::<u64>(tcp, OFF_TCP_BYTES_RETRANS.load());
        (*to).total_retrans = A::load::<u32>(tcp, OFF_TCP_TOTAL_RETRANS.load());
        (*to).srtt_us = A::load::<u32>(tcp, OFF_TCP_SRTT_US.load()) >> 3;
        Received { next, read }
    }
}

/// Whether the kernel counts the bytes of MPTCP connections (6.5 on).
#[inline(always)]
fn has_mptcp_counters() -> bool {
    OFF_MPTCP_BYTES_SENT.load() != OFFSET_NONE
        && OFF_MPTCP_BYTES_RETRANS.load() != OFFSET_NONE
        && OFF_MPTCP_BYTES_RECEIVED.load() != OFFSET_NONE
}

/// Returns the flags that the counters and the socket's own flags give.
///
/// Nobody may hold the socket's lock yet (`tcp_close`), and the peer's FIN arrives on another CPU: first it counts as a byte
/// and a number of the sequence (`tcp_rcv_nxt_update`), then `tcp_fin` sets SOCK_DONE. So the flag is read last, and what it
/// corrects is read again after it. A FIN that was counted before the other members were read shows by now.
///
/// # Safety
/// Those of [`fill_counters`] hold, and `received` is its answer.
#[inline(always)]
pub(crate) unsafe fn settle_fin<A: Access>(
    to: *mut Counters,
    Ours { sk, protocol, tcp, .. }: Ours,
    Received { mut next, read }: Received,
) -> u16 {
    // SAFETY: per the contract.
    unsafe {
        let mut flags = 0;
        let sock_flags = A::load::<u64>(sk, OFF_SKC_FLAGS.load());
        if sock_flags & SOCK_DONE != 0 {
            flags |= SockFlags::PEER_FIN;
        }
        if sock_flags & SOCK_LINGER != 0
            && OFF_SK_LINGERTIME.load() != OFFSET_NONE
            && A::load::<u64>(sk, OFF_SK_LINGERTIME.load()) == 0
        {
            flags |= SockFlags::LINGER_ZERO;
        }
        if tcp.is_null() {
            let counts = protocol == IPPROTO_MPTCP && has_mptcp_counters();
            return if counts { flags | SockFlags::COUNTERS } else { flags };
        }
        // A FIN that was processed but not read counts one in the sequence.
        let mut fin = 0;
        if flags & SockFlags::PEER_FIN != 0 {
            (*to).bytes_received = A::load::<u64>(tcp, OFF_TCP_BYTES_RECEIVED.load());
            next = A::load::<u32>(tcp, OFF_TCP_RCV_NXT.load());
            fin = 1;
        }
        let unread = next.wrapping_sub(read).wrapping_sub(fin);
        if unread != 0 && unread < 1 << 31 {
            flags |= SockFlags::UNREAD;
        }
        flags | SockFlags::COUNTERS
    }
}
