//! Two ways to read a kernel member: a direct load through a BTF pointer, and the helper.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// How a program reads kernel memory.
pub(crate) trait Access {
    /// Reads a member of exactly the size of `T`; zero when the memory is not readable.
    ///
    /// # Safety
    /// For [`Direct`], `base` is a pointer that the verifier knows and `offset` a member of its type.
    unsafe fn load<T: Copy + Default>(base: *const c_void, offset: u32) -> T;

    /// Reads a pointer member; null when the memory is not readable.
    ///
    /// # Safety
    /// Those of [`Access::load`] hold.
    unsafe fn pointer(base: *const c_void, offset: u32) -> *const c_void;

    /// The part of a socket that most is read of.
    type Common: Common;

    /// Prepares to read from the beginning of a socket.
    ///
    /// # Safety
    /// Those of [`Access::load`] hold.
    unsafe fn common(sk: *const c_void) -> Self::Common;

    /// Reads a pointer member of the beginning of a socket.
    ///
    /// # Safety
    /// Those of [`Access::load`] hold.
    unsafe fn common_pointer(common: &Self::Common, offset: u32) -> *const c_void;

    /// The `tcp_sock` of a socket through which this access can read members beyond `struct sock`; null if it is none.
    ///
    /// # Safety
    /// Those of [`Access::load`] hold.
    unsafe fn tcp_sock(sk: *const c_void) -> *const c_void;
}

/// The beginning of a socket, `struct sock_common`.
pub(crate) trait Common {
    /// Reads a member, see [`Access::load`].
    ///
    /// # Safety
    /// Those of [`Access::load`] hold.
    unsafe fn load<T: Copy + Default>(&self, offset: u32) -> T;
}

/// The socket itself: loads are cheap.
pub(crate) struct Typed(*const c_void);

impl Common for Typed {
    #[inline(always)]
    unsafe fn load<T: Copy + Default>(&self, offset: u32) -> T {
        // SAFETY: per the contract.
        unsafe { Direct::load(self.0, offset) }
    }
}

/// Bytes of a socket that are copied at once; `struct sock_common` has 136.
const COPIED: usize = 128;

/// A copy: one call of the helper instead of one for each member.
pub(crate) struct Copied {
    bytes: [u64; COPIED / 8],
    sk: *const c_void,
}

impl Common for Copied {
    #[inline(always)]
    unsafe fn load<T: Copy + Default>(&self, offset: u32) -> T {
        if offset as usize > COPIED - size_of::<T>() {
            // SAFETY: the helper faults safely.
            return unsafe { probe(self.sk, offset) };
        }
        // SAFETY: within the copy; members are aligned within the socket and so within the copy.
        unsafe { (&raw const self.bytes).byte_add(offset as usize).cast::<T>().read_volatile() }
    }
}

/// fentry, fexit and tp_btf: the verifier checks the load against BTF, and a fault reads zero.
pub(crate) struct Direct;

/// kprobes and classic tracepoints: `bpf_probe_read_kernel`.
pub(crate) struct Probe;

impl Access for Direct {
    type Common = Typed;

    #[inline(always)]
    unsafe fn common(sk: *const c_void) -> Typed {
        Typed(sk)
    }

    #[inline(always)]
    unsafe fn common_pointer(common: &Typed, offset: u32) -> *const c_void {
        // SAFETY: per the contract.
        unsafe { Self::pointer(common.0, offset) }
    }

    #[inline(always)]
    unsafe fn load<T: Copy + Default>(base: *const c_void, offset: u32) -> T {
        // SAFETY: per the contract. Volatile keeps it one load of this width: the verifier refuses a merged or a
        // narrowed load of a pointer member.
        unsafe { base.byte_add(offset as usize).cast::<T>().read_volatile() }
    }

    #[inline(always)]
    unsafe fn pointer(base: *const c_void, offset: u32) -> *const c_void {
        // SAFETY: per the contract.
        unsafe { base.byte_add(offset as usize).cast::<*const c_void>().read_volatile() }
    }

    #[inline(always)]
    unsafe fn tcp_sock(sk: *const c_void) -> *const c_void {
        // SAFETY: the helper takes any socket and answers null for what is no full TCP socket.
        unsafe {
            aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock(sk.cast_mut()).cast::<c_void>().cast_const()
        }
    }
}

impl Access for Probe {
    type Common = Copied;

    #[inline(always)]
    unsafe fn common(sk: *const c_void) -> Copied {
        let mut copied = Copied { bytes: [0; COPIED / 8], sk };
        // SAFETY: the copy is valid for its size. What cannot be read is zero.
        unsafe { copy(sk, 0, (&raw mut copied.bytes).cast(), COPIED as u32) };
        copied
    }

    #[inline(always)]
    unsafe fn common_pointer(common: &Copied, offset: u32) -> *const c_void {
        // SAFETY: per the contract.
        unsafe { common.load::<u64>(offset) as *const c_void }
    }

    #[inline(always)]
    unsafe fn load<T: Copy + Default>(base: *const c_void, offset: u32) -> T {
        // SAFETY: the helper faults safely.
        unsafe { probe(base, offset) }
    }

    #[inline(always)]
    unsafe fn pointer(base: *const c_void, offset: u32) -> *const c_void {
        // SAFETY: the helper faults safely.
        unsafe { probe::<u64>(base, offset) as *const c_void }
    }

    #[inline(always)]
    unsafe fn tcp_sock(sk: *const c_void) -> *const c_void {
        sk
    }
}

/// Reads a value with the helper; the default when the memory is not readable.
///
/// # Safety
/// None: the helper faults safely; unsafe only because it turns a number into memory.
#[inline(always)]
pub(crate) unsafe fn probe<T: Copy + Default>(base: *const c_void, offset: u32) -> T {
    let mut value = T::default();
    // SAFETY: `value` is valid for its size; the source is checked by the helper.
    let failed = unsafe { copy(base, offset, (&raw mut value).cast(), size_of::<T>() as u32) };
    if failed { T::default() } else { value }
}

/// Copies `size` bytes with the helper; `true` when the memory is not readable (the helper then zeroes `to`).
///
/// # Safety
/// `to` is valid for `size` bytes.
#[inline(always)]
pub(crate) unsafe fn copy(base: *const c_void, offset: u32, to: *mut c_void, size: u32) -> bool {
    // SAFETY: per the contract.
    unsafe { bpf_probe_read_kernel(to, size, base.byte_add(offset as usize)) != 0 }
}

/// The running task, typed by BTF. Only where the kernel has the helper (5.11).
#[inline(always)]
pub(crate) fn current_typed() -> *const c_void {
    // SAFETY: the helper has no precondition.
    unsafe { aya_ebpf::helpers::generated::bpf_get_current_task_btf().cast::<c_void>().cast_const() }
}

/// The running task.
#[inline(always)]
pub(crate) fn current() -> *const c_void {
    // SAFETY: the helper has no precondition.
    unsafe { aya_ebpf::helpers::generated::bpf_get_current_task() as *const c_void }
}
