//! The agent as a service: its configuration, rules, outputs and signals.

use std::ffi::CString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Ports of intrusions begin here.
const PORTS: u16 = 21_000;
/// Room of the file system of the alerts.
const SMALL: &str = "size=16m";
/// How long a start and an end may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running agent with its configuration.
pub(crate) struct Service {
    folder: PathBuf,
    child: Child,
}

impl Service {
    /// Starts it and waits until it traces.
    pub(crate) fn start(conn: &Path) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("conn-soak-{}", std::process::id()));
        for name in ["rules.d", "small"] {
            fs::create_dir_all(folder.join(name)).with_context(|| format!("make {name}"))?;
        }
        mount_tmpfs(&folder.join("small"))?;
        let pipe = CString::new(folder.join("events").as_os_str().as_bytes())?;
        // SAFETY: a path that ends with a zero byte.
        let made = unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) };
        ensure!(made == 0, "mkfifo: {}", std::io::Error::last_os_error());
        let defaults =
            Command::new(conn).args(["check", "--defaults"]).output().context("the default rules")?;
        ensure!(defaults.status.success(), "conn check --defaults: {}", defaults.status);
        fs::write(folder.join("rules.d/10-default.toml"), defaults.stdout)?;
        let intrusion = format!(
            "[[rule]]\nid = 'soak.intrusion'\nkind = 'server'\nfind = 'listener'\nmatch = 'lport:{PORTS}-{} laddr:loopback'\nthrottle = '0s'\n",
            PORTS + 9_999
        );
        fs::write(folder.join("rules.d/50-soak.toml"), intrusion)?;
        let config = "rules = ['rules.d']\nstate = 'state'\n[alerts]\nfile = 'small/alerts'\nsyslog = 'syslog'\n[events]\nfile = 'events'\n";
        fs::write(folder.join("agent.toml"), config)?;
        let child = Command::new(conn)
            .args(["agent", "--config", "agent.toml"])
            .current_dir(&folder)
            .env("CONN_SOCKET", "")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("stderr"))?)
            .spawn()
            .context("start the agent")?;
        let mut service = Self { folder, child };
        service.await_ready()?;
        Ok(service)
    }

    fn await_ready(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.stderr()?.contains("tracing with backend") {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended with {status}: {}", self.stderr()?);
            }
            ensure!(Instant::now() < end, "the agent does not start: {}", self.stderr()?);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The socket that it takes for the local syslog.
    pub(crate) fn syslog(&self) -> Result<UnixDatagram> {
        UnixDatagram::bind(self.folder.join("syslog")).context("a socket")
    }

    /// The pipe of the events.
    pub(crate) fn events(&self) -> PathBuf {
        self.folder.join("events")
    }

    /// The small file system of the alerts.
    pub(crate) fn small(&self) -> PathBuf {
        self.folder.join("small")
    }

    /// Changes one rule, and has the rules read again.
    pub(crate) fn reload(&self, number: u32) -> Result<()> {
        let rule = format!(
            "[[rule]]\nid = 'soak.changing'\nkind = 'path'\nfind = 'forbidden'\nmatch = 'dport:{}'\n",
            40_000 + number % 10_000
        );
        fs::write(self.folder.join("rules.d/60-changing.toml"), rule)?;
        self.signal(libc::SIGHUP)
    }

    /// Resident memory, in MB.
    pub(crate) fn memory(&self) -> Result<f64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("the agent ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        Ok(kib / 1_024.0)
    }

    /// Ends it; its totals.
    pub(crate) fn end(mut self) -> Result<String> {
        self.signal(libc::SIGTERM)?;
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < end, "the agent does not end");
            thread::sleep(Duration::from_millis(20));
        };
        let said = self.stderr()?;
        ensure!(status.success(), "the agent ended with {status}: {said}");
        let (_, totals) = said.rsplit_once("\nevents: ").context("no totals")?;
        Ok(format!("events: {totals}"))
    }

    fn stderr(&self) -> Result<String> {
        let bytes = fs::read(self.folder.join("stderr"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: our own child, which was not waited for.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "kill: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

/// The port of a minute's intrusion.
pub(crate) fn port(minute: u32) -> u16 {
    PORTS + u16::try_from(minute % 10_000).unwrap_or_default()
}

/// Listens where nobody should, as long as what is returned is kept.
pub(crate) fn plant(minute: u32) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port(minute))).context("plant an intrusion")
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(place) = CString::new(self.small().as_os_str().as_bytes()) {
            // SAFETY: a path that ends with a zero byte.
            unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn mount_tmpfs(place: &Path) -> Result<()> {
    let place = CString::new(place.as_os_str().as_bytes())?;
    let options = CString::new(SMALL)?;
    // SAFETY: strings that end with a zero byte.
    let mounted = unsafe {
        libc::mount(c"none".as_ptr(), place.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast())
    };
    ensure!(mounted == 0, "mount a tmpfs: {}", std::io::Error::last_os_error());
    Ok(())
}
