//! Very many connections that stay open, in as many processes as the limit on descriptors asks for.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use conn_tests::truth::Line;

use crate::conn::bind_quiet;
use crate::facts::{emit, emit_me};
use crate::storm::destination;
use crate::sys::{self, AcceptBy};

/// A process that holds a part of them.
pub(crate) const PART: &str = "many-part";

/// Connections of one process: two descriptors each, and few systems allow less than this.
const EACH: u64 = 4_000;

/// `many N`: N open ends, two a connection. Says when they are there; ends them after a line of input.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let [count] = args else { bail!("many: how many?") };
    let mut left = count.parse::<u64>().context("many: a number")? / 2;
    emit_me()?;
    let mut parts = Vec::new();
    while left > 0 {
        let these = left.min(EACH);
        left -= these;
        parts.push(start(these)?);
    }
    emit(&Line::Ready)?;
    std::io::stdin().lock().read_line(&mut String::new()).context("wait for the word to end")?;
    for mut part in parts {
        drop(part.stdin.take());
        let status = part.wait().context("wait for a part")?;
        ensure!(status.success(), "a part: {status}");
    }
    Ok(())
}

/// A process with so many connections, when they are there.
fn start(connections: u64) -> Result<Child> {
    let mut part = Command::new("/proc/self/exe")
        .args([PART, &connections.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start a part")?;
    let said = part.stdout.take().context("no stdout")?;
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line).context("a part")?;
    ensure!(!line.is_empty(), "a part ended early");
    Ok(part)
}

/// `many-part N`: N connections to itself, until its input ends.
pub(crate) fn part(args: &[String]) -> Result<()> {
    let count: u64 = args.first().context("how many?")?.parse().context("a number")?;
    sys::raise_descriptor_limit(2 * count + 64).context("the limit on descriptors")?;
    let listener = sys::socket(false, false, 0)?;
    let port = bind_quiet(&listener, IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
    sys::listen(&listener, 128).context("listen")?;
    let mut open = Vec::new();
    for i in 0..count {
        let to = SocketAddr::new(destination(i), port);
        let client = sys::socket(false, false, 0).context("socket")?;
        sys::connect(&client, to).with_context(|| format!("connection {i} to {to}"))?;
        open.push((client, sys::accept(&listener, AcceptBy::Accept4).context("accept")?));
    }
    emit(&Line::Ready)?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait").map(drop)
}
