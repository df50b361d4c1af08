//! `conn list` against what the kernel says of the sockets: here without ss, so also where there is none.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use conn_tests::against_ss::{Ends, Report, against};
use conn_tests::kernel_sockets::Witness;
use conn_tests::truth::Line;

use crate::settings;
use crate::workload::Workload;

/// Open ends of the workload: two a connection, all in one process of its own.
const OPEN: usize = 200;

/// A listener and connections to it in every state that stays: established, half closed, in the accept queue.
struct Pairs {
    listener: TcpListener,
    open: Vec<TcpStream>,
}

impl Pairs {
    fn new(at: &str) -> Result<Self> {
        let listener = TcpListener::bind(at).with_context(|| format!("listen on {at}"))?;
        let mut to = listener.local_addr().context("own address")?;
        if to.ip().is_unspecified() {
            // A dual-stack listener has IPv4-mapped peers.
            to.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let mut open = Vec::new();
        for shut in [None, Some(Shutdown::Write)] {
            let client = TcpStream::connect(to).context("connect")?;
            open.push(listener.accept().context("accept")?.0);
            shut.map_or(Ok(()), |how| client.shutdown(how)).context("shut down")?;
            open.push(client);
        }
        open.push(TcpStream::connect(to).context("connect")?);
        Ok(Self { listener, open })
    }

    /// The sockets that the kernel shows of it: the listener, the open ones, and the one that waits to be accepted.
    fn sockets(&self) -> usize {
        self.open.len() + 2
    }

    fn port(&self) -> Result<u16> {
        Ok(self.listener.local_addr().context("own address")?.port())
    }
}

/// The same sockets, in the same states, of the same users, inodes and processes.
pub(crate) fn equals_proc() -> Result<()> {
    let pairs =
        ["127.0.0.1:0", "[::1]:0", "[::]:0"].map(Pairs::new).into_iter().collect::<Result<Vec<_>>>()?;
    let ports = pairs.iter().map(Pairs::port).collect::<Result<Vec<_>>>()?;
    let has_port = |end: SocketAddr| ports.contains(&end.port());
    let is_ours = |ends: &Ends| has_port(ends.local) || ends.remote.is_some_and(has_port);
    settle(is_ours)?;
    let report = look(is_ours)?;
    let least = pairs.iter().map(Pairs::sockets).sum();
    agrees(&report, least).context("our own sockets")?;

    // Held by another process, which the list has to find.
    let mut workload = Workload::start(&["many", &OPEN.to_string()])?;
    workload.ready()?;
    // Others on this machine open and close theirs meanwhile; these stay.
    let ports = ports_of_parts(workload.pid())?;
    let has_port = |end: SocketAddr| ports.contains(&end.port());
    let report = look(|ends| has_port(ends.local) || ends.remote.is_some_and(has_port))?;
    agrees(&report, OPEN + 1).context("the workload's sockets")?;
    workload.go()?;
    let lines = workload.finish()?;
    ensure!(lines.contains(&Line::Ready), "the workload was never ready");
    Ok(())
}

/// Waits until the sockets are in a state that stays: the peer acknowledges a FIN when it likes (`tcp_send_delayed_ack`).
fn settle(is_of_interest: impl Fn(&Ends) -> bool) -> Result<()> {
    let deadline = Instant::now() + settings::seconds(20);
    loop {
        let sockets = Witness::Proc.look()?;
        let mut ours = sockets.iter().filter(|(ends, _)| is_of_interest(ends)).flat_map(|(_, facts)| facts);
        let Some(moving) = ours.find(|facts| facts.state == "FIN-WAIT-1" || facts.state == "SYN-RECV") else {
            return Ok(());
        };
        ensure!(Instant::now() < deadline, "a socket does not settle: {moving:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The ports at which the parts of `many`, its children, listen.
fn ports_of_parts(many: u32) -> Result<Vec<u16>> {
    let path = format!("/proc/{many}/task/{many}/children");
    let parts = std::fs::read_to_string(&path).context(path)?;
    let parts = parts.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let sockets = Witness::Proc.look()?;
    let listeners = sockets.iter().filter(|(ends, _)| ends.remote.is_none());
    let own =
        listeners.filter(|(_, facts)| facts.iter().any(|of| parts.iter().any(|pid| of.pids.contains(pid))));
    let ports: Vec<u16> = own.map(|(ends, _)| ends.local.port()).collect();
    ensure!(!ports.is_empty(), "the parts {parts:?} listen nowhere");
    Ok(ports)
}

fn look(is_of_interest: impl Fn(&Ends) -> bool) -> Result<Report> {
    against(|| Witness::Proc.look(), &settings::conn()?, &["-a"], is_of_interest)
}

fn agrees(report: &Report, least: usize) -> Result<()> {
    ensure!(report.wrong.is_empty(), "{} differ: {:#?}", report.wrong.len(), report.wrong);
    ensure!(report.same >= least, "{} of {least} sockets were seen: {report:?}", report.same);
    Ok(())
}
