//! The proof that every hook delivers: "loaded and attached" is not "working".
//!
//! The agent makes loopback connections and a child process of its own and looks for their records. The records are
//! recognised by its own process id and ports, and are not reported to anybody.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Command, Stdio};

use conn_common::decode::Record;
use conn_common::hook::HookId;
use conn_common::record::Sock;
use thiserror::Error;

use super::plan::Plan;
use crate::units::Pid;

/// Why the self-test did not pass.
#[derive(Debug, Error)]
pub enum SelfTestError {
    /// The connection itself could not be made.
    #[error("self-test: {step}: {source}; is the loopback interface up?")]
    Workload {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Attached hooks that delivered nothing.
    #[error(
        "self-test: no record from {}: attached, but silent; another backend may work (`conn doctor` names them), and \
         `conn tail --no-self-test` shows what comes without this test",
        labels(.0)
    )]
    Silent(Vec<HookId>),
    /// Hooks whose records were lost each time: the machine is too busy for now.
    #[error(
        "self-test: records of {} were lost {attempts} times: this machine has more events than are read; a larger ring \
         (`ring_size`, `--ring-size`) has room for more, and a higher priority (`conn doctor` says which one is granted) reads faster",
        labels(.hooks)
    )]
    Lost {
        /// Whose.
        hooks: Vec<HookId>,
        /// How often the test was made.
        attempts: u32,
    },
}

fn labels(hooks: &[HookId]) -> String {
    hooks.iter().map(|hook| hook.label()).collect::<Vec<_>>().join(", ")
}

/// The part that makes the connections; it blocks, so it runs on a thread of its own.
pub struct Workload {
    v4: TcpListener,
    v6: Option<TcpListener>,
}

/// The part that watches the records.
pub struct Watch {
    /// The agent's process id as the kernel has it: in a pid namespace it is another one than the agent knows.
    own: Option<u32>,
    ports: Vec<u16>,
    children: BTreeSet<u32>,
    silent: BTreeSet<HookId>,
    /// Backup programs that delivered: the kernel has skipped the first ones.
    backups: BTreeSet<HookId>,
}

impl Workload {
    /// Connects twice, accepts by `accept4` and by `accept`, closes everything and runs a child process.
    ///
    /// # Errors
    /// When one of these fails.
    pub fn run(self) -> Result<(), SelfTestError> {
        let fail = |step| move |source| SelfTestError::Workload { step, source };
        let address = self.v4.local_addr().map_err(fail("reading the listener's address"))?;
        let first = TcpStream::connect(address).map_err(fail("connecting over loopback"))?;
        let (accepted, _) = self.v4.accept().map_err(fail("accepting by accept4"))?;
        drop(first);
        drop(accepted);
        let second = TcpStream::connect(address).map_err(fail("connecting over loopback"))?;
        let accepted = accept_without_flags(&self.v4).map_err(fail("accepting by accept"))?;
        drop(second);
        drop(accepted);
        drop(self.v4);
        drop(self.v6);
        Command::new("/proc/self/exe")
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(fail("running a child process"))?;
        Ok(())
    }
}

/// The system call `accept`, which the standard library does not use.
fn accept_without_flags(listener: &TcpListener) -> io::Result<OwnedFd> {
    // SAFETY: a listening descriptor; no address is asked for.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_accept,
            listener.as_raw_fd(),
            std::ptr::null::<libc::c_void>(),
            std::ptr::null::<libc::c_void>(),
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Watch {
    /// A watch for every hook of the plan.
    pub fn new(plan: &Plan) -> Self {
        let silent =
            plan.programs.iter().map(|planned| planned.hook).filter(|hook| !hook.is_backup()).collect();
        Self { own: None, ports: Vec::new(), children: BTreeSet::new(), silent, backups: BTreeSet::new() }
    }

    /// Opens the test's listeners, whose ports are watched from now on. May be made again.
    ///
    /// # Errors
    /// When the loopback listener cannot be made.
    pub fn workload(&mut self) -> Result<Workload, SelfTestError> {
        self.backups.clear();
        let bind = |address: SocketAddr| {
            TcpListener::bind(address)
                .map_err(|source| SelfTestError::Workload { step: "listening on loopback", source })
        };
        let v4 = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        // Without IPv6 on this host its listen hook cannot be proven, and will not be needed.
        let v6 = bind((Ipv6Addr::LOCALHOST, 0).into()).ok();
        if v6.is_none() {
            self.silent.remove(&HookId::KprobeInet6Hash);
        }
        let addresses = [Some(&v4), v6.as_ref()].into_iter().flatten().map(TcpListener::local_addr);
        self.ports.extend(addresses.filter_map(Result::ok).map(|address| address.port()));
        Ok(Workload { v4, v6 })
    }

    /// Returns whether a backup program of a hook has delivered.
    pub fn has_backup(&self, hook: HookId) -> bool {
        hook.backups().iter().any(|backup| self.backups.contains(backup))
    }

    /// The hooks that have not delivered yet.
    pub const fn silent(&self) -> &BTreeSet<HookId> {
        &self.silent
    }

    /// Takes note of a record; whether it belongs to the test.
    pub fn on_record(&mut self, hook: HookId, record: &Record<'_>) -> bool {
        let ours = match record {
            Record::Connect(r) | Record::Accept(r) | Record::Listen(r) | Record::Unlisten(r) => {
                let ours = self.is_our_sock(&r.sock);
                if ours {
                    self.own = Some(r.task.tgid);
                }
                ours
            }
            Record::Close(r) | Record::End(r) => self.is_our_sock(&r.sock),
            Record::Established(r) => self.is_our_sock(&r.sock),
            Record::Fork(r) => {
                let ours = self.own == Some(r.parent_tgid);
                if ours {
                    self.children.insert(r.child.tgid);
                }
                ours
            }
            Record::Exec(r, _) => self.children.contains(&r.task.tgid),
            Record::Exit(r) => self.children.contains(&r.task.tgid),
        };
        if ours {
            self.silent.remove(&hook);
            if hook.is_backup() {
                self.backups.insert(hook);
            }
        }
        ours
    }

    /// Whether a socket is one of the test's, by its ports.
    fn is_our_sock(&self, sock: &Sock) -> bool {
        self.is_port(sock.lport) || self.is_port(sock.rport)
    }

    /// A watch over connections of this port, for tests.
    #[cfg(test)]
    pub(crate) fn of_port(port: u16) -> Self {
        Self {
            own: None,
            ports: vec![port],
            children: BTreeSet::new(),
            silent: BTreeSet::new(),
            backups: BTreeSet::new(),
        }
    }

    /// Whether every hook has delivered.
    pub fn is_complete(&self) -> bool {
        self.silent.is_empty()
    }

    /// Whether a connection between these ports, or a listener, is the test's.
    pub fn is_port(&self, port: u16) -> bool {
        port != 0 && self.ports.contains(&port)
    }

    /// The id of the process that made the test's connections, as the kernel numbers it; `None`: no record reported it yet.
    pub fn own(&self) -> Option<Pid> {
        self.own.map(Pid)
    }

    /// Whether this process is a child of the test.
    pub fn is_child(&self, pid: Pid) -> bool {
        self.children.contains(&pid.0)
    }

    /// The verdict.
    ///
    /// # Errors
    /// When a hook delivered nothing.
    pub fn verdict(&self) -> Result<(), SelfTestError> {
        if self.is_complete() {
            Ok(())
        } else {
            Err(SelfTestError::Silent(self.silent.iter().copied().collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use conn_common::record::{ExitRecord, ForkRecord, SockRecord, Task};

    use super::*;

    fn watch(hooks: &[HookId]) -> Watch {
        Watch {
            own: None,
            ports: vec![4711],
            children: BTreeSet::new(),
            silent: hooks.iter().copied().collect(),
            backups: BTreeSet::new(),
        }
    }

    fn listen(tgid: u32, lport: u16) -> Record<'static> {
        let task = Task { tgid, ..Task::default() };
        Record::Listen(SockRecord { task, sock: Sock { lport, ..Sock::default() }, ..SockRecord::default() })
    }

    #[test]
    fn a_silent_hook_is_named() {
        let mut watch = watch(&[HookId::FexitListenStart, HookId::FentryTcpConnect]);
        assert!(watch.on_record(HookId::FexitListenStart, &listen(1, 4711)));
        assert!(!watch.is_complete());
        let error = watch.verdict().expect_err("tcp_connect delivered nothing").to_string();
        assert!(error.contains("fentry:tcp_connect") && !error.contains("listen_start"), "{error}");
    }

    #[test]
    fn what_others_do_proves_nothing() {
        let mut watch = watch(&[HookId::FexitListenStart]);
        assert!(!watch.on_record(HookId::FexitListenStart, &listen(1, 80)));
        assert!(!watch.on_record(HookId::FexitListenStart, &listen(1, 0)), "port 0 is no port");
        assert!(watch.verdict().is_err());
    }

    #[test]
    fn a_child_is_known_by_its_parent_as_the_kernel_numbers_it() {
        let mut watch = watch(&[HookId::ProcessFork, HookId::ProcessExit]);
        let fork = |parent_tgid, tgid| {
            Record::Fork(ForkRecord {
                child: Task { tgid, ..Task::default() },
                parent_tgid,
                ..ForkRecord::default()
            })
        };
        assert!(!watch.on_record(HookId::ProcessFork, &fork(70, 71)), "before anything of ours was seen");
        watch.on_record(HookId::FexitListenStart, &listen(70, 4711));
        assert!(watch.on_record(HookId::ProcessFork, &fork(70, 72)));
        let exit = |tgid| {
            Record::Exit(ExitRecord { task: Task { tgid, ..Task::default() }, ..ExitRecord::default() })
        };
        assert!(!watch.on_record(HookId::ProcessExit, &exit(71)));
        assert!(watch.on_record(HookId::ProcessExit, &exit(72)));
        assert!(watch.is_child(Pid(72)) && watch.is_complete());
    }
}
