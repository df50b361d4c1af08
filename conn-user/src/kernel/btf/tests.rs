use std::path::Path;

use proptest::prelude::*;

use super::{build::Builder, *};

/// A small kernel: nested, anonymous, qualified, array and bitfield members, functions and a tracepoint.
fn small() -> Builder {
    let mut b = Builder::new();
    let u8_ = b.int("unsigned char", 1);
    let u16_ = b.int("unsigned short", 2);
    let u32_ = b.int("unsigned int", 4);
    let u64_ = b.int("unsigned long", 8);
    let be16 = b.typedef("__be16", u16_);
    let pair = b.structure("", 4, &[("skc_dport", be16, 0, 0), ("skc_num", u16_, 16, 0)]);
    let portpair = b.union("", 4, &[("skc_portpair", u32_, 0, 0), ("", pair, 0, 0)]);
    let common = b.structure(
        "sock_common",
        24,
        &[
            ("skc_addrpair", u64_, 0, 0),
            ("skc_hash", u32_, 64, 0),
            ("", portpair, 96, 0),
            ("skc_family", u16_, 128, 0),
            ("skc_state", u8_, 144, 8),
            ("skc_reuse", u8_, 152, 4),
            ("skc_reuseport", u8_, 156, 1),
            ("skc_wide", u32_, 164, 9),
        ],
    );
    let pointer = b.ptr(common);
    let comm = b.array(u8_, 16);
    let name = b.constant(comm);
    b.structure(
        "sock",
        64,
        &[("__sk_common", common, 0, 0), ("sk_next", pointer, 192, 0), ("name", name, 256, 0)],
    );
    b.func("tcp_connect", u32_, &[pointer]);
    b.func("tcp_close", 0, &[pointer, u64_]);
    b.tracepoint("inet_sock_set_state", 3);
    b
}

fn plain(offset: u32, size: u32) -> Member {
    Member { offset, size, bits: None }
}

#[test]
fn members_are_found() {
    let btf = Btf::parse(small().finish()).expect("valid");
    let at = |path| btf.member("sock", path);
    assert_eq!(at("__sk_common"), Ok(plain(0, 24)));
    assert_eq!(at("__sk_common.skc_family"), Ok(plain(16, 2)));
    assert_eq!(at("sk_next"), Ok(plain(24, 8)));
    assert_eq!(at("name"), Ok(plain(32, 16)), "an array behind const");
    assert_eq!(at("__sk_common.skc_num"), Ok(plain(14, 2)), "a struct in a union, both without name");
    assert_eq!(at("__sk_common.skc_dport"), Ok(plain(12, 2)), "behind a typedef");
    assert_eq!(btf.member("sock_common", "skc_num"), Ok(plain(14, 2)));
    assert_eq!(btf.struct_size("sock"), Some(64));
}

#[test]
fn bitfields_say_byte_and_bit() {
    let btf = Btf::parse(small().finish()).expect("valid");
    let at = |path| btf.member("sock_common", path);
    let bits = |offset, size, first, width| Ok(Member { offset, size, bits: Some(Bits { first, width }) });
    assert_eq!(at("skc_state"), bits(18, 1, 0, 8));
    assert_eq!(at("skc_reuseport"), bits(19, 1, 4, 1));
    assert_eq!(at("skc_wide"), bits(20, 2, 4, 9));

    let mut b = Builder::new();
    let narrow = b.raw("unsigned int", 1, false, 0, 4, &[3 << 16 | 2]);
    b.structure("old", 4, &[("a", narrow, 8, 0)]);
    let btf = Btf::parse(b.finish()).expect("valid");
    assert_eq!(btf.member("old", "a"), bits(1, 1, 3, 2), "without kind_flag the integer has the width");
}

#[test]
fn what_is_missing_is_named() {
    let btf = Btf::parse(small().finish()).expect("valid");
    let at = |container, path| btf.member(container, path).expect_err("missing");
    assert_eq!(at("socket", "file"), MemberError::NoContainer("socket".into()));
    let no = |container: &str, member: &str| MemberError::NoMember {
        container: container.into(),
        member: member.into(),
    };
    assert_eq!(at("sock", "sk_err"), no("sock", "sk_err"));
    assert_eq!(at("sock", "__sk_common.skc_x.y"), no("sock", "__sk_common.skc_x"));
    assert_eq!(at("sock", "sk_next.skc_num"), no("sock", "sk_next.skc_num"), "a pointer is not followed");
    assert_eq!(at("sock", ""), no("sock", ""));
    assert_eq!(at("sock", "__sk_common."), no("sock", "__sk_common."));
}

#[test]
fn functions_and_tracepoints() {
    let btf = Btf::parse(small().finish()).expect("valid");
    assert_eq!(btf.function("tcp_connect"), Some(Function { params: 1, returns: true }));
    assert_eq!(btf.function("tcp_close"), Some(Function { params: 2, returns: false }));
    assert_eq!(btf.function("sock"), None, "a struct is no function");
    assert_eq!(btf.tracepoint("inet_sock_set_state"), Some(3));
    assert_eq!(btf.tracepoint("inet_sock"), None);
    assert!(btf.has_typedef("btf_trace_inet_sock_set_state"));
    assert!(!btf.has_typedef("sock") && btf.has_struct("sock") && !btf.has_struct("__be16"));
}

#[test]
fn of_namesakes_the_one_with_the_member_counts() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    b.structure("twin", 8, &[("other", int, 0, 0)]);
    b.structure("twin", 8, &[("wanted", int, 32, 0)]);
    let btf = Btf::parse(b.finish()).expect("valid");
    assert_eq!(btf.member("twin", "wanted"), Ok(plain(4, 4)));
    assert_eq!(btf.member("twin", "other"), Ok(plain(0, 4)));
    assert!(matches!(btf.member("twin", "none"), Err(MemberError::NoMember { .. })));
}

#[test]
fn every_kind_is_stepped_over() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    b.raw("e", 6, false, 2, 4, &[0, 1, 0, 2]);
    b.raw("fwd", 7, false, 0, 0, &[]);
    b.raw("", 9, false, 0, int, &[]);
    b.raw("", 11, false, 0, int, &[]);
    b.raw("var", 14, false, 0, int, &[1]);
    b.raw(".data", 15, false, 1, 4, &[6, 0, 4]);
    b.raw("float", 16, false, 0, 4, &[]);
    b.raw("tag", 17, false, 0, int, &[u32::MAX]);
    b.raw("tag", 18, false, 0, int, &[]);
    b.raw("e64", 19, false, 1, 8, &[0, 1, 2]);
    let last = b.structure("last", 4, &[("m", int, 0, 0)]);
    let btf = Btf::parse(b.finish()).expect("valid");
    assert_eq!(btf.type_count(), last as usize);
    assert_eq!(btf.member("last", "m"), Ok(plain(0, 4)));
}

#[test]
fn a_later_kind_needs_the_layout() {
    let later = || {
        let mut b = Builder::new();
        let int = b.int("int", 4);
        b.raw("new", 20, false, 2, 0, &[1, 2, 3]);
        b.structure("s", 4, &[("m", int, 0, 0)]);
        b
    };
    assert!(matches!(Btf::parse(later().finish()), Err(BtfError::Kind { id: 2, kind: 20 })));
    let mut layout = [(0, 0); 21];
    layout[20] = (4, 4);
    let btf = Btf::parse(later().with_layout(&layout)).expect("described");
    assert_eq!(btf.member("s", "m"), Ok(plain(0, 4)));
    assert!(matches!(Btf::parse(later().with_layout(&layout[..20])), Err(BtfError::Kind { .. })));
}

#[test]
fn what_contains_itself_ends() {
    let mut b = Builder::new();
    b.structure("loop", 8, &[("", 1, 0, 0), ("", 1, 0, 0), ("m", 1, 0, 0)]);
    b.typedef("t", 2);
    b.structure("through", 8, &[("m", 2, 0, 0)]);
    b.raw("", 3, false, 0, 0, &[4, 4, 2]);
    b.structure("array", 8, &[("m", 4, 0, 0)]);
    let btf = Btf::parse(b.finish()).expect("the encoding is valid");
    for name in ["loop", "through", "array"] {
        assert_eq!(btf.member(name, "m"), Err(MemberError::Damaged(name.into())));
    }
}

#[test]
fn what_is_no_btf_is_refused() {
    let good = small().finish();
    let with = |at: usize, bytes: &[u8]| {
        let mut data = good.clone();
        data[at..at + bytes.len()].copy_from_slice(bytes);
        Btf::parse(data).err()
    };
    assert!(matches!(Btf::parse(Vec::new()), Err(BtfError::Damaged { what: "header", .. })));
    assert!(matches!(with(0, b"\x7fELF"), Some(BtfError::Magic(_))));
    assert!(matches!(with(0, &0xeb9f_u16.swap_bytes().to_ne_bytes()), Some(BtfError::ByteOrder)));
    assert!(matches!(with(2, &[2]), Some(BtfError::Version(2))));
    assert!(matches!(with(4, &[0xff; 4]), Some(BtfError::Damaged { what: "header length", .. })));
    for field in [8, 12, 16, 20] {
        assert!(matches!(with(field, &[0xff; 4]), Some(BtfError::Damaged { .. })), "field at {field}");
    }
    let mut cut = good.clone();
    cut.truncate(good.len() - 1);
    assert!(matches!(Btf::parse(cut), Err(BtfError::Damaged { what: "section", .. })));
}

/// Everything that a lookup can do, on BTF that may mean anything.
fn look_at_everything(btf: &Btf) {
    for name in ["sock", "sock_common", "twin", ""] {
        for path in ["__sk_common.skc_num", "skc_state", "name", "sk_next", "skc_wide", ""] {
            let _ = btf.member(name, path);
        }
        let _ = (btf.struct_size(name), btf.has_typedef(name), btf.function(name), btf.tracepoint(name));
    }
    let _ = (btf.function("tcp_close"), btf.tracepoint("inet_sock_set_state"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(btf) = Btf::parse(data) {
            look_at_everything(&btf);
        }
    }

    #[test]
    fn arbitrary_sections_never_panic(body in prop::collection::vec(any::<u8>(), 0..256), split in 0usize..256) {
        let split = split.min(body.len());
        let mut data = Builder::new().finish();
        data.truncate(24);
        data[12..16].copy_from_slice(&(split as u32).to_ne_bytes());
        data[16..20].copy_from_slice(&(split as u32).to_ne_bytes());
        data[20..24].copy_from_slice(&((body.len() - split) as u32).to_ne_bytes());
        data.extend(body);
        if let Ok(btf) = Btf::parse(data) {
            look_at_everything(&btf);
        }
    }

    #[test]
    fn mutations_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut data = small().finish();
        for (index, byte) in edits {
            let at = index.index(data.len());
            data[at] = byte;
        }
        if let Some(cut) = cut {
            let at = cut.index(data.len());
            data.truncate(at);
        }
        if let Ok(btf) = Btf::parse(data) {
            look_at_everything(&btf);
        }
    }
}

/// Facts that hold for every kernel from 5.10 to 7.3 (kernel.md 9.2, first row).
#[test]
fn the_running_kernel() {
    if !Path::new(SYS_FS_PATH).exists() {
        return;
    }
    let btf = Btf::from_sys_fs().expect("the kernel's own BTF");
    assert!(btf.type_count() > 10_000);
    for (path, offset, size) in [
        ("__sk_common.skc_family", 16, 2),
        ("__sk_common.skc_daddr", 0, 4),
        ("__sk_common.skc_rcv_saddr", 4, 4),
        ("__sk_common.skc_dport", 12, 2),
        ("__sk_common.skc_num", 14, 2),
    ] {
        assert_eq!(btf.member("sock", path), Ok(plain(offset, size)), "{path}");
    }
    let state = btf.member("sock", "__sk_common.skc_state").expect("skc_state");
    assert_eq!((state.offset, state.size), (18, 1));
    let reuse = btf.member("sock_common", "skc_reuseport").expect("skc_reuseport");
    assert_eq!((reuse.offset, reuse.bits), (19, Some(Bits { first: 4, width: 1 })));
    assert_eq!(btf.function("tcp_connect"), Some(Function { params: 1, returns: true }));
    assert_eq!(btf.function("tcp_close").map(|f| f.params), Some(2));
    assert_eq!(btf.tracepoint("inet_sock_set_state"), Some(3));
    assert!(!btf.has_struct("conn_has_no_such_struct"));
}
