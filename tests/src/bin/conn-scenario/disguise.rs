//! Processes that look like others: what an unprivileged user can do in namespaces of his own.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::conn::V4;
use crate::scenario::OPENER;
use crate::sys::{self, check};

/// Connects to a port for each `x` of its input, shows itself as another executable at an `f`, and executes a third one at an
/// `e`: `impostor PORT SHOWN NEXT`.
pub(crate) const IMPOSTOR: &str = "impostor";
/// Becomes an opener in user and mount namespaces of its own: `mounter PORT`; `mounter PORT FOLDER NAME`, by a copy of this
/// program on a file system of its own at that folder; `mounter PORT FOLDER NAME bind`, by this program itself, mounted there.
pub(crate) const MOUNTER: &str = "mounter";

/// See [`IMPOSTOR`].
pub(crate) fn impostor(args: &[String]) -> Result<()> {
    let [port, shown, next] = args else { bail!("{IMPOSTOR} PORT SHOWN NEXT") };
    let address = SocketAddr::new(V4, port.parse().context("port")?);
    // Not the standard library's: it would read ahead of what the next program is to have.
    let mut stdin = File::open("/proc/self/fd/0").context("standard input")?;
    let mut byte = [0];
    while stdin.read(&mut byte).context("wait")? != 0 {
        match byte[0] {
            b'f' => {
                show_as(Path::new(shown)).context("show itself as another program")?;
                println!("shown");
                io::stdout().flush().context("write")?;
            }
            b'e' => {
                return Err(Command::new(next).args([OPENER, port]).exec())
                    .context("execute the next program");
            }
            _ => {
                let fd = sys::socket(false, false, 0)?;
                sys::connect(&fd, address).context("connect")?;
            }
        }
    }
    Ok(())
}

/// See [`MOUNTER`].
pub(crate) fn mounter(args: &[String]) -> Result<()> {
    let port = args.first().context("no port")?;
    let own = fs::read("/proc/self/exe").context("read this program")?;
    let itself = std::env::current_exe().context("own path")?;
    own_namespaces(libc::CLONE_NEWNS)?;
    let program = match args {
        [_, folder, name, how @ ..] => {
            mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE).context("make the mounts private")?;
            let place = CString::new(folder.as_str()).context("folder")?;
            mount(c"none", &place, Some(c"tmpfs"), 0).with_context(|| format!("mount over {folder}"))?;
            let copy = Path::new(folder).join(name);
            if how.is_empty() {
                fs::write(&copy, own).context("copy this program")?;
                fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                    .context("chmod")?;
            } else {
                fs::write(&copy, "").context("make a file to mount over")?;
                let path = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).context("path");
                mount(&path(&itself)?, &path(&copy)?, None, libc::MS_BIND).context("mount this program")?;
            }
            copy
        }
        _ => itself,
    };
    Err(Command::new(&program).args([OPENER, port]).exec())
        .with_context(|| format!("execute {}", program.display()))
}

/// New user namespace in which this process has all capabilities, and others.
fn own_namespaces(others: libc::c_int) -> Result<()> {
    let meta = fs::metadata("/proc/self").context("own ids")?;
    // SAFETY: unshare passes no pointers; this process has one thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER | others) }).context("unshare")?;
    fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", meta.uid())).context("uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", meta.gid())).context("gid_map")
}

fn mount(source: &CStr, place: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: strings that outlive the call, or null where the kernel takes none.
    check(unsafe { libc::mount(source.as_ptr(), place.as_ptr(), kind, flags, std::ptr::null()) }).map(drop)
}

/// `struct prctl_mm_map` (include/uapi/linux/prctl.h).
#[repr(C)]
struct MmMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Lets `/proc/PID/exe` lead to another file and `/proc/PID/cmdline` show its name, as `prctl(PR_SET_MM_MAP)` allows whoever
/// has capabilities in a user namespace.
fn show_as(shown: &Path) -> Result<()> {
    own_namespaces(0)?;
    let file = File::open(shown).with_context(|| format!("open {}", shown.display()))?;
    let name = format!("{}\0--silent\0", shown.display()).into_bytes().leak();
    let stat = fs::read_to_string("/proc/self/stat").context("read the stat")?;
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .context("a name")?
        .1
        .split_ascii_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    // proc(5) counts from 1, and these begin behind the second.
    let field = |number: usize| fields.get(number - 3).copied().context("a short stat");
    // SAFETY: brk with an impossible address changes nothing and answers the present one.
    let brk = unsafe { libc::syscall(libc::SYS_brk, 0) }.cast_unsigned();
    let map = MmMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk,
        start_stack: field(28)?,
        arg_start: name.as_ptr() as u64,
        arg_end: name.as_ptr() as u64 + name.len() as u64,
        env_start: field(50)?,
        env_end: field(51)?,
        auxv: 0,
        auxv_size: 0,
        exe_fd: file.as_raw_fd().cast_unsigned(),
    };
    leave_executable()?;
    // SAFETY: the struct outlives the call, which reads it.
    let set =
        unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const map, size_of::<MmMap>(), 0) };
    check(set).context("PR_SET_MM_MAP")?;
    let link = fs::read_link("/proc/self/exe").context("own executable")?;
    ensure!(link == shown, "it shows {}", link.display());
    Ok(())
}

/// Puts anonymous copies in the place of this program's own mappings: the kernel lets no file go that is still mapped
/// (`replace_mm_exe_file`, kernel/fork.c).
fn leave_executable() -> Result<()> {
    let own = fs::read_link("/proc/self/exe").context("own executable")?;
    let own = own.to_str().context("own path")?;
    let mut mapped = Vec::new();
    for line in BufReader::new(File::open("/proc/self/maps").context("own mappings")?).lines() {
        let line = line.context("own mappings")?;
        let Some((range, rest)) = line.split_once(' ') else { continue };
        if !rest.ends_with(own) {
            continue;
        }
        let (start, end) = range.split_once('-').context("a range")?;
        let number = |text| usize::from_str_radix(text, 16).context("an address");
        let bits = [(b'r', libc::PROT_READ), (b'w', libc::PROT_WRITE), (b'x', libc::PROT_EXEC)];
        let set = bits.iter().zip(rest.bytes()).filter(|((letter, _), shown)| letter == shown);
        let protection = set.map(|((_, bit), _)| bit).sum::<i32>();
        mapped.push((number(start)?, number(end)?, protection));
    }
    for (start, end, protection) in mapped {
        // SAFETY: the copy has the same bytes and protection; nothing allocates or writes to statics between the two, and the
        // kernel puts it in the place of the original at once.
        unsafe { replace(start, end - start, protection) }?;
    }
    Ok(())
}

/// # Safety
/// The range is mapped, and its contents do not change meanwhile.
unsafe fn replace(start: usize, len: usize, protection: i32) -> io::Result<()> {
    let (anonymous, write) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping; the source is mapped by the contract, and readable or not copied.
    unsafe {
        let copy = libc::mmap(std::ptr::null_mut(), len, write, anonymous, -1, 0);
        if copy == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if protection & libc::PROT_READ != 0 {
            std::ptr::copy_nonoverlapping(start as *const u8, copy.cast(), len);
        }
        check(libc::mprotect(copy, len, protection))?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        if libc::mremap(copy, len, len, flags, start as *mut libc::c_void) == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
