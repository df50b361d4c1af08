//! Names of things that outlive a process that is killed, such as network namespaces: each has the process that made it, so that the
//! next one can know what is left from what is in use.

use std::fs;

/// Returns a name of this process: the prefix, its id and its start.
pub fn own(prefix: &str) -> Option<String> {
    let me = std::process::id();
    Some(format!("{prefix}{me}-{}", start_of(me)?))
}

/// Whether a name that begins with what [`own`] returned is of a process that is gone.
pub fn is_left(name: &str, prefix: &str) -> bool {
    owner(name, prefix).is_some_and(|(pid, start)| start_of(pid) != Some(start))
}

fn owner(name: &str, prefix: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(prefix)?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The start of a process in ticks since boot; `None`: there is none of this id.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may have anything in it, ends with the last parenthesis; the start is the 22nd field (`do_task_stat`,
    // fs/proc/array.c).
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs beside each other keep what is theirs, and what a killed one has left is known.
    #[test]
    fn a_name_has_its_process() {
        let own = own("conn-x-").expect("/proc");
        let (pid, start) = owner(&own, "conn-x-").expect("a process");
        assert_eq!(pid, std::process::id());
        for (name, left) in [
            (own.clone(), false),
            (format!("{own}-host"), false),
            (format!("conn-x-{pid}-{}-host", start + 1), true),
            (format!("conn-x-{}-{start}-host", u32::MAX), true),
            // Of others, or of an older conn-attack: nothing says whose.
            ("conn-x-host".to_owned(), false),
            (format!("conn-x-{pid}-host"), false),
            (format!("y-{pid}-{start}"), false),
        ] {
            assert_eq!(is_left(&name, "conn-x-"), left, "{name}");
        }
    }
}
