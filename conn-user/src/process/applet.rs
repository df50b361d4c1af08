//! Which command a program of many commands runs: busybox and toybox decide that by their arguments.

use super::info::ProcessInfo;

/// Beginnings of the names of such programs' files.
const PROGRAMS: [&[u8]; 2] = [b"busybox", b"toybox"];

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn is_of_many(name: &[u8]) -> bool {
    PROGRAMS.iter().any(|program| name.starts_with(program))
}

/// Returns the name of the command, and how many of the arguments name it: `busybox nc` takes two, a link called `nc` one. None: it is
/// another program, or busybox itself.
pub fn of(process: &ProcessInfo) -> Option<(&[u8], usize)> {
    if !is_of_many(base_name(process.exe.as_deref()?)) {
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
    fn the_arguments_say_which_command_busybox_is() {
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
