//! The history: how fast rows are stored, how many bytes one takes, and how long a query takes.
//!
//! `CONN_HISTORY_ROWS=10000000 cargo bench --bench history` makes as many rows (default: a million) in a temporary folder, 140 bytes each,
//! and removes them. The queries are those of the program: its start is in the times.
#![allow(missing_docs, reason = "a program")]
#![allow(clippy::cast_precision_loss, reason = "rates for people")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use conn_common::hook::HookId;
use conn_user::event::json::StreamIdentity;
use conn_user::event::model::{Event, EventBody};
use conn_user::flow::model::{Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Traffic};
use conn_user::history::store::Store;
use conn_user::process::info::ProcessInfo;
use conn_user::units::{BootNs, DurationNs, NetNs, Pid, WallNs};

/// Peers and processes that connections are of.
const PEERS: u64 = 5_000;
const PROCESSES: u64 = 200;
/// Rows of a commit.
const BATCH: usize = 5_000;
const DAY: u64 = 24 * 60 * 60 * 1_000_000_000;
const START: (BootNs, WallNs) = (BootNs(1_000_000_000_000), WallNs(1_796_083_200_000_000_000));

fn main() -> Result<(), Box<dyn Error>> {
    let rows: u64 = std::env::var("CONN_HISTORY_ROWS").ok().map_or(Ok(1_000_000), |rows| rows.parse())?;
    let folder = std::env::temp_dir().join(format!("conn-bench-history-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measure(rows, &folder);
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn measure(rows: u64, folder: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let path = folder.join("history-20261201.db");
    let identity = StreamIdentity {
        host: "bench".to_owned(),
        boot_id: "752b100f-0000".to_owned(),
        agent_start: START.0,
    };
    let mut store = Store::open(&path, &identity, START, 0)?;
    let processes: Vec<_> = (0..PROCESSES).map(process).collect();
    let begin = Instant::now();
    for number in 0..rows {
        let process = &processes[(number % PROCESSES) as usize];
        for event in connection(number, rows, process) {
            store.apply(&event);
        }
        if store.waiting() >= BATCH {
            store.commit()?;
        }
    }
    store.finish(START.1, false)?;
    let took = begin.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&path)?.len();
    println!("stored    {:.0} connections a second, {rows} in {took:.1} s", rows as f64 / took);
    println!(
        "size      {:.1} bytes a connection, its indexes and its part of what is shared included",
        bytes as f64 / rows as f64
    );
    let queries: [(&str, &[&str]); 4] = [
        ("address", &["--json", "raddr:10.0.7.77", "--limit", "100"]),
        ("--by", &["--json", "--by", "raddr", "--limit", "10"]),
        ("port", &["--json", "--by", "exe", "rport:443", "--limit", "10"]),
        ("--sql", &["--json", "--sql", "SELECT count(*) AS n FROM conn"]),
    ];
    for (name, arguments) in queries {
        let begin = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_conn"))
            .args(["query", "--history"])
            .arg(folder)
            .args(arguments)
            .env("CONN_SOCKET", "")
            .stdin(Stdio::null())
            .output()?;
        let took = begin.elapsed();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let lines = String::from_utf8_lossy(&output.stdout).lines().count();
        println!("{name:<9} {:.1} ms, {lines} lines", took.as_secs_f64() * 1e3);
    }
    Ok(())
}

fn process(number: u64) -> Arc<ProcessInfo> {
    let pid = Pid(2_000 + number as u32);
    Arc::new(ProcessInfo {
        comm: format!("worker{number}").into_bytes().into(),
        exe: Some(format!("/usr/lib/app/worker{number}").into_bytes().into()),
        args: [b"worker".as_slice().into(), b"--queue=mail".as_slice().into()].into(),
        ..ProcessInfo::new(pid, BootNs(number * 1_000_000_000))
    })
}

/// A connection's events, spread over a day.
fn connection(number: u64, rows: u64, process: &Arc<ProcessInfo>) -> [Event; 3] {
    // Not in the order of the peers.
    let peer = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % PEERS;
    let remote = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + peer as u32));
    let local = SocketAddr::from(([10, 200, 0, 5], 32_768 + (number % 28_000) as u16));
    let service = if peer.is_multiple_of(3) { 443 } else { 5432 };
    let after = (DAY - 2_000_000_000) / rows.max(1) * number;
    let at = |more: u64| (BootNs(START.0.0 + after + more), WallNs(START.1.0 + after + more));
    let owner = Actor::by(process, HookId::FentryTcpConnect);
    let mut conn = ConnEvent::new(
        ConnId(number + 1),
        Direction::Out,
        (local, SocketAddr::new(remote, service)),
        NetNs(4_026_531_840),
        owner.clone(),
    );
    let event = |seq: u64, (boot, wall): (BootNs, WallNs), change| Event {
        seq: 3 * number + seq,
        boot,
        wall,
        body: EventBody::Flow(change),
    };
    conn.begun = at(0).0;
    let connect = event(1, at(0), Change::Connect(conn.clone()));
    let took = 150_000 + number % 1_000 * 977;
    conn.established = Some(at(took).0);
    let established = event(2, at(took), Change::Established(conn.clone()));
    let lasted = 3_000_000 + number % 10_000 * 13_331;
    let ending = Ending {
        how: EndedHow::LocalFin,
        errno: 0,
        closer: owner,
        duration: Some(DurationNs(lasted)),
        traffic: Some(Traffic {
            bytes_in: 400 + number % 7 * 1_000,
            bytes_out: 90 + number % 11 * 30,
            retransmits: Some(0),
            srtt_us: 180 + (number % 400) as u32,
        }),
    };
    [connect, established, event(3, at(took + lasted), Change::Close(conn, ending))]
}
