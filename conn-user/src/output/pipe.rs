//! The pipe to whoever reads the output.

use std::os::fd::AsFd;

/// Bytes that a pipe to a reader may hold: what the kernel allows everybody (`pipe_max_size`, fs/pipe.c).
const SIZE: usize = 1 << 20;

/// Lets the pipe behind `output`, if it is one, hold more than the 64 KiB it has by default (`PIPE_DEF_BUFFERS`,
/// include/linux/pipe_fs_i.h). Each time it is full the writer waits until the reader has had its turn on a CPU: on a
/// busy machine, where that takes milliseconds, so small a pipe is slower than the events. Its pages are allocated as
/// they are needed.
///
/// Best effort: an administrator may forbid it, and what is not a pipe has no size.
pub fn widen(output: impl AsFd) {
    if rustix::pipe::fcntl_getpipe_size(&output).is_ok_and(|size| size < SIZE) {
        let _refused = rustix::pipe::fcntl_setpipe_size(&output, SIZE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_pipe_holds_more() {
        let (_reader, writer) = std::io::pipe().expect("a pipe");
        widen(&writer);
        assert!(rustix::pipe::fcntl_getpipe_size(&writer).expect("a pipe has a size") >= SIZE);
        rustix::pipe::fcntl_setpipe_size(&writer, 2 * SIZE).ok();
        let before = rustix::pipe::fcntl_getpipe_size(&writer).expect("a pipe has a size");
        widen(&writer);
        assert_eq!(rustix::pipe::fcntl_getpipe_size(&writer).expect("a pipe has a size"), before);
    }

    #[test]
    fn what_is_no_pipe_stays() {
        widen(File::open("/dev/null").expect("/dev/null"));
    }
}
