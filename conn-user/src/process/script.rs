//! Finds the script among the arguments of an interpreter or shell.
//!
//! Every interpreter has options of its own; an option that takes a value must not have its value taken for the script. Where the code
//! comes from an argument (`-c`, `-e`), a module (`-m`) or standard input there is no script.

use std::borrow::Cow;

use super::applet;
use super::info::ProcessInfo;

/// Describes the options of an interpreter.
struct Options {
    /// The last part of the executable begins with this.
    program: &'static str,
    /// Letters of options after which there is no script: code, a module or standard input follows.
    code: &'static [u8],
    /// Letters of options that take a value: the rest of the argument, or the next one.
    value: &'static [u8],
    /// Letters of options whose value, if any, is the rest of the argument.
    attached: &'static [u8],
    /// Long options that take the next argument.
    long: &'static [&'static str],
    /// Long options after which there is no script.
    long_code: &'static [&'static str],
    /// The letter of an option whose value is the script.
    file: Option<u8>,
    /// The first argument that is no option is code.
    is_code: bool,
}

const fn options(
    program: &'static str,
    code: &'static [u8],
    value: &'static [u8],
    attached: &'static [u8],
) -> Options {
    Options { program, code, value, attached, long: &[], long_code: &[], file: None, is_code: false }
}

impl Options {
    fn is_shell(&self) -> bool {
        self.code == b"cs"
    }
}

/// Longer names come before their beginnings.
const INTERPRETERS: [Options; 19] = [
    options("python", b"cm", b"XWQ", b""),
    options("pypy", b"cm", b"XW", b""),
    options("perl", b"eE", b"I", b"CMmDFixl0V"),
    options("ruby", b"e", b"IrCE", b"FxTW0Kil"),
    Options {
        long: &[
            "--require",
            "--import",
            "--loader",
            "--experimental-loader",
            "--conditions",
            "--env-file",
            "--title",
        ],
        long_code: &["--eval", "--print", "--test"],
        ..options("node", b"ep", b"rC", b"")
    },
    Options { file: Some(b'f'), ..options("php", b"rBREF", b"dcStzg", b"") },
    options("luajit", b"e", b"lb", b"jO"),
    options("lua", b"e", b"l", b""),
    options("tclsh", b"", b"", b""),
    Options { file: Some(b'f'), ..options("expect", b"cb", b"", b"") },
    Options { file: Some(b'f'), is_code: true, ..options("gawk", b"e", b"vFli", b"") },
    Options { file: Some(b'f'), is_code: true, ..options("mawk", b"", b"vFW", b"") },
    Options { long: &["--rcfile", "--init-file"], ..options("bash", b"cs", b"oO", b"") },
    options("dash", b"cs", b"o", b""),
    options("ash", b"cs", b"o", b""),
    options("hush", b"cs", b"", b""),
    options("zsh", b"cs", b"o", b""),
    options("ksh", b"cs", b"oR", b""),
    options("sh", b"cs", b"o", b""),
];

/// Where an interpreter or shell takes its commands from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commands<'a> {
    /// A script, as it was given.
    Script(&'a [u8]),
    /// Code in an argument, or a module, of which nothing is known.
    Code(Option<&'a [u8]>),
    /// Standard input, or what is open.
    Input,
}

/// Returns the argument that is the script, as it was given.
fn argument(process: &ProcessInfo) -> Option<&[u8]> {
    match commands(process)? {
        Commands::Script(script) => Some(script),
        Commands::Code(_) | Commands::Input => None,
    }
}

/// Returns the code that an interpreter or shell is given in an argument. `None`: it is given none, or is no interpreter.
pub fn code(process: &ProcessInfo) -> Option<&[u8]> {
    match commands(process)? {
        Commands::Code(code) => code,
        Commands::Script(_) | Commands::Input => None,
    }
}

/// Returns whether it is an interpreter or shell that takes its commands from its arguments or a file: whoever is at its standard
/// input gives it none.
pub fn is_given_commands(process: &ProcessInfo) -> bool {
    matches!(commands(process), Some(Commands::Script(_) | Commands::Code(_)))
}

/// A script, unless the argument leads to what is open.
fn script(arg: Option<&[u8]>) -> Commands<'_> {
    arg.and_then(named).map_or(Commands::Input, Commands::Script)
}

/// `None`: it is no interpreter.
fn commands<'a>(process: &'a ProcessInfo) -> Option<Commands<'a>> {
    let exe = process.exe.as_deref()?;
    let own = exe.rsplit(|byte| *byte == b'/').next()?;
    let (applet, named_by) = applet::of(process).unwrap_or((own, 1));
    let name = process.identity.copy_of().map_or(applet, str::as_bytes);
    let own = INTERPRETERS.iter().find(|one| name.starts_with(one.program.as_bytes()))?;
    let first = |arg: Option<&'a [u8]>| if own.is_code { Commands::Code(arg) } else { script(arg) };
    let mut args = process.args.iter().skip(named_by).map(|arg| &**arg);
    while let Some(arg) = args.next() {
        if arg == b"--" {
            return Some(args.next().map_or(Commands::Input, |arg| first(Some(arg))));
        }
        if let Some(long) = arg.strip_prefix(b"--") {
            let is = |all: &[&str]| all.iter().any(|one| one.as_bytes()[2..] == *long);
            if is(own.long_code) {
                return Some(Commands::Code(args.next()));
            }
            if is(own.long) {
                args.next();
            }
            continue;
        }
        let (Some(b'-' | b'+'), Some(letters)) = (arg.first(), arg.get(1..)) else {
            return Some(first(Some(arg)));
        };
        // `-`: standard input.
        if letters.is_empty() {
            return Some(Commands::Input);
        }
        for (at, letter) in letters.iter().enumerate() {
            let rest = &letters[at + 1..];
            if own.file == Some(*letter) {
                return Some(script(if rest.is_empty() { args.next() } else { Some(rest) }));
            }
            if own.code.contains(letter) {
                return Some(match letter {
                    // Standard input.
                    b's' => Commands::Input,
                    b'm' => Commands::Code(None),
                    // What follows a shell's `-c` may be further options; the code is the first argument that is none.
                    _ if own.is_shell() => {
                        Commands::Code(args.find(|arg| !arg.starts_with(b"-") && !arg.starts_with(b"+")))
                    }
                    _ if rest.is_empty() => Commands::Code(args.next()),
                    _ => Commands::Code(Some(rest)),
                });
            }
            if own.value.contains(letter) && rest.is_empty() {
                args.next();
            }
            // Only digits belong to these: `perl -le CODE`.
            let takes_digits = matches!(letter, b'l' | b'0');
            let attaches = !takes_digits || rest.first().is_some_and(u8::is_ascii_digit);
            if own.value.contains(letter) || (own.attached.contains(letter) && attaches) {
                break;
            }
        }
    }
    Some(Commands::Input)
}

/// What leads to an open descriptor or a terminal is no script at a place. Other files in /dev are: /dev/shm is writable for all.
fn named(arg: &[u8]) -> Option<&[u8]> {
    let is_open = arg.strip_prefix(b"/dev/").is_some_and(|device| {
        [&b"std"[..], b"fd/", b"pts/", b"tty", b"null", b"console"].iter().any(|one| device.starts_with(one))
    });
    let is_descriptor = through_proc(arg).is_some_and(|(what, _)| what == b"fd");
    (!is_open && !is_descriptor && !arg.is_empty()).then_some(arg)
}

/// Splits a path that goes through the folder of a process in /proc: `/proc/self/cwd/s.py` is `cwd` and `s.py`.
fn through_proc(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = path.strip_prefix(b"/proc/")?;
    let mut part = || {
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after.strip_prefix(b"/").unwrap_or(after);
        part
    };
    let mut what = part();
    if what != b"thread-self" && what != b"self" && !what.iter().all(u8::is_ascii_digit) {
        return None;
    }
    what = part();
    while what == b"task" {
        part();
        what = part();
    }
    Some((what, rest))
}

/// Returns the path of the script that the process runs: absolute where its working directory is known, or else as it was
/// given. `None`: it runs none, or is no interpreter.
pub fn path(process: &ProcessInfo) -> Option<Cow<'_, [u8]>> {
    let mut arg = argument(process)?;
    // The root and working directory of this process, or of another one that has the same: nobody else's can be distinguished here.
    match through_proc(arg) {
        Some((b"root", rest)) => return Some(resolve(b"/", rest).into()),
        Some((b"cwd", rest)) => arg = rest,
        _ if arg.starts_with(b"/") && is_plain(arg) => return Some(arg.into()),
        _ if arg.starts_with(b"/") => return Some(resolve(b"/", arg).into()),
        _ => {}
    }
    let cwd = process.identity.state().and_then(|state| state.cwd.as_deref());
    Some(cwd.map_or(Cow::Borrowed(arg), |cwd| resolve(cwd, arg).into()))
}

/// Whether a path has no part that says nothing, or goes back.
fn is_plain(path: &[u8]) -> bool {
    path[1..].split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// Resolves a path by a directory, by the names alone: symbolic links are not followed.
fn resolve(folder: &[u8], path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = folder.strip_suffix(b"/").unwrap_or(folder).into();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => out.truncate(out.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            part => {
                out.push(b'/');
                out.extend_from_slice(part);
            }
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

/// Returns whether the path depends on the working directory, which is not known yet.
pub fn is_pending(process: &ProcessInfo) -> bool {
    let is_relative =
        |arg: &[u8]| !arg.starts_with(b"/") || through_proc(arg).is_some_and(|(what, _)| what == b"cwd");
    process.identity.state().is_none() && argument(process).is_some_and(is_relative)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::identity::ProcessState;
    use crate::units::{BootNs, Pid};

    fn process(exe: &str, args: &[&str]) -> ProcessInfo {
        ProcessInfo {
            exe: Some(exe.as_bytes().into()),
            args: args.iter().map(|arg| arg.as_bytes().into()).collect(),
            ..ProcessInfo::new(Pid(1), BootNs(1))
        }
    }

    #[test]
    fn commands_are_given_or_read() {
        for (exe, args, is_given) in [
            ("/usr/bin/bash", &["bash", "/usr/bin/check"][..], true),
            ("/usr/bin/bash", &["bash", "-lc", "df"], true),
            ("/usr/bin/bash", &["bash", "-c", "df", "-s"], true),
            ("/usr/bin/bash", &["bash", "-i"], false),
            ("/usr/bin/bash", &["bash"], false),
            ("/usr/bin/bash", &["bash", "-s", "/x"], false),
            ("/usr/bin/bash", &["bash", "/dev/stdin"], false),
            ("/usr/bin/bash", &["bash", "--"], false),
            ("/usr/bin/perl", &["perl", "-e", "print"], true),
            ("/usr/bin/perl", &["perl"], false),
            ("/usr/bin/python3.11", &["python3", "-m", "http.server"], true),
            ("/usr/bin/python3.11", &["python3", "-"], false),
            ("/usr/bin/gawk", &["gawk", "{ print }"], true),
            ("/usr/bin/node", &["node", "--eval", "x"], true),
            ("/usr/bin/df", &["df", "/"], false),
        ] {
            assert_eq!(is_given_commands(&process(exe, args)), is_given, "{args:?}");
        }
    }

    #[test]
    fn the_code_is_one_argument() {
        for (exe, args, code) in [
            ("/usr/bin/dash", &["sh", "-c", "id"][..], Some("id")),
            ("/usr/bin/dash", &["/x", "-c", "id", "/x"], Some("id")),
            ("/usr/bin/bash", &["bash", "-c", "-x", "id", "/x"], Some("id")),
            ("/usr/bin/bash", &["bash", "-lic", "id"], Some("id")),
            ("/usr/bin/bash", &["bash", "/x", "-c", "id"], None),
            ("/usr/bin/bash", &["bash", "-s", "-c", "id"], None),
            ("/usr/bin/perl", &["perl", "-wle", "print"], Some("print")),
            ("/usr/bin/perl", &["perl", "-eprint"], Some("print")),
            ("/usr/bin/python3.11", &["python3", "-m", "http.server"], None),
            ("/usr/bin/gawk", &["gawk", "{ print }"], Some("{ print }")),
            ("/usr/bin/node", &["node", "--eval", "x"], Some("x")),
            ("/usr/bin/df", &["df", "-c", "x"], None),
        ] {
            let process = process(exe, args);
            assert_eq!(super::code(&process), code.map(str::as_bytes), "{exe} {args:?}");
        }
    }

    #[test]
    fn options_are_not_the_script() {
        for (exe, args, script) in [
            ("/usr/bin/python3.11", &["python3", "-u", "/srv/a.py", "-c", "x"][..], Some("/srv/a.py")),
            ("/usr/bin/python3.11", &["/tmp/venv/bin/python", "-c", "code", "/tmp/x"], None),
            ("/usr/bin/python3.11", &["python3", "-Ic", "code"], None),
            ("/usr/bin/python3.11", &["python3", "-m", "http.server"], None),
            ("/usr/bin/python3.11", &["python3", "-X", "dev", "-Wignore", "/a.py"], Some("/a.py")),
            ("/usr/bin/python3.11", &["python3", "-W", "ignore", "/a.py"], Some("/a.py")),
            ("/usr/bin/python3.11", &["python3", "-"], None),
            ("/usr/bin/python3.11", &["python3"], None),
            ("/usr/bin/perl", &["perl", "-I", "/lib", "-w", "/a.pl"], Some("/a.pl")),
            ("/usr/bin/perl", &["perl", "-MSocket", "-e", "code", "/a"], None),
            ("/usr/bin/perl", &["perl", "-i.bak", "-p", "-e", "s/a/b/", "/a"], None),
            ("/usr/bin/node", &["node", "--require", "./x", "--inspect=1", "/a.js"], Some("/a.js")),
            ("/usr/bin/node", &["node", "--eval", "code", "/a.js"], None),
            ("/usr/bin/php8.2", &["php", "-f", "/a.php"], Some("/a.php")),
            ("/usr/bin/php8.2", &["php", "-S", "0.0.0.0:80", "/r.php"], Some("/r.php")),
            ("/usr/bin/php8.2", &["php", "-r", "code", "/a.php"], None),
            ("/usr/bin/lua5.4", &["lua", "-l", "socket", "/a.lua"], Some("/a.lua")),
            ("/usr/bin/luajit", &["luajit", "-e", "code", "/a.lua"], None),
            ("/usr/bin/gawk", &["gawk", "-f", "/a.awk", "/data"], Some("/a.awk")),
            ("/usr/bin/gawk", &["gawk", "-v", "a=b", "/x/ { print }", "/data"], None),
            ("/usr/bin/dash", &["sh", "-c", "id", "/x"], None),
            ("/usr/bin/dash", &["sh", "-i"], None),
            ("/usr/bin/dash", &["/bin/sh", "-e", "/etc/x.sh"], Some("/etc/x.sh")),
            ("/usr/bin/bash", &["bash", "-o", "errexit", "--rcfile", "/rc", "/x.sh"], Some("/x.sh")),
            ("/usr/bin/bash", &["bash", "--", "/x.sh"], Some("/x.sh")),
            ("/usr/bin/bash", &["bash", "+x", "/x.sh"], Some("/x.sh")),
            ("/usr/bin/bash", &["bash", "/dev/stdin"], None),
            ("/usr/bin/bash", &["bash", "/proc/self/fd/0"], None),
            ("/usr/bin/bash", &["bash", "/proc/7/task/8/fd/9"], None),
            ("/usr/bin/python3.11", &["python3", "/dev/shm/x.py"], Some("/dev/shm/x.py")),
            ("/usr/bin/python3.11", &["python3", "//tmp/x.py"], Some("/tmp/x.py")),
            ("/usr/bin/python3.11", &["python3", "/usr/lib/../../tmp/./x.py"], Some("/tmp/x.py")),
            ("/usr/bin/python3.11", &["python3", "/../tmp/x.py"], Some("/tmp/x.py")),
            ("/usr/bin/python3.11", &["python3", "/proc/self/root/tmp/x.py"], Some("/tmp/x.py")),
            ("/usr/bin/python3.11", &["python3", "/proc/1/root/tmp/x.py"], Some("/tmp/x.py")),
            ("/usr/bin/curl", &["curl", "/x"], None),
            ("/usr/bin/busybox", &["busybox", "sh", "-i"], None),
            ("/usr/bin/busybox", &["busybox", "sh", "/x.sh"], Some("/x.sh")),
            ("/usr/bin/busybox", &["sh", "/x.sh"], Some("/x.sh")),
            ("/usr/bin/busybox", &["busybox", "wget", "/x"], None),
            (
                "/lib64/ld-linux-x86-64.so.2",
                &["ld.so", "--argv0", "x", "/usr/bin/python3", "/a.py"],
                Some("/a.py"),
            ),
            ("/lib64/ld-linux-x86-64.so.2", &["ld.so", "/bin/sh", "-i"], None),
        ] {
            let process = process(exe, args);
            assert_eq!(path(&process).as_deref(), script.map(str::as_bytes), "{exe} {args:?}");
        }
    }

    #[test]
    fn a_relative_path_waits_for_the_working_directory() {
        for (arg, path) in [
            ("s.py", "/tmp/a/s.py"),
            ("./s.py", "/tmp/a/s.py"),
            ("../b/s.py", "/tmp/b/s.py"),
            ("x/../.././/b/s.py", "/tmp/b/s.py"),
            ("../../../s.py", "/s.py"),
            ("/proc/self/cwd/s.py", "/tmp/a/s.py"),
        ] {
            let process = process("/usr/bin/python3", &["python3", arg]);
            assert!(is_pending(&process));
            let cwd = Some(b"/tmp/a"[..].into());
            process.identity.set_state(ProcessState { cwd, ..ProcessState::default() });
            assert!(!is_pending(&process));
            assert_eq!(super::path(&process).as_deref(), Some(path.as_bytes()));
        }
    }
}
