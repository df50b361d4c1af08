//! The hot path of a record: sequence check, decoding, process table, flow table, event.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use conn_common::hook::HookId;
use conn_common::record::{
    EstablishedRecord, RecordHeader, RecordKind, Sock, SockEndRecord, SockFlags, SockRecord, Task,
};
use conn_user::agent::Pipeline;
use conn_user::flow::table::FlowTable;
use conn_user::process::table::ProcessTable;
use conn_user::units::BootNs;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

fn bytes<T: Copy>(record: &T) -> Vec<u8> {
    // SAFETY: the records are repr(C) without padding (asserted in conn-common).
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// Writes the six records of a loopback connection of this process, as the function backends make them.
struct Kernel {
    seq: [u64; 32],
    boot_ns: u64,
    task: Task,
}

impl Kernel {
    fn header<T>(&mut self, kind: RecordKind, hook: HookId) -> RecordHeader {
        let seq = self.seq[hook as usize];
        self.seq[hook as usize] += 1;
        self.boot_ns += 1_000;
        let len = u16::try_from(size_of::<T>()).expect("a record is short");
        RecordHeader { kind: kind as u16, hook: hook as u16, len, cpu: 0, seq, boot_ns: self.boot_ns }
    }

    fn connection(&mut self, number: u64) -> Vec<Vec<u8>> {
        let port = u16::try_from(20_000 + number % 40_000).expect("below 65536");
        let loopback = [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let end = |key, lport, rport, state| Sock {
            key,
            laddr: loopback,
            raddr: loopback,
            netns: 4_026_531_840,
            lport,
            rport,
            family: 2,
            flags: SockFlags::HAS_SOCKET,
            old_state: state,
            new_state: ESTABLISHED,
            ..Sock::default()
        };
        let task = self.task;
        let (client, server) = (2 * number + 1, 2 * number + 2);
        let out = |state| end(client, port, 8080, state);
        let passive = |state| end(server, 8080, port, state);
        vec![
            bytes(&SockRecord {
                header: self.header::<SockRecord>(RecordKind::Connect, HookId::FentryTcpConnect),
                task,
                sock: out(SYN_SENT),
            }),
            bytes(&EstablishedRecord {
                header: self.header::<EstablishedRecord>(RecordKind::Established, HookId::State),
                sock: out(SYN_SENT),
            }),
            bytes(&EstablishedRecord {
                header: self.header::<EstablishedRecord>(RecordKind::Established, HookId::State),
                sock: passive(SYN_RECV),
            }),
            bytes(&SockRecord {
                header: self.header::<SockRecord>(RecordKind::Accept, HookId::FentryInetAccept),
                task,
                sock: passive(ESTABLISHED),
            }),
            bytes(&SockEndRecord {
                header: self.header::<SockEndRecord>(RecordKind::Close, HookId::FentryTcpClose),
                task,
                sock: out(ESTABLISHED),
                ..SockEndRecord::default()
            }),
            bytes(&SockEndRecord {
                header: self.header::<SockEndRecord>(RecordKind::Close, HookId::FentryTcpClose),
                task,
                sock: passive(CLOSE_WAIT),
                ..SockEndRecord::default()
            }),
        ]
    }
}

fn pipeline(c: &mut Criterion) {
    const CONNECTIONS: u64 = 1000;
    let task = Task { tgid: 4_000_000, tid: 4_000_000, start_boot_ns: 1, ..Task::default() };
    let mut kernel = Kernel { seq: [0; 32], boot_ns: 1, task };
    let mut pipeline = Pipeline::new(BootNs(0), ProcessTable::default(), FlowTable::default());
    let mut number = 0;
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(6 * CONNECTIONS));
    group.bench_function("records of loopback connections", |bencher| {
        bencher.iter_batched(
            || {
                let first = number;
                number += CONNECTIONS;
                (first..number).flat_map(|number| kernel.connection(number)).collect::<Vec<_>>()
            },
            |records| {
                let mut events = 0u64;
                for record in &records {
                    pipeline.on_bytes(record, &mut |event| {
                        black_box(event);
                        events += 1;
                    });
                }
                assert_eq!(events, 5 * CONNECTIONS);
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
