//! The BPF programs of conn.
//!
//! They keep no state per connection: each writes one record and the agent joins. Nothing here may panic: a panic path
//! is an infinite loop that the verifier refuses, and `cargo xtask build` refuses an object that holds one.

#![no_std]
#![no_main]

mod accept;
mod close;
mod connect;
mod exec;
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
