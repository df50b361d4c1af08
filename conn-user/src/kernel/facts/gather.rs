//! Reading the facts from `/proc` and `/sys`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use super::{
    BtfFacts, BtfTracepoint, Capabilities, KernelFacts, KernelFunction, KprobeFacts, Lockdown, Privilege,
    Probe, Symbol, Tracefs, TracepointId,
};
use crate::kernel::btf::{Btf, BtfError};
use crate::kernel::offsets::Offsets;

/// Inode of the initial user namespace (`PROC_USER_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

impl KernelFacts {
    /// Looks at the running kernel, whose BTF has been read already. Nothing is loaded: every [`Probe`] is [`Probe::NotTried`].
    pub fn gather(btf: &Result<Btf, BtfError>) -> Self {
        let executable = std::env::current_exe()
            .map_or_else(|_| "conn".to_owned(), |path| path.to_string_lossy().into_owned());
        Root(PathBuf::from("/")).gather(btf, executable)
    }
}

/// The directory in which `proc` and `sys` are.
struct Root(PathBuf);

impl Root {
    fn gather(&self, btf: &Result<Btf, BtfError>, executable: String) -> KernelFacts {
        KernelFacts {
            release: self.text("proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            machine: std::env::consts::ARCH.to_owned(),
            executable,
            btf: btf_facts(btf),
            kprobes: self.kprobes(),
            tracefs: self.tracefs(),
            lockdown: self.lockdown(),
            privilege: self.privilege(),
            unprivileged_bpf_disabled: self
                .text("proc/sys/kernel/unprivileged_bpf_disabled")
                .and_then(|text| text.trim().parse().ok()),
            cookie_helper: None,
            fentry: Probe::NotTried,
            kprobe: Probe::NotTried,
            tracepoint: Probe::NotTried,
            tp_btf: Probe::NotTried,
            refused: BTreeMap::new(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    fn kprobes(&self) -> KprobeFacts {
        let supported = self.path("sys/bus/event_source/devices/kprobe").exists();
        // The symbol table takes a while to read, and matters only here.
        let symbols = if supported { self.symbols().ok() } else { None };
        KprobeFacts { supported, symbols }
    }

    fn symbols(&self) -> io::Result<BTreeMap<KernelFunction, Symbol>> {
        let blacklisted = self.blacklist();
        let mut found = BTreeMap::new();
        // Each line is "address type name [module]"; addresses are zero without privilege, names are always there.
        for line in BufReader::new(File::open(self.path("proc/kallsyms"))?).split(b'\n') {
            let line = line?;
            let mut words = line.split(|&byte| byte == b' ' || byte == b'\t').skip(1);
            let (Some(kind), Some(name)) = (words.next(), words.next()) else { continue };
            if !matches!(kind, b"T" | b"t" | b"W" | b"w") {
                continue;
            }
            if let Some(function) = KernelFunction::ALL.into_iter().find(|f| f.name().as_bytes() == name) {
                let bad = blacklisted.contains(function.name());
                found.insert(function, if bad { Symbol::Blacklisted } else { Symbol::Present });
            }
        }
        Ok(found)
    }

    /// Empty where debugfs cannot be read: then the attach finds out.
    fn blacklist(&self) -> BTreeSet<String> {
        let text = self.text("sys/kernel/debug/kprobes/blacklist").unwrap_or_default();
        text.lines().filter_map(|line| Some(line.split_ascii_whitespace().nth(1)?.to_owned())).collect()
    }

    fn tracefs(&self) -> Tracefs {
        let mounts = self.text("proc/self/mounts").unwrap_or_default();
        let is_mounted = |kind: &str, at: &str| {
            mounts.lines().any(|line| {
                let mut words = line.split(' ').skip(1);
                words.next() == Some(at) && words.next() == Some(kind)
            })
        };
        // debugfs mounts tracefs inside itself when somebody looks there.
        let places = [
            ("/sys/kernel/tracing", is_mounted("tracefs", "/sys/kernel/tracing")),
            (
                "/sys/kernel/debug/tracing",
                is_mounted("tracefs", "/sys/kernel/debug/tracing")
                    || is_mounted("debugfs", "/sys/kernel/debug"),
            ),
        ];
        let mounted = places.into_iter().find(|&(path, mounted)| {
            mounted && !matches!(fs::metadata(self.events(path)), Err(error) if error.kind() == io::ErrorKind::NotFound)
        });
        if let Some((path, _)) = mounted {
            let id = |name| tracepoint_id(&self.events(path).join("syscalls").join(name).join("id"));
            return Tracefs::Mounted {
                path: PathBuf::from(path),
                sys_exit_accept: id("sys_exit_accept"),
                sys_exit_accept4: id("sys_exit_accept4"),
            };
        }
        let known = self.text("proc/filesystems").unwrap_or_default();
        if known.lines().any(|line| line.split_ascii_whitespace().last() == Some("tracefs")) {
            Tracefs::NotMounted
        } else {
            Tracefs::Unsupported
        }
    }

    fn events(&self, tracefs: &str) -> PathBuf {
        self.path(tracefs.trim_start_matches('/')).join("events")
    }

    fn lockdown(&self) -> Lockdown {
        let text = self.text("sys/kernel/security/lockdown").unwrap_or_default();
        match text.split_ascii_whitespace().find(|word| word.starts_with('[')) {
            Some("[none]") => Lockdown::None,
            Some("[integrity]") => Lockdown::Integrity,
            Some("[confidentiality]") => Lockdown::Confidentiality,
            _ => Lockdown::Unknown,
        }
    }

    fn privilege(&self) -> Privilege {
        let status = self.text("proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        // Real, effective, saved and file system uid.
        let uid = field("Uid").and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok());
        let capabilities = field("CapEff").and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        let namespace = fs::read_link(self.path("proc/self/ns/user")).ok();
        Privilege {
            uid: uid.unwrap_or(u32::MAX),
            capabilities: Capabilities(capabilities.unwrap_or(0)),
            initial_user_namespace: namespace.map(|target| target.as_os_str() == INITIAL_USER_NAMESPACE),
        }
    }
}

fn tracepoint_id(path: &Path) -> TracepointId {
    match fs::read(path) {
        Ok(_) => TracepointId::Readable,
        Err(error) if error.kind() == io::ErrorKind::NotFound => TracepointId::Absent,
        Err(error) => TracepointId::Refused { errno: error.raw_os_error().unwrap_or(0) },
    }
}

fn btf_facts(btf: &Result<Btf, BtfError>) -> BtfFacts {
    let btf = match btf {
        Ok(btf) => btf,
        Err(error) => {
            let present = !error.is_absent();
            return BtfFacts { present, error: Some(error.to_string()), ..BtfFacts::default() };
        }
    };
    let (missing, fatal) = match Offsets::resolve(btf) {
        Ok(offsets) => (offsets.missing, Vec::new()),
        Err(error) => (Vec::new(), error.missing),
    };
    let params = |function: KernelFunction| Some((function, btf.function(function.name())?.params));
    let arguments = |tracepoint: BtfTracepoint| Some((tracepoint, btf.tracepoint(tracepoint.name())?));
    BtfFacts {
        present: true,
        error: None,
        functions: KernelFunction::ALL.into_iter().filter_map(params).collect(),
        tracepoints: BtfTracepoint::ALL.into_iter().filter_map(arguments).collect(),
        faultable_syscalls: btf.function("trace_call_bpf_faultable").is_some(),
        missing,
        fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Capability;
    use super::*;

    /// A directory that looks like `/`, removed at the end.
    struct Fake(Root);

    impl Fake {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("conn-facts-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("inside the root")).expect("temporary directory");
                fs::write(path, text).expect("temporary file");
            }
            Self(Root(root))
        }

        fn facts(&self) -> KernelFacts {
            let absent = BtfError::Read { path: PathBuf::new(), error: io::ErrorKind::NotFound.into() };
            self.0.gather(&Err(absent), "/usr/bin/conn".to_owned())
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.0);
        }
    }

    #[test]
    fn a_full_machine() {
        let fake = Fake::new(
            "full",
            &[
                ("proc/sys/kernel/osrelease", "6.12.117+deb13-cloud-amd64\n"),
                ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
                ("proc/self/status", "Name:\tconn\nUid:\t1000\t0\t0\t0\nCapEff:\t000000c000200000\n"),
                ("proc/self/mounts", "tracefs /sys/kernel/tracing tracefs rw,nosuid 0 0\n"),
                ("sys/kernel/tracing/events/syscalls/sys_exit_accept/id", "10\n"),
                ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
                ("sys/bus/event_source/devices/kprobe/type", "6\n"),
                (
                    "proc/kallsyms",
                    "0000000000000000 T tcp_connect\n0000000000000000 T tcp_connect_init\n\
                     0000000000000000 D tcp_close\n0000000000000000 t inet_hash\n\
                     0000000000000000 T inet6_hash\t[ipv6]\n",
                ),
                ("sys/kernel/debug/kprobes/blacklist", "0x0-0x1\tinet_hash\n"),
            ],
        );
        let facts = fake.facts();
        assert_eq!(facts.release, "6.12.117+deb13-cloud-amd64");
        assert_eq!(facts.unprivileged_bpf_disabled, Some(2));
        assert_eq!(facts.lockdown, Lockdown::Integrity);
        assert_eq!(facts.privilege.uid, 0, "the effective one");
        let all = [Capability::Bpf, Capability::Perfmon, Capability::SysAdmin];
        assert_eq!(facts.privilege.capabilities, Capabilities::of(&all));
        let expected = Tracefs::Mounted {
            path: PathBuf::from("/sys/kernel/tracing"),
            sys_exit_accept: TracepointId::Readable,
            sys_exit_accept4: TracepointId::Absent,
        };
        assert_eq!(facts.tracefs, expected);
        assert!(facts.kprobes.supported);
        let symbols = BTreeMap::from([
            (KernelFunction::TcpConnect, Symbol::Present),
            (KernelFunction::InetHash, Symbol::Blacklisted),
            (KernelFunction::Inet6Hash, Symbol::Present),
        ]);
        assert_eq!(facts.kprobes.symbols, Some(symbols), "data is no function, a prefix no name");
        assert!(!facts.btf.present && facts.btf.error.is_some());
    }

    #[test]
    fn a_bare_machine() {
        let fake = Fake::new("bare", &[("proc/filesystems", "nodev\tsysfs\nnodev\ttracefs\n")]);
        let facts = fake.facts();
        assert_eq!(facts.tracefs, Tracefs::NotMounted);
        assert_eq!(facts.lockdown, Lockdown::Unknown);
        assert_eq!(facts.kprobes, KprobeFacts::default());
        assert_eq!(facts.privilege.capabilities, Capabilities::default());
        assert_ne!(facts.privilege.uid, 0, "not knowing is not being root");
        let fake = Fake::new("barer", &[("proc/filesystems", "nodev\tsysfs\n")]);
        assert_eq!(fake.facts().tracefs, Tracefs::Unsupported);
    }

    #[test]
    fn this_machine_and_back_from_json() {
        let facts = KernelFacts::gather(&Btf::from_sys_fs());
        assert!(!facts.release.is_empty());
        if facts.btf.present {
            assert_eq!(facts.btf.functions.get(&KernelFunction::TcpConnect), Some(&1));
            assert_eq!(facts.btf.tracepoints.len(), BtfTracepoint::ALL.len());
            assert!(facts.btf.fatal.is_empty(), "{:?}", facts.btf.fatal);
        }
        let json = serde_json::to_string(&facts).expect("plain data");
        assert_eq!(serde_json::from_str::<KernelFacts>(&json).expect("the same data"), facts);
        assert!(json.contains("\"tcp_connect\":1") || !facts.btf.present, "{json}");
    }
}
