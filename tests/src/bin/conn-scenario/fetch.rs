//! A client of its own process, for `conn run`: `fetch ADDRESS [daemon | code N | wait]`.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Connects, reads until the end. `daemon`: a grandchild does, whose parent has ended; this process waits for it. `code N`: then
/// exits with N. `wait`: then waits for a signal.
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
        _ => bail!("fetch ADDRESS [daemon | code N | wait]"),
    }
}

fn fetch(address: &str) -> Result<()> {
    let address: SocketAddr = address.parse().context("an address")?;
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.read_to_end(&mut Vec::new()).map(drop).context("read")
}
