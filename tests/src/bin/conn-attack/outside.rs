//! `conn-attack outside NAMESPACE PORT LINE...`: the attacker's side of bind shells and web shells.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::net::{self, HOST_ADDRESS};

/// How long a listener may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two lines.
const PAUSE: Duration = Duration::from_millis(300);

/// Connects from the external host, sends each line, and prints what comes back until the other side closes or is silent for three
/// pauses.
pub(crate) fn visit(words: &[String]) -> Result<()> {
    let [others, port, lines @ ..] = words else { bail!("usage: outside NAMESPACE PORT LINE...") };
    let port: u16 = port.parse().context("PORT is a number")?;
    let others = net::open(others)?;
    net::enter(others.as_raw_fd())().context("enter the other hosts")?;
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(PAUSE)).context("a timeout")?;
    for line in lines {
        stream.write_all(format!("{line}\n").as_bytes()).context("send")?;
        std::thread::sleep(PAUSE);
    }
    let (mut buffer, mut silent) = ([0; 4096], 0);
    while silent < 3 {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => std::io::stdout().write_all(&buffer[..length]).context("print")?,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => silent += 1,
            Err(_) => break,
        }
    }
    Ok(())
}

fn connect(port: u16) -> Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((HOST_ADDRESS, port)) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => return Err(error).context("connect"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
