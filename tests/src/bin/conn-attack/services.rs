//! The other hosts: threads of this process in their namespace.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::net::{INNER, Network, OUTER};

/// Where the operator of the attacker's host waits for shells: C2 server ports.
const OPERATOR: [u16; 6] = [443, 1337, 4443, 8081, 8443, 9001];
/// Where the operator has one command run and stays ([`crate::run`]): of cases that run at once, two of one program need two.
const LASTING: [u16; 2] = [9002, 9003];
/// Where the external host answers requests over HTTP.
const HTTP: [u16; 2] = [80, 8080];
/// Where hosts accept whatever comes.
const SINK: [u16; 9] = [21, 22, 25, 389, 445, 3306, 5432, 6379, 9100];
/// What the operator types, with pauses.
const TYPED: [&[u8]; 3] = [b"id\n", b"uname -a; id\n", b"exit\n"];
/// Between two lines: longer than a shell takes to answer.
const PAUSE: Duration = Duration::from_millis(300);

/// Starts all of them.
///
/// # Errors
/// A port cannot be bound.
pub(crate) fn start(network: &Network) -> Result<()> {
    thread::scope(|scope| {
        // A thread of its own enters the namespace; threads that it starts are there too.
        scope.spawn(|| listen_all(network)).join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })
}

fn listen_all(network: &Network) -> Result<()> {
    network.join_others()?;
    for port in OPERATOR {
        listen(OUTER, port, operate)?;
    }
    for port in LASTING {
        listen(OUTER, port, stay)?;
    }
    for port in HTTP {
        listen(OUTER, port, answer)?;
        listen(INNER, port, answer)?;
    }
    for port in SINK {
        listen(OUTER, port, swallow)?;
        listen(INNER, port, swallow)?;
    }
    Ok(())
}

fn listen(address: &str, port: u16, serve: fn(TcpStream) -> std::io::Result<()>) -> Result<()> {
    let listener =
        TcpListener::bind((address, port)).with_context(|| format!("listen at {address}:{port}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is its own affair.
            thread::spawn(move || serve(stream));
        }
    });
    Ok(())
}

/// Types commands, and reads until the other side closes.
fn operate(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = stream.try_clone()?;
    let read = thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    for line in TYPED {
        thread::sleep(PAUSE);
        stream.write_all(line)?;
    }
    // Tools that wait for the other side end too.
    thread::sleep(PAUSE);
    stream.shutdown(Shutdown::Write)?;
    let _ = read.join();
    Ok(())
}

/// Has the shell make the file that says that it obeys, and reads until the other side closes.
fn stay(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"id; : >ready\n")?;
    swallow(stream)
}

/// Answers requests with a command, as a C2 server over HTTP does, until the other side closes or asks for that.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 8192];
    let mut goes_on = true;
    while goes_on {
        let length = stream.read(&mut request)?;
        let request = String::from_utf8_lossy(&request[..length]).to_ascii_lowercase();
        goes_on = length > 0 && !request.contains("http/1.0") && !request.contains("connection: close");
        if length == 0 {
            break;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\nid\n")?;
    }
    Ok(())
}

fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
}
