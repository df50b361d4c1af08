//! Which command a program of many commands runs: busybox and toybox decide that by their arguments, and the dynamic loader runs the
//! program that it is given.

use super::info::ProcessInfo;

/// Beginnings of the names of such programs' files.
const PROGRAMS: [&[u8]; 2] = [b"busybox", b"toybox"];

/// Beginnings of the names of dynamic loaders: of glibc, and of musl.
const LOADERS: [&[u8]; 3] = [b"ld-linux", b"ld64.so", b"ld-musl-"];
/// Their options that take the next argument.
const LOADER_VALUES: [&[u8]; 7] = [
    b"--library-path",
    b"--preload",
    b"--argv0",
    b"--audit",
    b"--inhibit-rpath",
    b"--glibc-hwcaps-prepend",
    b"--glibc-hwcaps-mask",
];

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn is_of_many(name: &[u8]) -> bool {
    PROGRAMS.iter().any(|program| name.starts_with(program))
}

/// Returns the program that a loader was given, and how many arguments that takes.
fn loaded(process: &ProcessInfo) -> Option<(&[u8], usize)> {
    let mut args = process.args.iter().enumerate().skip(1);
    while let Some((at, arg)) = args.next() {
        if !arg.starts_with(b"--") {
            return Some((base_name(arg), at + 1)).filter(|(name, _)| !name.is_empty());
        }
        if LOADER_VALUES.contains(&&**arg) {
            args.next();
        }
    }
    None
}

/// Returns the name of the command, and how many of the arguments name it: `busybox nc` takes two, a link called `nc` one. None: it is
/// another program, or busybox or the loader itself.
pub fn of(process: &ProcessInfo) -> Option<(&[u8], usize)> {
    let exe = base_name(process.exe.as_deref()?);
    if LOADERS.iter().any(|loader| exe.starts_with(loader)) {
        return loaded(process);
    }
    if !is_of_many(exe) {
        return None;
    }
    // A login shell has a dash before its name.
    let first = base_name(process.args.first()?);
    let first = first.strip_prefix(b"-").unwrap_or(first);
    if !is_of_many(first) {
        return (!first.is_empty()).then_some((first, 1));
    }
    let second: &[u8] = process.args.get(1)?;
    (!second.is_empty() && !second.starts_with(b"-")).then_some((second, 2))
}

/// Returns the name of the command.
pub fn name(process: &ProcessInfo) -> Option<&[u8]> {
    of(process).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BootNs, Pid};

    #[test]
    fn the_arguments_say_which_command_runs() {
        for (exe, args, applet) in [
            ("/usr/bin/busybox", &["busybox", "nc", "203.0.113.9", "443"][..], Some("nc")),
            ("/bin/busybox", &["/bin/sh", "-i"], Some("sh")),
            ("/bin/busybox", &["-sh"], Some("sh")),
            ("/opt/busybox-static", &["/opt/busybox-static", "telnet"], Some("telnet")),
            ("/usr/bin/toybox", &["nc"], Some("nc")),
            ("/usr/bin/busybox", &["busybox"], None),
            ("/usr/bin/busybox", &["busybox", "--list"], None),
            ("/usr/bin/busybox", &[], None),
            ("/usr/bin/curl", &["nc"], None),
            ("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", &["ld.so", "/bin/sh", "-i"], Some("sh")),
            (
                "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
                &["x", "--preload", "/x.so", "--list", "--argv0=y", "./bash"],
                Some("bash"),
            ),
            ("/lib/ld-musl-x86_64.so.1", &["/lib/ld-musl-x86_64.so.1"], None),
            ("/lib/ld-musl-x86_64.so.1", &["ldd", "--argv0"], None),
        ] {
            let process = ProcessInfo {
                exe: Some(exe.as_bytes().into()),
                args: args.iter().map(|arg| arg.as_bytes().into()).collect(),
                ..ProcessInfo::new(Pid(1), BootNs(1))
            };
            assert_eq!(name(&process), applet.map(str::as_bytes), "{exe} {args:?}");
        }
    }
}
