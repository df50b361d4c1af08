//! 32-bit programs on a 64-bit kernel.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// Whether a process below `proc` runs a 32-bit program now. A process that cannot be read is taken for none.
pub fn is_any_running(proc: &Path) -> bool {
    let Ok(entries) = fs::read_dir(proc) else { return false };
    let is_process =
        |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    entries.flatten().filter(is_process).any(|entry| {
        let mut head = [0; 8];
        // No file of the process is opened, and no lock taken that it could hold for long (`auxv_open`, fs/proc/base.c).
        let read = File::open(entry.path().join("auxv")).and_then(|mut auxv| auxv.read_exact(&mut head));
        read.is_ok() && is_32_bit(head)
    })
}

/// Whether an auxiliary vector that begins so is one of 32-bit pairs (`create_elf_tables`, fs/binfmt_elf.c): keys are small numbers, and
/// the value of the first pair is never 0.
const fn is_32_bit(head: [u8; 8]) -> bool {
    u64::from_ne_bytes(head) > u32::MAX as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_the_auxiliary_vector() {
        // AT_SYSINFO_EHDR.
        assert!(!is_32_bit(33_u64.to_ne_bytes()));
        let pair = [32_u32.to_ne_bytes(), 0xf7f2_d590_u32.to_ne_bytes()].concat();
        assert!(is_32_bit(pair.try_into().expect("eight bytes")));
        let this = fs::read("/proc/self/auxv").expect("auxv");
        assert!(!is_32_bit(*this.first_chunk().expect("a pair")));
    }

    #[test]
    fn among_all_processes() {
        let proc = std::env::temp_dir().join(format!("conn-compat-{}", std::process::id()));
        for (pid, auxv) in [("1", &[][..]), ("self", &[1; 8]), ("27", &[33, 0, 0, 0, 0, 0, 0, 0])] {
            fs::create_dir_all(proc.join(pid)).expect("folder");
            fs::write(proc.join(pid).join("auxv"), auxv).expect("file");
        }
        assert!(!is_any_running(&proc));
        fs::create_dir_all(proc.join("30")).expect("folder");
        fs::write(proc.join("30/auxv"), [32, 0, 0, 0, 0, 0, 0, 0xf7]).expect("file");
        assert!(is_any_running(&proc));
        fs::remove_dir_all(&proc).expect("removed");
    }
}
