//! Facts of real kernels, as recorded (Debian's cloud kernels on x86_64, as root, everything tried), and worse ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::kernel::facts::{
    BtfFacts, BtfTracepoint, Capabilities, Capability, KernelFacts, KernelFunction, KprobeFacts, Lockdown,
    Privilege, Probe, Symbol, Tracefs, TracepointId,
};

/// Everything that root has.
fn root() -> Privilege {
    Privilege { uid: 0, capabilities: Capabilities::of(&Capability::ALL), initial_user_namespace: Some(true) }
}

fn kernel(release: &str, functions: &[(KernelFunction, u32)], exit_arguments: u32) -> KernelFacts {
    KernelFacts {
        release: release.to_owned(),
        machine: "x86_64".to_owned(),
        executable: "/usr/bin/conn".to_owned(),
        btf: BtfFacts {
            present: true,
            error: None,
            functions: functions.iter().copied().collect(),
            faultable_syscalls: false,
            tracepoints: BTreeMap::from([
                (BtfTracepoint::InetSockSetState, 3),
                (BtfTracepoint::SchedProcessFork, 2),
                (BtfTracepoint::SchedProcessExec, 3),
                (BtfTracepoint::SchedProcessExit, exit_arguments),
            ]),
            missing: Vec::new(),
            fatal: Vec::new(),
        },
        kprobes: KprobeFacts {
            supported: true,
            symbols: Some(functions.iter().map(|&(function, _)| (function, Symbol::Present)).collect()),
        },
        tracefs: Tracefs::Mounted {
            path: PathBuf::from("/sys/kernel/tracing"),
            sys_exit_accept: TracepointId::Readable,
            sys_exit_accept4: TracepointId::Readable,
        },
        lockdown: Lockdown::None,
        privilege: root(),
        unprivileged_bpf_disabled: Some(2),
        cookie_helper: Some(true),
        fentry: Probe::Works,
        kprobe: Probe::Works,
        tracepoint: Probe::Works,
        tp_btf: Probe::Works,
        refused: BTreeMap::new(),
    }
}

use KernelFunction::{
    Inet6Hash, InetAccept, InetCskAccept, InetCskListenStart, InetHash, SecuritySockGraft, TcpClose,
    TcpConnect,
};

pub(crate) fn debian_5_10() -> KernelFacts {
    let functions = [
        (TcpConnect, 1),
        (TcpClose, 2),
        (SecuritySockGraft, 2),
        (InetCskAccept, 4),
        (InetCskListenStart, 2),
        (InetHash, 1),
        (Inet6Hash, 1),
    ];
    KernelFacts { cookie_helper: Some(false), ..kernel("5.10.223", &functions, 1) }
}

pub(crate) fn debian_6_1() -> KernelFacts {
    let functions = [
        (TcpConnect, 1),
        (TcpClose, 2),
        (InetAccept, 3),
        (SecuritySockGraft, 2),
        (InetCskAccept, 4),
        (InetCskListenStart, 1),
        (InetHash, 1),
        (Inet6Hash, 1),
    ];
    kernel("6.1.176", &functions, 1)
}

pub(crate) fn debian_6_12() -> KernelFacts {
    let mut facts = debian_6_1();
    facts.release = "6.12.117".to_owned();
    facts.btf.functions.insert(InetCskAccept, 2);
    facts
}

pub(crate) fn debian_7_3() -> KernelFacts {
    let functions = [
        (TcpConnect, 1),
        (TcpClose, 2),
        (InetAccept, 3),
        (SecuritySockGraft, 2),
        (InetCskAccept, 2),
        (InetCskListenStart, 1),
        (InetHash, 1),
    ];
    kernel("7.3.4", &functions, 2)
}

/// A virtual machine's kernel without kprobes that refuses trampolines to root; nobody mounted tracefs.
pub(crate) fn micro_vm_6_18() -> KernelFacts {
    let mut facts = debian_7_3();
    facts.release = "6.18.44-fc".to_owned();
    facts.kprobes = KprobeFacts::default();
    facts.tracefs = Tracefs::NotMounted;
    facts.lockdown = Lockdown::Unknown;
    facts.fentry = Probe::Refused {
        errno: libc::EPERM,
        what: "load of fentry:tcp_close: Operation not permitted".to_owned(),
    };
    facts.kprobe = Probe::Refused { errno: libc::ENOENT, what: "attach of kprobe:tcp_close".to_owned() };
    facts
}

/// Not root, nothing granted, nothing tried.
pub(crate) fn unprivileged() -> KernelFacts {
    KernelFacts {
        privilege: Privilege { uid: 1000, capabilities: Capabilities::default(), ..root() },
        cookie_helper: None,
        fentry: Probe::NotTried,
        kprobe: Probe::NotTried,
        tracepoint: Probe::NotTried,
        tp_btf: Probe::NotTried,
        ..debian_6_12()
    }
}

pub(crate) fn no_btf() -> KernelFacts {
    let error = Some("cannot read /sys/kernel/btf/vmlinux: No such file or directory".to_owned());
    KernelFacts { btf: BtfFacts { error, ..BtfFacts::default() }, ..debian_6_12() }
}
