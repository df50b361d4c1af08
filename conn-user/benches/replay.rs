//! How fast a recording is replayed: a busy server's day, with the default rules.
//!
//! ```text
//! cargo bench -p conn-user --bench replay -- --events 10000000
//! ```
//!
//! The lines are made in another thread, so nothing is on disk; with one core that is measured too.

use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use conn_user::event::json::{JsonEncoder, StreamIdentity};
use conn_user::event::model::{Event, EventBody, Start};
use conn_user::event::read::Reader;
use conn_user::flow::model::Change;
use conn_user::replay::Replay;
use conn_user::replay::file::Recording;
use conn_user::units::{BootNs, WallNs};

#[path = "../tests/rules_load/mod.rs"]
#[allow(dead_code, reason = "the other benchmark has more rules")]
mod load;

/// Nanoseconds of a day.
const DAY: u64 = 86_400_000_000_000;
/// Bytes that go from one thread to the other at once.
const CHUNK: usize = 1 << 20;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let asked = args.iter().position(|arg| arg == "--events").and_then(|at| args.get(at + 1)?.parse().ok());
    let Some(count) = asked else {
        println!("not run: give --events 10000000");
        return Ok(());
    };
    let (sender, chunks) = sync_channel(8);
    let writer = thread::spawn(move || write(count, &sender));
    let mut recording =
        Recording::new("a day".to_owned(), BufReader::with_capacity(CHUNK, Chunks::new(chunks)));
    let rules = load::defaults();
    let (mut reader, mut replay, began) = (Reader::default(), Replay::new(&rules), Instant::now());
    while let Some(recorded) = recording.next(&mut reader).map_err(io::Error::other)? {
        replay.take(recorded, reader.take_news(), &mut |_| {});
    }
    replay.end_run(&mut |_| {});
    let (took, stats) = (began.elapsed(), replay.stats());
    let a_second = |count: u64| u128::from(count) * 1_000_000 / took.as_micros().max(1);
    let bytes = writer.join().map_err(|_| io::Error::other("the writer panicked"))?;
    println!(
        "{} events ({} MB) of {} h, {} rules, {} alerts: {:.1} s, {} events/s, {} MB/s",
        stats.events,
        bytes / 1_000_000,
        stats.span.0 / (DAY / 24),
        rules.rules.len(),
        stats.alerts,
        took.as_secs_f64(),
        a_second(stats.events),
        a_second(bytes) / 1_000_000,
    );
    Ok(())
}

/// Writes so many lines, and returns their bytes.
fn write(count: u64, sender: &SyncSender<Vec<u8>>) -> u64 {
    let identity = StreamIdentity {
        host: "web-1".to_owned(),
        boot_id: "3f2a9c1e-0b7d-4c58-9f11-6a5d2b3c4e5f".to_owned(),
        agent_start: BootNs(1),
    };
    let began = 10_000_000_000_000;
    let start = Event {
        seq: 0,
        boot: BootNs(began),
        wall: WallNs(began),
        body: EventBody::Start(Start { attached: BootNs(began), has_facts: false }),
    };
    let (mut encoder, mut chunk, mut bytes) = (JsonEncoder::new(&identity), Vec::with_capacity(2 * CHUNK), 0);
    encoder.encode(&start, &mut chunk);
    let mut events = load::events();
    let mut seq = 0;
    while seq < count {
        for event in events.iter_mut().take(usize::try_from(count - seq).unwrap_or(usize::MAX)) {
            seq += 1;
            event.seq = seq;
            event.boot = BootNs(began + (u128::from(DAY) * u128::from(seq) / u128::from(count)) as u64);
            event.wall = WallNs(event.boot.0);
            match &mut event.body {
                EventBody::Flow(Change::Established(conn)) => {
                    conn.begun = BootNs(event.boot.0 - 50_000);
                    conn.established = Some(event.boot);
                }
                EventBody::Flow(Change::Accept(conn)) => conn.established = Some(event.boot),
                _ => {}
            }
            encoder.encode(event, &mut chunk);
            if chunk.len() >= CHUNK {
                bytes += chunk.len() as u64;
                if sender.send(std::mem::replace(&mut chunk, Vec::with_capacity(2 * CHUNK))).is_err() {
                    return bytes;
                }
            }
        }
    }
    bytes += chunk.len() as u64;
    // The reader may have ended with an error, which it reports.
    let _ = sender.send(chunk);
    bytes
}

/// What comes from the other thread, as something to read from.
struct Chunks {
    others: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    read: usize,
}

impl Chunks {
    const fn new(others: Receiver<Vec<u8>>) -> Self {
        Self { others, chunk: Vec::new(), read: 0 }
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.read == self.chunk.len() {
            let Ok(chunk) = self.others.recv() else { return Ok(0) };
            (self.chunk, self.read) = (chunk, 0);
        }
        let read = (&self.chunk[self.read..]).read(into)?;
        self.read += read;
        Ok(read)
    }
}
