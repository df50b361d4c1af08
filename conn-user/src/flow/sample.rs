//! Samples of open connections: what the kernel counts of one at an instant. Rules ask for them; a thread asks `sock_diag`, which
//! finds a connection by its ends without walking a table.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use rustix::net::netlink::SOCK_DIAG;
use tokio::sync::Notify;

use super::model::{ConnEvent, ConnId, Traffic};
use super::snapshot::{TICK, model::TcpState, traffic};
use crate::host::netlink::Netlink;
use crate::host::netns::Namespace;
use crate::host::sockdiag;
use crate::units::{BootNs, NetNs, Pid};

/// Name of the thread that takes samples, and of those that it has in other namespaces.
const THREAD: &str = "conn-samples";
/// Most connections that wait to be sampled; the queue has its memory from the start. What finds no room is asked for again later, or
/// judged without a sample.
const QUEUE_MAX: usize = 2048;
/// Most that are sampled before the namespaces are entered again.
const BATCH: usize = 1024;

/// A sample of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The connection.
    pub id: ConnId,
    /// `None`: it has ended, or the kernel did not answer.
    pub counters: Option<Counters>,
}

/// What the kernel counts of a connection (`tcp_get_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// The kernel was asked at this instant; it answered later.
    pub asked: BootNs,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent, retransmissions not counted.
    pub bytes_out: u64,
    /// Data were last received at this instant or before; without any, the connection was established then (`lrcvtime`).
    pub received: BootNs,
    /// The same of data sent (`lsndtime`). Both are of one clock, in ticks of the kernel: not earlier than `received` means sent after, or in
    /// the same tick.
    pub sent: BootNs,
}

/// A connection to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The connection.
    pub id: ConnId,
    netns: NetNs,
    /// Its owner: leads to the network namespace.
    pid: Option<Pid>,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Question {
    /// Returns the question for this connection.
    pub fn of(conn: &ConnEvent) -> Self {
        Self {
            id: conn.id,
            netns: conn.netns,
            pid: conn.owner.process.as_ref().map(|owner| owner.pid),
            local: conn.local,
            remote: conn.remote,
        }
    }
}

/// Asks for samples.
#[derive(Clone, Debug)]
pub struct Sampler {
    queue: SyncSender<Question>,
}

impl Sampler {
    /// Returns a sampler whose questions somebody else answers.
    pub fn unanswered() -> (Self, Receiver<Question>) {
        let (queue, questions) = sync_channel(QUEUE_MAX);
        (Self { queue }, questions)
    }

    /// Asks for a sample of a connection. Never waits. Returns whether a sample will come.
    pub fn ask(&self, conn: &ConnEvent) -> bool {
        self.queue.try_send(Question::of(conn)).is_ok()
    }
}

/// Samples that were taken.
#[derive(Debug)]
pub struct Samples {
    taken: Receiver<Sample>,
    came: Arc<Notify>,
}

impl Samples {
    /// Starts the thread that takes samples, by this /proc. It ends when every [`Sampler`] is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(proc: impl Into<PathBuf>) -> io::Result<(Sampler, Self)> {
        let (sampler, questions) = Sampler::unanswered();
        // Not bounded: there are no more samples than questions, which are.
        let (sender, taken) = channel();
        let came = Arc::<Notify>::default();
        let worker = Worker { proc: proc.into(), samples: sender, came: Arc::clone(&came) };
        thread::Builder::new().name(THREAD.to_owned()).spawn(move || worker.run(&questions))?;
        Ok((sampler, Self { taken, came }))
    }

    /// Resolves when a sample has come since the last call. May be cancelled.
    pub async fn came(&self) {
        self.came.notified().await;
    }

    /// Returns the next sample that has come.
    pub fn next(&self) -> Option<Sample> {
        self.taken.try_recv().ok()
    }
}

struct Worker {
    proc: PathBuf,
    samples: Sender<Sample>,
    came: Arc<Notify>,
}

impl Worker {
    fn run(&self, questions: &Receiver<Question>) {
        while let Ok(first) = questions.recv() {
            let mut by_netns: BTreeMap<NetNs, Vec<Question>> = BTreeMap::new();
            for question in std::iter::once(first).chain(questions.try_iter().take(BATCH)) {
                by_netns.entry(question.netns).or_default().push(question);
            }
            for (netns, questions) in by_netns {
                // An open socket keeps its namespace alive: none is kept open.
                let mut netlink = open(&self.proc, netns, &questions);
                for question in questions {
                    let counters = netlink.as_mut().and_then(|netlink| sample(netlink, &question));
                    // Nobody may wait for it any more.
                    if self.samples.send(Sample { id: question.id, counters }).is_ok() {
                        self.came.notify_one();
                    }
                }
            }
        }
    }
}

/// Opens a netlink socket in a network namespace.
fn open(proc: &Path, netns: NetNs, questions: &[Question]) -> Option<Netlink> {
    let (namespace, is_own) =
        Namespace::of(proc, netns, questions.iter().filter_map(|question| question.pid));
    namespace.inside(is_own, THREAD, || Netlink::open(SOCK_DIAG)).ok()?.ok()
}

/// Asks the kernel for a sample. Of an MPTCP connection the kernel finds the subflow with these ends.
fn sample(netlink: &mut Netlink, question: &Question) -> Option<Counters> {
    let socket = sockdiag::find(netlink, question.local, question.remote, 0).ok().flatten()?;
    let info = socket.info.as_ref()?;
    let Traffic { bytes_in, bytes_out, .. } = traffic(TcpState::from_number(socket.state)?, info);
    let at = |ago_ms: u32| {
        let ago = u64::from(ago_ms) * 1_000_000;
        BootNs(socket.filled.to.0.saturating_sub(ago).saturating_add(TICK))
    };
    let (received, sent) = (at(info.last_data_recv_ms), at(info.last_data_sent_ms));
    Some(Counters { asked: socket.filled.from, bytes_in, bytes_out, received, sent })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::clock::boot_now;
    use crate::event::samples;

    fn conn(id: u64, socket: &TcpStream, netns: u32) -> ConnEvent {
        ConnEvent {
            id: ConnId(id),
            netns: NetNs(netns),
            local: socket.local_addr().expect("bound"),
            remote: socket.peer_addr().expect("connected"),
            ..samples::outgoing()
        }
    }

    async fn next(samples: &Samples) -> Sample {
        loop {
            if let Some(sample) = samples.next() {
                return sample;
            }
            samples.came().await;
        }
    }

    #[tokio::test]
    async fn of_a_real_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut out = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (mut accepted, _) = listener.accept().expect("accept");
        accepted.write_all(b"four").expect("write");
        out.read_exact(&mut [0; 4]).expect("read");
        out.write_all(b"seven77").expect("write");
        let netns = std::fs::metadata("/proc/self/ns/net").expect("stat").ino() as u32;
        let before = boot_now();
        let (sampler, samples) = Samples::start("/proc").expect("a thread");
        assert!(sampler.ask(&conn(1, &out, netns)));
        assert!(sampler.ask(&conn(2, &out, 1)), "a namespace that is not there");
        let (first, second) = (next(&samples).await, next(&samples).await);
        let (sample, other) = if first.id.0 == 1 { (first, second) } else { (second, first) };
        let counters = sample.counters.expect("an answer");
        assert_eq!((counters.bytes_in, counters.bytes_out), (4, 7));
        assert!(before <= counters.asked && counters.received <= counters.sent);
        assert!(counters.sent <= BootNs(boot_now().0 + TICK));
        assert_eq!(other, Sample { id: ConnId(2), counters: None });
    }
}
