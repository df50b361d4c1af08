//! The BPF programs of conn.
//!
//! They keep no state per connection: each writes one record and the agent joins. Nothing here may panic: a panic path
//! is an infinite loop that the verifier refuses, and `cargo xtask build` refuses an object that holds one.

#![no_std]
#![no_main]
#![deny(clippy::expect_used)]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand the context over by value")]
#![expect(
    clippy::cast_sign_loss,
    reason = "kernel integers whose range is known, in code that must not branch for what cannot happen"
)]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "the addresses lie at multiples of 8 in a record, and the ring aligns records to 8"
)]
#![expect(
    clippy::inline_always,
    reason = "one program is one function: the verifier follows pointers within it, and the stack is 512 bytes"
)]

mod accept;
mod backup;
mod close;
mod connect;
mod exec;
mod execs;
mod fd;
mod listen;
mod log;
mod mem;
mod offsets;
mod probe;
mod process;
mod ring;
mod sock;
mod state;
mod task;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
