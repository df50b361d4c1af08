//! Very many loopback connections in one process.

use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use conn_tests::truth::{Line, StormFact};

use crate::conn::bind_quiet;
use crate::facts::{emit, emit_me};
use crate::sys::{self, AcceptBy};

/// Destinations 127.0.0.1 to 127.0.0.250: with that many, neither ports nor TIME_WAIT entries run out.
const DESTINATIONS: u64 = 250;

/// What to do.
#[derive(Clone, Copy)]
pub(crate) struct Storm {
    pub(crate) connections: u64,
    pub(crate) threads: u64,
    pub(crate) payload: usize,
    /// After so many connections it waits; never with 0.
    pub(crate) burst: u64,
}

/// `storm N [--threads T] [--payload BYTES] [--wait] [--burst M]`; with `--wait` it begins after a line of input, with
/// `--burst` it says after each M connections that it is ready and waits for a line before the next.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut storm = Storm { connections: 0, threads: 1, payload: 0, burst: 0 };
    let mut args = args.iter();
    storm.connections = args.next().context("storm: how many?")?.parse().context("storm: a number")?;
    let mut wait = false;
    while let Some(flag) = args.next() {
        if flag == "--wait" {
            wait = true;
            continue;
        }
        let value = args.next().with_context(|| format!("{flag}: no value"))?;
        match flag.as_str() {
            "--threads" => storm.threads = value.parse().context("--threads")?,
            "--payload" => storm.payload = value.parse().context("--payload")?,
            "--burst" => storm.burst = value.parse().context("--burst")?,
            _ => bail!("storm: no such flag: {flag}"),
        }
    }
    ensure!(storm.threads > 0, "--threads 0");
    emit_me()?;
    if wait {
        wait_for_the_word()?;
    }
    emit(&Line::Storm(storm.blow()?))
}

fn wait_for_the_word() -> Result<()> {
    emit(&Line::Ready)?;
    std::io::stdin().lock().read_line(&mut String::new()).context("wait for the word to go on")?;
    Ok(())
}

impl Storm {
    /// Makes the connections, each one whole before the next of its thread.
    pub(crate) fn blow(self) -> Result<StormFact> {
        let listeners: Vec<_> = (0..self.threads).map(|_| listener()).collect::<Result<_>>()?;
        let port = listeners.first().map_or(0, |l| l.1);
        let burst = if self.burst == 0 { self.connections } else { self.burst };
        let (mut made, mut elapsed) = (0, Duration::ZERO);
        while made < self.connections {
            if made > 0 {
                wait_for_the_word()?;
            }
            let now = burst.min(self.connections - made);
            let started = Instant::now();
            self.gust(&listeners, made, now)?;
            elapsed += started.elapsed();
            made += now;
        }
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        Ok(StormFact {
            pid: std::process::id(),
            port,
            connections: self.connections,
            elapsed_ns,
            ns_per_connection: elapsed_ns / self.connections.max(1),
            payload: self.payload as u64,
        })
    }

    /// `count` connections by all threads, after `made` of them.
    fn gust(self, listeners: &[(OwnedFd, u16)], made: u64, count: u64) -> Result<()> {
        let share = |i: u64| count / self.threads + u64::from(i < count % self.threads);
        let made = made / self.threads;
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            // The first part is done here: with one thread there is no other at all.
            for (i, (fd, port)) in (0u64..).zip(listeners).skip(1) {
                workers.push(scope.spawn(move || self.part(fd, *port, made..made + share(i))));
            }
            let (fd, port) = listeners.first().context("no listener")?;
            self.part(fd, *port, made..made + share(0))?;
            workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    }

    fn part(self, listener: &OwnedFd, port: u16, numbers: Range<u64>) -> Result<()> {
        let request = vec![b'x'; self.payload];
        let mut buffer = vec![0; self.payload.max(1)];
        for i in numbers {
            let to = SocketAddr::new(destination(i), port);
            let client = sys::socket(false, false, 0).context("socket")?;
            sys::connect(&client, to).with_context(|| format!("connection {i} to {to}"))?;
            sys::send_all(&client, &request).context("send")?;
            let server = sys::accept(listener, AcceptBy::Accept4).context("accept")?;
            let mut got = 0;
            while got < self.payload {
                let n = sys::recv(&server, &mut buffer[got..]).context("recv")?;
                ensure!(n > 0, "connection {i} ended early");
                got += n;
            }
            // The client closes first: its FIN is there when the server closes.
            drop(client);
            drop(server);
        }
        Ok(())
    }
}

/// The destination of connection `i`.
pub(crate) fn destination(i: u64) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, (i % DESTINATIONS + 1) as u8))
}

fn listener() -> Result<(OwnedFd, u16)> {
    let fd = sys::socket(false, false, 0)?;
    let port = bind_quiet(&fd, IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
    sys::listen(&fd, 128).context("listen")?;
    Ok((fd, port))
}
