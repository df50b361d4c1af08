//! How often each process has executed a program, as the kernel counts: the iterator `iter/task` over all tasks.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd};
use conn_common::record::ExecCountRecord;

use super::info::bpf;
use crate::units::{BootNs, Pid};

/// A process and how often it, and who it was forked from, executed a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecCount {
    /// Process id.
    pub pid: Pid,
    /// Start of the group leader.
    pub start: BootNs,
    /// Low half of `task_struct.self_exec_id`.
    pub execs: u32,
}

/// Where the counts come from. A seam: the process table is tested without a kernel.
pub trait CountExecs: Send {
    /// The counts of all processes, now.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn read(&mut self) -> io::Result<Vec<ExecCount>>;
}

/// The loaded iterator. It runs only while it is read.
#[derive(Debug)]
pub struct ExecIterator {
    program: OwnedFd,
}

impl ExecIterator {
    /// Of a loaded program.
    pub(super) const fn new(program: OwnedFd) -> Self {
        Self { program }
    }
}

impl CountExecs for ExecIterator {
    fn read(&mut self) -> io::Result<Vec<ExecCount>> {
        let link = open(bpf_cmd::BPF_LINK_CREATE, |attr| {
            attr.link_create.__bindgen_anon_1.prog_fd = self.program.as_raw_fd().cast_unsigned();
            attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
        })?;
        let iterator = open(bpf_cmd::BPF_ITER_CREATE, |attr| {
            attr.iter_create.link_fd = link.as_raw_fd().cast_unsigned();
        })?;
        let mut bytes = Vec::new();
        File::from(iterator).read_to_end(&mut bytes)?;
        Ok(parse(&bytes))
    }
}

/// A command whose result is a descriptor. `fill` sets plain numbers.
fn open(command: bpf_cmd, fill: impl FnOnce(&mut bpf_attr)) -> io::Result<OwnedFd> {
    // SAFETY: a union of structs of integers, for which zero is a value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    fill(&mut attr);
    // SAFETY: the two commands read numbers alone.
    let fd = RawFd::try_from(unsafe { bpf(command, &mut attr) }).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn parse(bytes: &[u8]) -> Vec<ExecCount> {
    let (records, _) = bytes.as_chunks::<{ size_of::<ExecCountRecord>() }>();
    records
        .iter()
        .map(|record| {
            let word =
                |at: usize| u32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
            let start = u64::from(word(8)) | u64::from(word(12)) << 32;
            ExecCount { pid: Pid(word(0)), start: BootNs(start), execs: word(4) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_a_cut_one_is_not() {
        let mut bytes = Vec::new();
        for (tgid, execs, start) in [(7_u32, 3_u32, 0x1_0000_0002_u64), (8, u32::MAX, 1)] {
            bytes.extend(tgid.to_ne_bytes());
            bytes.extend(execs.to_ne_bytes());
            bytes.extend(start.to_ne_bytes());
        }
        let count = |pid, execs, start| ExecCount { pid: Pid(pid), start: BootNs(start), execs };
        assert_eq!(parse(&bytes), [count(7, 3, 0x1_0000_0002), count(8, u32::MAX, 1)]);
        assert_eq!(parse(&bytes[..31]).len(), 1);
    }
}
