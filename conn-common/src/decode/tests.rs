use proptest::prelude::*;

use super::*;

const KINDS: [RecordKind; 10] = [
    RecordKind::Connect,
    RecordKind::Accept,
    RecordKind::Close,
    RecordKind::Established,
    RecordKind::End,
    RecordKind::Listen,
    RecordKind::Unlisten,
    RecordKind::Fork,
    RecordKind::Exec,
    RecordKind::Exit,
];

/// Bytes of the kind's struct.
const fn size(kind: RecordKind) -> usize {
    match kind {
        RecordKind::Connect | RecordKind::Accept | RecordKind::Listen | RecordKind::Unlisten => {
            size_of::<SockRecord>()
        }
        RecordKind::Close | RecordKind::End => size_of::<SockEndRecord>(),
        RecordKind::Established => size_of::<EstablishedRecord>(),
        RecordKind::Fork => size_of::<ForkRecord>(),
        RecordKind::Exec => size_of::<ExecRecord>(),
        RecordKind::Exit => size_of::<ExitRecord>(),
    }
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_ne_bytes());
}

/// A record of this kind and length. Each byte behind the header differs from its neighbors.
fn bytes(kind: RecordKind, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
    bytes.resize(len.max(size_of::<RecordHeader>()), 0);
    put(&mut bytes, 0, kind as u16);
    put(&mut bytes, 2, HookId::State as u16);
    put(&mut bytes, 4, len as u16);
    bytes.truncate(len);
    bytes
}

/// An exec record with arguments of this length and `more` bytes between its struct and them.
fn exec(args: usize, more: usize) -> Vec<u8> {
    let mut bytes = bytes(RecordKind::Exec, size_of::<ExecRecord>() + more + args);
    put(&mut bytes, core::mem::offset_of!(ExecRecord, filename_len), 3);
    put(&mut bytes, core::mem::offset_of!(ExecRecord, path_len), 5);
    put(&mut bytes, core::mem::offset_of!(ExecRecord, args_len), args as u16);
    let len = bytes.len();
    bytes[len - args..].fill(b'a');
    bytes
}

fn whole(kind: RecordKind) -> Vec<u8> {
    if kind == RecordKind::Exec { exec(7, 0) } else { bytes(kind, size(kind)) }
}

fn kind_of(record: &Record<'_>) -> RecordKind {
    match record {
        Record::Connect(_) => RecordKind::Connect,
        Record::Accept(_) => RecordKind::Accept,
        Record::Close(_) => RecordKind::Close,
        Record::Established(_) => RecordKind::Established,
        Record::End(_) => RecordKind::End,
        Record::Listen(_) => RecordKind::Listen,
        Record::Unlisten(_) => RecordKind::Unlisten,
        Record::Fork(_) => RecordKind::Fork,
        Record::Exec(..) => RecordKind::Exec,
        Record::Exit(_) => RecordKind::Exit,
    }
}

#[test]
fn every_kind_is_decoded_as_itself() {
    for kind in KINDS {
        let bytes = whole(kind);
        assert_eq!(kind_of(&record(&bytes).expect("whole")), kind);
        assert_eq!(header(&bytes).expect("whole").1, HookId::State);
    }
}

#[test]
fn values_come_from_their_places() {
    let word = |at: u8| u32::from_ne_bytes([at, at + 1, at + 2, at + 3]);
    let Record::Close(close) = record(&whole(RecordKind::Close)).expect("whole") else { panic!("no close") };
    assert_eq!((close.task.tgid, close.sock.netns, close.counters.srtt_us), (word(24), word(120), word(172)));
    let Record::Exit(exit) = record(&whole(RecordKind::Exit)).expect("whole") else { panic!("no exit") };
    assert_eq!((exit.task.tid, exit.exit_code), (word(28), word(80)));
}

/// With the header's length as it was (the ring cut the record) and with the length that is left.
#[test]
fn a_record_cut_at_any_length_is_an_error() {
    for kind in KINDS {
        let whole = whole(kind);
        for have in 0..whole.len() {
            let mut cut = whole[..have].to_vec();
            let error = record(&cut).expect_err("cut");
            if have < size_of::<RecordHeader>() {
                assert_eq!(error, DecodeError::Short { need: size_of::<RecordHeader>(), have });
                assert_eq!(header(&cut), Err(error));
                continue;
            }
            assert_eq!(error, DecodeError::Length { header: whole.len(), have }, "{kind:?}");
            assert!(header(&cut).is_ok(), "its sequence number still counts");
            put(&mut cut, 4, have as u16);
            let expected = if have < size(kind) {
                DecodeError::Short { need: size(kind), have }
            } else {
                DecodeError::Overrun { member: "args_len", value: 7, room: have - size(kind) }
            };
            assert_eq!(record(&cut), Err(expected), "{kind:?}");
        }
    }
}

#[test]
fn a_longer_record_of_a_newer_object_is_taken_as_far_as_it_is_known() {
    for kind in KINDS.into_iter().filter(|kind| *kind != RecordKind::Exec) {
        let known = whole(kind);
        let mut longer = bytes(kind, size(kind) + 24);
        let decoded = record(&longer).expect("longer");
        assert_eq!(kind_of(&decoded), kind);
        // Besides its length it is the same.
        put(&mut longer, 4, size(kind) as u16);
        assert_eq!(record(&longer[..size(kind)]), record(&known));
    }
    let longer = exec(7, 24);
    let Record::Exec(exec, args) = record(&longer).expect("longer") else { panic!("no exec") };
    assert_eq!((exec.args_len, args), (7, &b"aaaaaaa"[..]), "the arguments come last");
}

#[test]
fn unknown_numbers() {
    for number in 0..=u16::MAX {
        let mut bytes = whole(RecordKind::Exit);
        put(&mut bytes, 0, number);
        if !KINDS.iter().any(|kind| *kind as u16 == number) {
            assert_eq!(record(&bytes), Err(DecodeError::UnknownKind(number)));
        }
        put(&mut bytes, 2, number);
        match HookId::ALL.iter().find(|hook| **hook as u16 == number) {
            Some(hook) => assert_eq!(header(&bytes).map(|(_, found)| found), Ok(*hook)),
            None => assert_eq!(header(&bytes), Err(DecodeError::UnknownHook(number))),
        }
    }
}

#[test]
fn a_header_that_contradicts_the_ring_is_an_error() {
    for kind in KINDS {
        let whole = whole(kind);
        for header in [0, 1, 23, whole.len() - 1, whole.len() + 1, 65535] {
            let mut lying = whole.clone();
            put(&mut lying, 4, header as u16);
            assert_eq!(record(&lying), Err(DecodeError::Length { header, have: whole.len() }));
        }
    }
}

#[test]
fn lengths_of_an_exec_that_reach_beyond_it_are_errors() {
    for (member, offset, room) in [
        ("filename_len", core::mem::offset_of!(ExecRecord, filename_len), 256),
        ("path_len", core::mem::offset_of!(ExecRecord, path_len), 1024),
        ("args_len", core::mem::offset_of!(ExecRecord, args_len), 7),
    ] {
        let mut bytes = exec(7, 0);
        put(&mut bytes, offset, room as u16);
        assert!(record(&bytes).is_ok(), "{member}: what just fits");
        for value in [room + 1, 65535] {
            put(&mut bytes, offset, value as u16);
            assert_eq!(record(&bytes), Err(DecodeError::Overrun { member, value, room }));
        }
    }
}

proptest! {
    /// Whatever lies in the ring: no panic, and what is returned lies within the record.
    #[test]
    fn arbitrary_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..4000), kind in 0u16..20, honest in any::<bool>()) {
        let _ = (header(&bytes), record(&bytes));
        if bytes.len() >= size_of::<RecordHeader>() {
            put(&mut bytes, 0, kind);
            if honest {
                let len = bytes.len() as u16;
                put(&mut bytes, 4, len);
            }
        }
        if let Ok(Record::Exec(exec, args)) = record(&bytes) {
            prop_assert_eq!(args.len(), usize::from(exec.args_len));
            prop_assert!(bytes.as_ptr_range().contains(&args.as_ptr()) || args.is_empty());
            prop_assert!(bytes.ends_with(args));
        }
    }

    /// A record with some bytes turned over.
    #[test]
    fn nearly_right(kind in prop::sample::select(&KINDS[..]), flips in prop::collection::vec((0usize..1500, any::<u8>()), 0..4)) {
        let mut bytes = whole(kind);
        let len = bytes.len();
        for (at, byte) in flips {
            bytes[at % len] = byte;
        }
        if let Ok(decoded) = record(&bytes) {
            prop_assert_eq!(kind_of(&decoded) as u16, u16::from_ne_bytes([bytes[0], bytes[1]]));
        }
    }
}
