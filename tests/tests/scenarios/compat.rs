//! A 32-bit program, which uses the system calls of 32-bit x86.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use conn_tests::event::Event;
use serde_json::Value;

use crate::agent::Agent;
use crate::copied;

/// The program: waits for a byte, accepts two connections from descriptor 100 in the two ways there are, and waits for another byte.
const CODE: &[u8] = &[
    0xb8, 3, 0, 0, 0, 0x31, 0xdb, 0x89, 0xe1, 0xba, 1, 0, 0, 0, 0xcd, 0x80, // read(0, stack, 1)
    0x6a, 0, 0x6a, 0, 0x6a, 100, // the arguments of accept: 100, 0, 0
    0xb8, 102, 0, 0, 0, 0xbb, 5, 0, 0, 0, 0x89, 0xe1, 0xcd, 0x80, // socketcall(SYS_ACCEPT, them)
    0xb8, 0x6c, 1, 0, 0, 0xbb, 100, 0, 0, 0, 0x31, 0xc9, 0x31, 0xd2, 0x31, 0xf6, 0xcd,
    0x80, // accept4(100, 0, 0, 0)
    0xb8, 3, 0, 0, 0, 0x31, 0xdb, 0x89, 0xe1, 0xba, 1, 0, 0, 0, 0xcd, 0x80, // read(0, stack, 1)
    0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80, // exit(0)
];
/// A descriptor that nobody else has: the library's own lie below.
const LISTENER: i32 = 100;
/// Where it is loaded, and how many bytes are before the code.
const BASE: u32 = 0x0804_8000;
const HEADERS: u32 = 84;

/// An ELF file for 32-bit x86 with one segment (elf(5)).
fn elf() -> Vec<u8> {
    let size = HEADERS + CODE.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    // An executable, for x86; the entry, the program headers behind this one, no sections.
    file.extend([2, 0, 3, 0]);
    file.extend([1, BASE + HEADERS, 52, 0, 0].map(u32::to_le_bytes).concat());
    file.extend([52, 32, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // One to load, to be read and executed.
    file.extend([1, 0, BASE, BASE, size, size, 5, 0x1000].map(u32::to_le_bytes).concat());
    file.extend(CODE);
    file
}

/// The program, with its listener; gone with the value.
struct Program {
    path: PathBuf,
    child: Child,
}

impl Program {
    /// `None`: this kernel executes no 32-bit programs.
    fn start(listener: &TcpListener) -> Result<Option<Self>> {
        let path = std::env::temp_dir().join(format!("conn-test-{}-compat", std::process::id()));
        fs::write(&path, elf()).context("write the program")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("its mode")?;
        let fd = listener.as_raw_fd();
        let mut command = Command::new(&path);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: dup2 may be called between fork and exec; the descriptor is open in the child too.
        unsafe {
            command.pre_exec(move || match libc::dup2(fd, LISTENER) {
                LISTENER => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        match copied::spawn(&mut command) {
            Ok(child) => Ok(Some(Self { path, child })),
            Err(error) => {
                let _ = fs::remove_file(&path);
                let lacks = error.raw_os_error() == Some(libc::ENOEXEC);
                if lacks { Ok(None) } else { Err(error).context("execute a 32-bit program") }
            }
        }
    }

    fn go_on(&mut self) -> Result<()> {
        self.child.stdin.as_mut().context("no stdin")?.write_all(b"x").context("write to the program")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.path);
    }
}

/// Why this kernel does not run it.
pub(crate) fn refusal() -> Option<String> {
    let runs = cfg!(target_arch = "x86_64")
        && TcpListener::bind("127.0.0.1:0")
            .is_ok_and(|listener| !matches!(Program::start(&listener), Ok(None)));
    (!runs).then(|| "not on this kernel: it executes no 32-bit programs".to_owned())
}

/// Both its accepts are reported when they happen, and as its own: the listener is of this process.
pub(crate) fn accepts() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let to = listener.local_addr()?;
    let mut program = Program::start(&listener)?.context("this kernel executes no 32-bit programs")?;
    // It sees at its start that such a program runs.
    let agent = Agent::start(&[&format!("port:{}", to.port())])?;
    let mark = agent.mark();
    let clients = [TcpStream::connect(to)?, TcpStream::connect(to)?];
    program.go_on()?;
    for client in &clients {
        let port = client.local_addr()?.port();
        let is_accept = |event: &Event| event.kind == "accept" && event.rport == Some(port);
        agent.wait_for(mark, "an accept of a 32-bit program", is_accept)?;
        let event = agent.since(mark).into_iter().find(is_accept).context("an accept")?;
        let event: Value = serde_json::from_str(&event.raw)?;
        let (pid, method) = (&event["process"]["pid"], &event["method"]);
        ensure!(*pid == program.child.id() && method == "hook", "not of {}: {event}", program.child.id());
    }
    program.go_on()?;
    agent.stop()?.lost_nothing()?;
    Ok(())
}
