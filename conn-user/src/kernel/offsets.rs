//! Where the running kernel keeps the members that the programs read.

use std::fmt;

use conn_common::config::{Need, OFFSET_NONE, OFFSETS, ONE_BIT, OffsetSpec};
use serde::{Deserialize, Serialize};

use super::btf::{Btf, Member};

/// Groups of offsets of which a kernel has exactly one, under different names. Each of them alone is optional.
const EITHER: &[(&str, &str)] = &[
    // `struct file`: `f_count` until 6.12, `f_ref` (`file_ref_t`) since.
    ("OFF_FILE_COUNT", "OFF_FILE_REF"),
    // `inode.i_rwsem`: with PREEMPT_RT another lock.
    ("OFF_INODE_LOCK_OWNER", "OFF_INODE_RT_LOCK_OWNER"),
];

/// Values for the read-only globals of the BPF object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// Name of each global of [`OFFSETS`] and the offset in bytes (of a single bit: in bits), or [`OFFSET_NONE`].
    pub values: Vec<(&'static str, u32)>,
    /// Members that this kernel does not have and that the programs can do without.
    pub missing: Vec<MissingMember>,
}

/// A member that cannot be read on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingMember {
    /// Name of the struct.
    pub container: String,
    /// Members from the struct on, joined by dots.
    pub path: String,
    /// What the BTF says instead.
    pub found: String,
    /// What is lost without it.
    pub loses: String,
}

impl fmt::Display for MissingMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "struct {}, member {}: {}; {}", self.container, self.path, self.found, self.loses)
    }
}

/// The kernel lacks members without which nothing works.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this kernel's structs are not what conn reads: {}. \
     conn knows Linux 5.10 to 7.3; report this line together with the output of `conn doctor --json`",
    .missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; and ")
)]
pub struct OffsetError {
    /// Every member that is missing or of another size.
    pub missing: Vec<MissingMember>,
}

impl Offsets {
    /// Finds every member of [`OFFSETS`].
    ///
    /// # Errors
    /// A required member is missing, is a bitfield, or has another size than the programs read; or of a member with two
    /// names neither exists.
    pub fn resolve(btf: &Btf) -> Result<Self, OffsetError> {
        Self::resolve_list(btf, OFFSETS, EITHER)
    }

    fn resolve_list(btf: &Btf, specs: &[OffsetSpec], either: &[(&str, &str)]) -> Result<Self, OffsetError> {
        let mut values = Vec::with_capacity(specs.len());
        let mut missing = Vec::new();
        let mut fatal = Vec::new();
        for spec in specs {
            match lookup(btf, spec) {
                Ok(offset) => values.push((spec.global, offset)),
                Err(found) => {
                    values.push((spec.global, OFFSET_NONE));
                    let entry = |loses: &str| MissingMember {
                        container: spec.container.to_owned(),
                        path: spec.path.to_owned(),
                        found: found.clone(),
                        loses: loses.to_owned(),
                    };
                    match (spec.need, either.iter().any(|&(a, b)| a == spec.global || b == spec.global)) {
                        (Need::Required, _) => fatal.push(entry("nothing works without it")),
                        (Need::Optional, true) => {}
                        (Need::Optional, false) => missing.push(entry(loss(spec.global))),
                    }
                }
            }
        }
        for &(one, other) in either {
            fatal.extend(neither(specs, &values, one, other));
        }
        if fatal.is_empty() { Ok(Self { values, missing }) } else { Err(OffsetError { missing: fatal }) }
    }

    /// The offset behind the global of this name; none if the kernel does not have it.
    pub fn get(&self, global: &str) -> Option<u32> {
        let &(_, offset) = self.values.iter().find(|&&(name, _)| name == global)?;
        (offset != OFFSET_NONE).then_some(offset)
    }
}

fn lookup(btf: &Btf, spec: &OffsetSpec) -> Result<u32, String> {
    let member = btf.member(spec.container, spec.path).map_err(|error| error.to_string())?;
    match member {
        Member { offset, bits: Some(bits), .. } if spec.size == ONE_BIT && bits.width == 1 => offset
            .checked_mul(8)
            .and_then(|bit| bit.checked_add(u32::from(bits.first)))
            .ok_or_else(|| "its offset is out of range".to_owned()),
        _ if spec.size == ONE_BIT => Err("it is no bitfield of one bit".to_owned()),
        // One load of a bitfield's byte would also see its neighbours.
        Member { bits: Some(bits), .. } if bits.first != 0 || u32::from(bits.width) != member.size * 8 => {
            Err(format!("it is a bitfield of {} bits, not {} bytes", bits.width, spec.size))
        }
        Member { size, .. } if spec.size != 0 && size != spec.size => {
            Err(format!("it has {size} bytes, not {}", spec.size))
        }
        Member { offset: OFFSET_NONE, .. } => Err("its offset is out of range".to_owned()),
        Member { offset, .. } => Ok(offset),
    }
}

fn neither(
    specs: &[OffsetSpec],
    values: &[(&'static str, u32)],
    one: &str,
    other: &str,
) -> Option<MissingMember> {
    let has = |global| values.iter().any(|&(name, offset)| name == global && offset != OFFSET_NONE);
    let spec = |global| specs.iter().find(|spec| spec.global == global);
    let (first, second) = (spec(one)?, spec(other)?);
    (!has(one) && !has(other)).then(|| MissingMember {
        container: first.container.to_owned(),
        path: format!("{} or {}", first.path, second.path),
        found: "it has neither".to_owned(),
        loses: "nothing works without it".to_owned(),
    })
}

/// What a user loses without an optional member.
fn loss(global: &str) -> &'static str {
    match global {
        "OFF_SKC_V6_DADDR" | "OFF_SKC_V6_RCV_SADDR" => "IPv6 addresses are not shown",
        "OFF_SKC_IPV6ONLY" => "listeners for IPv6 only look like those for both families",
        "OFF_SKC_NET" | "OFF_NET_INUM" => "the network namespace is not shown",
        "OFF_SK_LINGERTIME" => {
            "a close that resets because of SO_LINGER 0 is not distinguished from a normal one"
        }
        "OFF_TCP_IS_MPTCP" => "subflows of MPTCP connections are shown as connections of their own",
        "OFF_MPTCP_BYTES_SENT" | "OFF_MPTCP_BYTES_RETRANS" | "OFF_MPTCP_BYTES_RECEIVED" => {
            "the bytes of MPTCP connections are not shown"
        }
        "OFF_SK_KERN_SOCK" => "sockets of the kernel itself are not marked",
        "OFF_TASK_CGROUPS" | "OFF_CSS_SET_DFL_CGRP" | "OFF_CGROUP_KN" | "OFF_KERNFS_ID" => {
            "the cgroup is asked for in a slower way"
        }
        "OFF_TASK_LOGINUID" => "the login uid is not shown",
        "OFF_TASK_TI_FLAGS" | "OFF_TASK_TI_STATUS" | "OFF_REGS_BX" | "OFF_REGS_ORIG_AX" => {
            "the backend tracepoint attributes the accepts of 32-bit programs to the listener's owner"
        }
        "OFF_TASK_SELF_EXEC_ID" => {
            "after a loss an executed program may go unnoticed until its process executes another"
        }
        "OFF_TASK_NSPROXY" | "OFF_NSPROXY_MNT_NS" | "OFF_MNT_NS_INUM" | "OFF_MOUNT_MNT_NS" => {
            "mount namespaces come from /proc alone"
        }
        "OFF_MOUNT_MNT" | "OFF_MOUNT_PARENT" | "OFF_MOUNT_MOUNTPOINT" | "OFF_VFSMOUNT_ROOT" => {
            "the path of an executable ends at its mount point"
        }
        _ => "one field is not shown",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::kernel::btf::{SYS_FS_PATH, build::Builder};

    const fn spec(global: &'static str, path: &'static str, size: u32, need: Need) -> OffsetSpec {
        OffsetSpec { global, container: "s", path, size, need }
    }

    fn btf() -> Btf {
        let mut b = Builder::new();
        let int = b.int("int", 4);
        b.structure("s", 16, &[("a", int, 32, 0), ("flag", int, 64, 1), ("whole", int, 96, 32)]);
        Btf::parse(b.finish()).expect("valid")
    }

    #[test]
    fn required_members_are_found_or_named() {
        let list = [spec("A", "a", 4, Need::Required), spec("ANY", "whole", 0, Need::Required)];
        let offsets = Offsets::resolve_list(&btf(), &list, &[]).expect("both are there");
        assert_eq!(offsets.values, [("A", 4), ("ANY", 12)]);
        assert_eq!((offsets.get("A"), offsets.get("B")), (Some(4), None));

        let list = [
            spec("A", "a", 8, Need::Required),
            spec("B", "b", 4, Need::Required),
            spec("F", "flag", 1, Need::Required),
        ];
        let error = Offsets::resolve_list(&btf(), &list, &[]).expect_err("all three are wrong");
        let text = error.to_string();
        assert_eq!(error.missing.len(), 3);
        assert!(text.contains("struct s, member a: it has 4 bytes, not 8"), "{text}");
        assert!(text.contains("struct s, member b: struct s has no member b"), "{text}");
        assert!(text.contains("member flag: it is a bitfield of 1 bits, not 1 bytes"), "{text}");
        assert!(text.contains("conn doctor"), "names the remedy: {text}");
    }

    #[test]
    fn optional_members_cost_a_note() {
        let list = [spec("OFF_TASK_LOGINUID", "loginuid.val", 4, Need::Optional)];
        let offsets = Offsets::resolve_list(&btf(), &list, &[]).expect("optional");
        assert_eq!(offsets.values, [("OFF_TASK_LOGINUID", OFFSET_NONE)]);
        assert_eq!(offsets.missing[0].loses, "the login uid is not shown");
        assert_eq!(offsets.get("OFF_TASK_LOGINUID"), None);
    }

    #[test]
    fn a_single_bit_is_counted_in_bits() {
        let list = [spec("F", "flag", ONE_BIT, Need::Required)];
        assert_eq!(Offsets::resolve_list(&btf(), &list, &[]).expect("it is one").get("F"), Some(64));
        let list = [spec("A", "a", ONE_BIT, Need::Required)];
        let error = Offsets::resolve_list(&btf(), &list, &[]).expect_err("it is a number");
        assert!(error.to_string().contains("member a: it is no bitfield of one bit"), "{error}");
    }

    #[test]
    fn of_two_names_one_must_exist() {
        let either = [("OLD", "NEW")];
        let list = |new| [spec("OLD", "gone", 4, Need::Optional), spec("NEW", new, 4, Need::Optional)];
        let offsets = Offsets::resolve_list(&btf(), &list("a"), &either).expect("one is there");
        assert_eq!(offsets.values, [("OLD", OFFSET_NONE), ("NEW", 4)]);
        assert!(offsets.missing.is_empty(), "the other name is no loss");
        let error = Offsets::resolve_list(&btf(), &list("also_gone"), &either).expect_err("neither");
        assert_eq!(error.missing[0].path, "gone or also_gone");
    }

    #[test]
    fn the_lists_agree() {
        for &(one, other) in EITHER {
            for global in [one, other] {
                let spec = OFFSETS.iter().find(|spec| spec.global == global).expect(global);
                assert_eq!(spec.need, Need::Optional, "{global}");
            }
        }
        for spec in OFFSETS.iter().filter(|spec| spec.need == Need::Optional) {
            let alternative = EITHER.iter().any(|&(a, b)| a == spec.global || b == spec.global);
            assert!(alternative || loss(spec.global) != loss(""), "say what is lost without {}", spec.global);
        }
    }

    #[test]
    fn the_running_kernel_has_them() {
        if !Path::new(SYS_FS_PATH).exists() {
            return;
        }
        let btf = Btf::from_sys_fs().expect("the kernel's own BTF");
        let offsets = Offsets::resolve(&btf).expect("a supported kernel");
        assert_eq!(offsets.values.len(), OFFSETS.len());
        assert_eq!(offsets.get("OFF_SKC_FAMILY"), Some(16));
        assert_eq!(offsets.get("OFF_SKC_COOKIE"), Some(88));
        assert!(offsets.get("OFF_FILE_COUNT").is_some() != offsets.get("OFF_FILE_REF").is_some());
        for missing in &offsets.missing {
            println!("{missing}");
        }
        for (global, value) in &offsets.values {
            println!("{global} {value}");
        }
    }
}
