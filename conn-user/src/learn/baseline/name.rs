//! Names that outlive an update or a restart: versions, and ids of runs, become globs.

/// Digits in a row of a hexadecimal id.
const HASH: usize = 12;

/// The path of an executable as an entry has it. A part of the path that is a version or the id of a process becomes `*`, a version
/// in a part `[0-9]*`. The result fits the path.
pub(super) fn of_exe(path: &[u8]) -> String {
    let path = escaped(path);
    let mut under = "";
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('/') {
        let is_proc_id = under == "proc" && parts.len() == 2 && is_number(part);
        let is_nix = under == "store" && part.len() > 33 && part.as_bytes()[32] == b'-';
        parts.push(if is_proc_id || is_version(part) {
            "*".to_owned()
        } else if is_nix {
            format!("*-{}", versioned(&part[33..]))
        } else {
            versioned(part)
        });
        under = part;
    }
    parts.join("/")
}

/// The name of a unit as an entry has it: an instance that is a number, an address or the like, and ids of transient
/// units, become `*`.
pub(super) fn of_unit(name: &[u8]) -> String {
    let name = escaped(name);
    let Some((stem, kind)) = name.rsplit_once('.') else { return name };
    if let Some((template, instance)) = stem.split_once('@')
        && instance.starts_with(|c: char| c.is_ascii_digit())
    {
        return format!("{template}@*.{kind}");
    }
    if let Some(id) = stem.strip_prefix("run-")
        && id.starts_with(['r', 'u', 'p'])
        && id[1..].bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    {
        return format!("run-*.{kind}");
    }
    match stem.rsplit_once('-') {
        Some((before, id)) if id.len() >= HASH && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("{before}-*.{kind}")
        }
        _ => name,
    }
}

/// The name as a glob that fits it and, where that can be said, nothing else: what has a meaning in globs and what is not text are
/// any byte.
fn escaped(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            out.push(if matches!(c, '*' | '?' | '[') { '?' } else { c });
        }
        out.extend(chunk.invalid().iter().map(|_| '?'));
    }
    out
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// `15`, `1.2.3`, `v1.2`, `2024-05-01`, `20.11.1-r2`.
fn is_version(part: &str) -> bool {
    let digits = part.strip_prefix('v').unwrap_or(part);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'r'))
}

/// `python3.11` is `python[0-9]*`, `app-1.2.3` is `app-[0-9]*`; `python3`, `lib64` and `x86_64-linux-gnu` are what they are.
fn versioned(part: &str) -> String {
    let bytes = part.as_bytes();
    let (mut out, mut at) = (String::new(), 0);
    while let Some(c) = part[at..].chars().next() {
        if !c.is_ascii_digit() {
            out.push(c);
            at += c.len_utf8();
            continue;
        }
        let is_in = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
        let run = bytes[at..].iter().take_while(|byte| is_in(byte)).count();
        // A dot behind it is not its own: `ld-2.36.so`.
        let digits = part[at..at + run].trim_end_matches('.');
        let end = at + digits.len();
        let after_dash = at > 0 && matches!(bytes[at - 1], b'-');
        let ends = bytes.get(end).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
        if at > 0 && (digits.contains('.') || (after_dash && ends)) {
            out.push_str("[0-9]*");
        } else {
            out.push_str(digits);
        }
        at = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::glob::Glob;

    #[test]
    fn versions_and_ids_become_globs() {
        for (path, expected) in [
            ("/usr/lib/postgresql/15/bin/postgres", "/usr/lib/postgresql/*/bin/postgres"),
            ("/usr/bin/python3.11", "/usr/bin/python[0-9]*"),
            ("/usr/bin/python3", "/usr/bin/python3"),
            ("/opt/app-1.2.3/bin/x", "/opt/app-[0-9]*/bin/x"),
            (
                "/usr/lib/jvm/java-17-openjdk-amd64/bin/java",
                "/usr/lib/jvm/java-[0-9]*-openjdk-amd64/bin/java",
            ),
            ("/snap/lxd/28373/bin/lxd", "/snap/lxd/*/bin/lxd"),
            ("/proc/4711/exe", "/proc/*/exe"),
            ("/usr/lib/x86_64-linux-gnu/ld-2.36.so", "/usr/lib/x86_64-linux-gnu/ld-[0-9]*.so"),
            ("/usr/lib64/md5sum", "/usr/lib64/md5sum"),
            (
                "/nix/store/0c2kv2zjzxgpzfjhlnmcqh2r4gqrzq5c-nginx-1.24.0/bin/nginx",
                "/nix/store/*-nginx-[0-9]*/bin/nginx",
            ),
            ("/usr/sbin/nginx", "/usr/sbin/nginx"),
            ("/tmp/a*b[c]?", "/tmp/a?b?c]?"),
            ("nginx", "nginx"),
        ] {
            assert_eq!(of_exe(path.as_bytes()), expected, "{path}");
        }
        for (unit, expected) in [
            ("nginx.service", "nginx.service"),
            ("user@1000.service", "user@*.service"),
            ("postgresql@15-main.service", "postgresql@*.service"),
            ("openvpn@office.service", "openvpn@office.service"),
            ("run-r1a2b3c4d.service", "run-*.service"),
            ("run-u12.service", "run-*.service"),
            ("run-parts.service", "run-parts.service"),
            ("build-0123456789abcdef.service", "build-*.service"),
            ("ssh.socket", "ssh.socket"),
        ] {
            assert_eq!(of_unit(unit.as_bytes()), expected, "{unit}");
        }
    }

    proptest! {
        #[test]
        fn a_name_fits_what_it_was_made_of(path in "(/[a-z0-9.*?\\[\\]é@_+-]{0,12}){0,5}", raw in any::<Vec<u8>>()) {
            prop_assert!(Glob::new(&of_exe(path.as_bytes())).matches(path.as_bytes()), "{}", of_exe(path.as_bytes()));
            prop_assert!(Glob::new(&of_unit(path.as_bytes())).matches(path.as_bytes()));
            prop_assert!(Glob::new(&of_exe(&raw)).matches(&raw));
            prop_assert!(Glob::new(&of_unit(&raw)).matches(&raw));
        }

        #[test]
        fn a_unit_fits_what_it_was_made_of(name in "(run-[rup])?[a-f0-9@-]{0,30}\\.(service|socket)") {
            prop_assert!(Glob::new(&of_unit(name.as_bytes())).matches(name.as_bytes()));
        }
    }
}
