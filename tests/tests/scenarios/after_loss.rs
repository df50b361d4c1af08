//! After a loss: `conn list`, and the sockets that a running agent takes for open, are those of the kernel, entry by entry.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use conn_tests::against_ss::{Ends, against, own_netns};
use conn_tests::event::Event;
use conn_tests::kernel_sockets::Witness;
use conn_tests::open::{Open, by_events, by_kernel, differences};
use conn_tests::truth::Line;

use crate::agent::{Agent, Output};
use crate::settings;
use crate::workload::Workload;

/// Losses, one after the other: what the first repair found is there in the second.
const ROUNDS: usize = 2;
/// Connections of each storm: some twenty times what the ring holds.
const CONNECTIONS: u64 = 2_000;
/// Connections on each listener that begin in each loss; as many end.
const PAIRS: usize = 5;
/// Most connections that are made beside a repair.
const BESIDE: usize = 5_000;
/// Of those, one in so many stays open.
const STAYS: usize = 50;
/// Between two of them, so that most of their records find room.
const PAUSE: Duration = Duration::from_micros(200);
/// Between two comparisons.
const AGAIN: Duration = Duration::from_millis(50);

/// The sockets of this process.
#[derive(Default)]
struct Own {
    /// Of IPv4, of IPv6, and of both.
    listeners: Vec<TcpListener>,
    /// Client and server.
    pairs: Vec<[TcpStream; 2]>,
    /// Nobody accepts from it but at the end of a round.
    lazy: Option<TcpListener>,
    /// What waits there.
    waiting: Vec<TcpStream>,
    /// Where anything of the test listens or has listened.
    ports: BTreeSet<u16>,
}

impl Own {
    fn listen(&mut self, address: &str) -> Result<TcpListener> {
        let listener = TcpListener::bind(address).with_context(|| format!("listening at {address}"))?;
        self.ports.insert(listener.local_addr()?.port());
        Ok(listener)
    }

    fn start() -> Result<Self> {
        let mut own = Self::default();
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = own.listen(address)?;
            own.listeners.push(listener);
        }
        own.lazy = Some(own.listen("127.0.0.1:0")?);
        own.open_pairs()?;
        Ok(own)
    }

    fn open_pairs(&mut self) -> Result<()> {
        for listener in &self.listeners {
            for _ in 0..PAIRS {
                self.pairs.push(pair(listener)?);
            }
        }
        Ok(())
    }

    /// What happens while the agent sees nothing.
    fn change(&mut self) -> Result<()> {
        // Half of what came before, so that each loss ends what began before it and what began in the last one.
        let mut nth = 0;
        self.pairs.retain(|_| {
            nth += 1;
            nth % 2 == 0
        });
        if let Some([client, _]) = self.pairs.first() {
            client.shutdown(Shutdown::Write).context("shutting down")?;
        }
        self.open_pairs()?;
        // The last listener goes, its connections stay; another one comes.
        self.listeners.pop();
        let listener = self.listen("[::]:0")?;
        self.listeners.push(listener);
        let lazy = self.lazy.as_ref().context("no listener")?;
        self.waiting.push(TcpStream::connect(lazy.local_addr()?)?);
        Ok(())
    }

    /// Takes what waited in the loss.
    fn accept_waiting(&mut self) -> Result<()> {
        let lazy = self.lazy.as_ref().context("no listener")?;
        for client in self.waiting.drain(..) {
            self.pairs.push([client, lazy.accept()?.0]);
        }
        Ok(())
    }

    /// Makes connections until it is reported to stop; some stay.
    fn make(&mut self, stop: &AtomicBool) -> Result<()> {
        let listener = self.listeners.first().context("no listener")?;
        for nth in 0..BESIDE {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let pair = pair(listener)?;
            if nth % STAYS == 0 {
                self.pairs.push(pair);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn is_ours(&self, ends: &Ends) -> bool {
        let is = |end: SocketAddr| self.ports.contains(&end.port());
        is(ends.local) || ends.remote.is_some_and(is)
    }

    /// Those that somebody holds.
    fn open(&self, witness: Witness) -> Result<Vec<Open>> {
        let mut sockets = witness.look()?;
        sockets.retain(|ends, _| self.is_ours(ends));
        Ok(by_kernel(&sockets))
    }

    /// What the agent takes for open.
    fn reported(&self, events: &[Event]) -> Result<Vec<Open>> {
        let mut reported = by_events(events, own_netns()?);
        reported.retain(|open| self.is_ours(&open.ends));
        Ok(reported)
    }
}

/// A connection of this process with itself.
fn pair(listener: &TcpListener) -> Result<[TcpStream; 2]> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        // By IPv4 to a listener of IPv6: the addresses are mapped.
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let client = TcpStream::connect(address)?;
    Ok([client, listener.accept()?.0])
}

/// Stops the agent and makes it lose the records of a storm and of what happens after it.
fn lose(agent: &Agent, own: &mut Own) -> Result<()> {
    let mut storm = Workload::start(&["storm", &CONNECTIONS.to_string(), "--wait"])?;
    storm.ready()?;
    agent.signal(libc::SIGSTOP)?;
    storm.go()?;
    for line in storm.finish()? {
        if let Line::Storm(storm) = line {
            own.ports.insert(storm.port);
        }
    }
    own.change()
}

/// Lets the agent go on. While it repairs its table, connections come and go.
fn repair(agent: &Agent, own: &mut Own, mark: usize) -> Result<()> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let making = scope.spawn(|| own.make(&stop));
        let repaired = agent.signal(libc::SIGCONT).and_then(|()| {
            agent.wait_for(mark, "what it found after the loss", |event| {
                event.source.as_deref() == Some("resync")
            })
        });
        stop.store(true, Ordering::Relaxed);
        making.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        repaired
    })
}

/// How long it took until it was so.
#[derive(Debug)]
#[expect(dead_code, reason = "for people, who read it as it is shown")]
struct Took {
    /// After the storm, until the attempt that succeeded began.
    asked: Duration,
    /// Until it was answered.
    answered: Duration,
    attempts: u32,
}

/// Tries until it is so.
fn at_last(over: Instant, mut is: impl FnMut() -> Result<Result<(), String>>) -> Result<Took> {
    let limit = settings::seconds(60);
    for attempts in 1.. {
        let asked = over.elapsed();
        match is()? {
            Ok(()) => return Ok(Took { asked, answered: over.elapsed(), attempts }),
            Err(wrong) if over.elapsed() > limit => bail!("still after {limit:?}: {wrong}"),
            Err(_) => std::thread::sleep(AGAIN),
        }
    }
    bail!("too many attempts")
}

/// Every socket of our network namespace, of whomever.
fn list_is_right(witness: Witness, least: usize) -> Result<Result<(), String>> {
    let report = against(|| witness.look(), &settings::conn()?, &["-a"], |_| true)?;
    let good = report.wrong.is_empty() && report.same >= least;
    Ok(if good { Ok(()) } else { Err(format!("conn list, {least} to be the same: {report:?}")) })
}

fn table_is_right(agent: &Agent, own: &Own, witness: Witness) -> Result<Result<(), String>> {
    let events = agent.since(0);
    Ok(same(&own.reported(&events)?, &without_the_unknown(own.open(witness)?, &events)))
}

/// Of a connection whose connect was lost and whose establishment was not, the agent says that its owner is unknown, until
/// it ends; it must have reported it as such.
fn without_the_unknown(open: Vec<Open>, events: &[Event]) -> Vec<Open> {
    let is_so = |event: &&Event| {
        event.kind == "established" && event.source.as_deref() == Some("late") && event.process.is_none()
    };
    let ends = |event: &Event| Some(Ends { local: event.local()?, remote: event.remote() });
    let unknown: BTreeSet<Ends> = events.iter().filter(is_so).filter_map(ends).collect();
    let shown = |open: Open| if unknown.contains(&open.ends) { Open { pid: None, ..open } } else { open };
    open.into_iter().map(shown).collect()
}

fn same(reported: &[Open], open: &[Open]) -> Result<(), String> {
    let (only_reported, only_true) = differences(reported, open);
    if only_reported.is_empty() && only_true.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} reported, {} open\n  only reported: {only_reported:?}\n  only open: {only_true:?}",
        reported.len(),
        open.len()
    ))
}

/// Both at the same time: how long each takes counts from the end of the storm.
fn is_right_again(round: usize, agent: &Agent, own: &Own, witnesses: &[Witness]) -> Result<()> {
    let over = Instant::now();
    let backend = agent.backend.name();
    let table = || {
        for &witness in witnesses {
            let took = at_last(over, || table_is_right(agent, own, witness)).context("the agent's table")?;
            eprintln!(
                "loss {round}, backend {backend}: the agent's table is that of {}: {took:?}",
                witness.name()
            );
        }
        Ok(())
    };
    let list = || {
        for &witness in witnesses {
            let least = own.open(witness)?.len();
            let took = at_last(over, || list_is_right(witness, least)).context("conn list")?;
            eprintln!(
                "loss {round}: conn list is that of {}: {took:?}, {least} sockets of ours",
                witness.name()
            );
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let table = scope.spawn(table);
        let listed: Result<()> = list();
        table.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?.and(listed)
    })
}

/// `conn list` at once after the storm, and the table of the agent that lost records, once it is repaired, equal what the
/// kernel says. How long that took is reported, and no assertion: it depends on the machine.
pub(crate) fn equals_the_kernel() -> Result<()> {
    let witnesses = Witness::here();
    let agent = Agent::start_with(&["--ring-size", "64K", "--no-self-test"], Output::Events)?;
    let mut own = Own::start()?;
    at_last(Instant::now(), || table_is_right(&agent, &own, Witness::Proc)).context("before any loss")?;
    for round in 1..=ROUNDS {
        let mark = agent.mark();
        lose(&agent, &mut own)?;
        repair(&agent, &mut own, mark)?;
        is_right_again(round, &agent, &own, &witnesses)?;
        own.accept_waiting()?;
        at_last(Instant::now(), || table_is_right(&agent, &own, Witness::Proc)).context("what waited")?;
    }
    if !witnesses.contains(&Witness::Ss) {
        eprintln!("after loss: compared with {} alone; ss is not installed", Witness::Proc.name());
    }
    let ended = agent.stop()?;
    // Nothing came later that was wrong.
    same(&own.reported(&ended.events)?, &without_the_unknown(own.open(Witness::Proc)?, &ended.events))
        .map_err(anyhow::Error::msg)
        .context("at the end")?;
    let totals = ended.totals()?;
    ensure!(totals.lost > 0, "nothing was lost");
    ensure!(totals.repairs >= ROUNDS as u64, "{} repairs after {ROUNDS} losses", totals.repairs);
    Ok(())
}
