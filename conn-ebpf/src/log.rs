//! Diagnostics of the programs themselves, off unless the agent sets the level (`--bpf-log`): the level is a frozen
//! global, so the verifier removes what is off.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;

/// aya-log asks for a context and does not use it; helpers that run in several program types have none to give.
pub(crate) struct Anywhere;

impl EbpfContext for Anywhere {
    fn as_ptr(&self) -> *mut c_void {
        core::ptr::null_mut()
    }
}
