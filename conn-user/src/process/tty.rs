//! Names of terminals by their device numbers.

use std::fs;

use super::identity::Tty;

/// The controlling terminal in `/proc/PID/stat`.
pub(super) fn name(device: u32) -> Tty {
    if device == 0 {
        return Tty::None;
    }
    let (major, minor) = (libc::major(device.into()), libc::minor(device.into()));
    // Pseudo-terminals are not in sysfs (`UNIX98_PTY_SLAVE_MAJOR` in include/uapi/linux/major.h).
    if (136..144).contains(&major) {
        return Tty::Named(format!("pts/{}", (major - 136) * 256 + minor).into());
    }
    let target = fs::read_link(format!("/sys/dev/char/{major}:{minor}")).ok();
    let name = target.as_ref().and_then(|path| path.file_name()?.to_str());
    Tty::Named(name.map_or_else(|| format!("{major}:{minor}").into(), Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let named = |text: &str| Tty::Named(text.into());
        assert_eq!(name(0), Tty::None);
        assert_eq!(name(0x8800), named("pts/0"));
        assert_eq!(name(0x8803), named("pts/3"));
        // Minor numbers of more than eight bits lie in the upper half (`new_encode_dev`).
        assert_eq!(name(1 << 20 | 0x8801), named("pts/257"));
        assert_eq!(name(0xfa4d), named("250:77"), "no such device");
    }
}
