//! A client of its own process, for `conn run`: `fetch ADDRESS [daemon | code N | wait | unseen]`.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::sys::check;

/// Connections whose records are more than the smallest ring has room for.
const MANY: u32 = 500;

/// Connects, reads until the end. `daemon`: a grandchild does, whose parent has ended; this process waits for it. `code N`: then
/// exits with N. `wait`: then waits for a signal. `unseen`: does it very often while its parent is stopped.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (address, then) = args.split_first().context("an address is missing")?;
    let again = |last: &str| -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("own path")?);
        command.args(["fetch", address, last]).stdin(Stdio::null());
        Ok(command)
    };
    match *then {
        [] | ["once"] => fetch(address),
        ["daemon"] => {
            let mut middle = again("middle")?.stdout(Stdio::piped()).spawn().context("start")?;
            let mut pipe = middle.stdout.take().context("no stdout")?;
            middle.wait().context("wait")?;
            // Its end closes the pipe.
            pipe.read_to_end(&mut Vec::new()).map(drop).context("read")
        }
        ["middle"] => again("once")?.spawn().map(drop).context("start"),
        ["code", code] => {
            fetch(address)?;
            std::process::exit(code.parse().context("a code")?)
        }
        ["wait"] => {
            fetch(address)?;
            loop {
                std::thread::park();
            }
        }
        ["unseen"] => {
            signal_parent(libc::SIGSTOP)?;
            let fetched = (0..MANY).try_for_each(|_| fetch(address));
            signal_parent(libc::SIGCONT)?;
            fetched
        }
        _ => bail!("fetch ADDRESS [daemon | code N | wait | unseen]"),
    }
}

fn signal_parent(signal: i32) -> Result<()> {
    // SAFETY: neither passes pointers.
    check(unsafe { libc::kill(libc::getppid(), signal) }).map(drop).context("signal the parent")
}

fn fetch(address: &str) -> Result<()> {
    let address: SocketAddr = address.parse().context("an address")?;
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.read_to_end(&mut Vec::new()).map(drop).context("read")
}
