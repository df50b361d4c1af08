//! Who opens, accepts and closes, when it is not simply one process from beginning to end.

use anyhow::{Context, Result, anyhow};
use conn_tests::truth::{Dir, End, Line, ProcessFact};

use crate::conn::{By, Conn, Listener, Summary, V4, sock_fact};
use crate::facts::{emit, emit_me, me};
use crate::process::{Pipe, fork, two};
use crate::sys::{self, boot_ns, check};

/// A server's part when the client closes first.
fn until_end(mut conn: Conn, _: &Pipe) -> Result<()> {
    conn.recv(3)?;
    conn.recv_end()?;
    conn.close(End::PeerFin)
}

pub(super) fn passed_fd() -> Result<()> {
    let receiver = fork(|pipe| {
        let fd = sys::recv_fd(pipe.raw())?;
        let sock = sock_fact(sys::local(&fd)?, Some(sys::peer(&fd)?), false)?;
        pipe.sync()?;
        // The opener has closed its descriptor: this one is the last.
        let from = boot_ns();
        drop(fd);
        Summary { sock, dir: Dir::Out, sent: 3, received: 0, early: None }.ended(End::LocalFin, By::Me, from)
    })?;
    let client = |mut conn: Conn, _: &Pipe| {
        conn.send(3)?;
        sys::send_fd(receiver.pipe.raw(), &conn.fd)?;
        let _ = conn.close_silently();
        receiver.pipe.sync()
    };
    two(V4, until_end, client)?;
    receiver.join()
}

pub(super) fn inherited() -> Result<()> {
    let server = |mut conn: Conn, pipe: &Pipe| {
        conn.recv(3)?;
        let child = fork(|to_parent| {
            to_parent.sync()?;
            conn.recv_end()?;
            conn.close(End::PeerFin)
        })?;
        // `fork` moved the connection into the child's closure: this process has dropped its descriptor with it.
        child.pipe.sync()?;
        pipe.sync()?;
        child.join()
    };
    let client = |mut conn: Conn, pipe: &Pipe| {
        conn.send(3)?;
        let child = fork(|to_parent| {
            to_parent.sync()?;
            conn.close(End::LocalFin)
        })?;
        pipe.sync()?;
        child.pipe.sync()?;
        child.join()
    };
    two(V4, server, client)
}

pub(super) fn thread_close() -> Result<()> {
    let client = |mut conn: Conn, _: &Pipe| {
        conn.send(3)?;
        in_thread("closer", move || conn.close(End::LocalFin))
    };
    two(V4, until_end, client)
}

pub(super) fn thread_accept() -> Result<()> {
    let child = fork(|pipe| {
        let listener = Listener::new(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        let conn = in_thread("acceptor", || listener.accept())?;
        until_end(conn, pipe)?;
        in_thread("unlistener", || listener.close())
    })?;
    let mut conn = Conn::connect((V4, child.pipe.hear_port()?).into())?;
    conn.send(3)?;
    conn.close(End::LocalFin)?;
    child.join()
}

pub(super) fn thread_name() -> Result<()> {
    let child = fork(|pipe| {
        let listener = in_thread("listening", || Listener::new(V4))?;
        pipe.emit(u64::from(listener.port()))?;
        until_end(listener.accept()?, pipe)?;
        listener.close()
    })?;
    let to = (V4, child.pipe.hear_port()?).into();
    in_thread("not-the-leader", move || {
        let mut conn = Conn::connect(to)?;
        conn.send(3)?;
        conn.close(End::LocalFin)
    })?;
    child.join()
}

fn in_thread<T: Send>(name: &str, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, body);
        thread.context("start a thread")?.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

pub(super) fn renamed() -> Result<()> {
    let child = fork(|pipe| {
        let listener = Listener::new(V4)?;
        pipe.emit(u64::from(listener.port()))?;
        until_end(listener.accept()?, pipe)?;
        until_end(listener.accept()?, pipe)?;
        listener.close()
    })?;
    let to = (V4, child.pipe.hear_port()?).into();
    for name in [c"first name", c"second\x1b[31m"] {
        sys::set_name(name)?;
        emit_me()?;
        let mut conn = Conn::connect(to)?;
        conn.send(3)?;
        conn.close(End::LocalFin)?;
    }
    child.join()
}

/// `nobody` on every distribution.
const NOBODY: u32 = 65_534;

pub(super) fn setuid() -> Result<()> {
    let child = fork(|pipe| {
        let before = me()?;
        // SAFETY: no pointers are passed.
        check(unsafe { libc::setgid(NOBODY) }).context("setgid")?;
        // SAFETY: no pointers are passed.
        check(unsafe { libc::setuid(NOBODY) }).context("setuid")?;
        let after = ProcessFact { uid: NOBODY, gid: NOBODY, from_ns: boot_ns(), ..before };
        emit(&Line::Process(after))?;
        let mut conn = Conn::connect((V4, pipe.hear_port()?).into())?;
        conn.send(3)?;
        conn.close(End::LocalFin)
    })?;
    let listener = Listener::new(V4)?;
    child.pipe.emit(u64::from(listener.port()))?;
    until_end(listener.accept()?, &child.pipe)?;
    listener.close()?;
    child.join()
}

pub(super) fn killed() -> Result<()> {
    let listener = Listener::new(V4)?;
    let to = (V4, listener.port()).into();
    let child = fork(move |pipe| {
        let mut conns = Vec::new();
        for _ in 0..3 {
            let mut conn = Conn::connect(to)?;
            conn.send(3)?;
            conns.push(conn);
        }
        pipe.sync()?;
        pipe.hear().map(drop)
    })?;
    let mut ends = Vec::new();
    for _ in 0..3 {
        let mut conn = listener.accept()?;
        conn.recv(3)?;
        ends.push(conn);
    }
    child.pipe.sync()?;
    let (from, pid) = (boot_ns(), child.pid);
    child.kill()?;
    for mut conn in ends {
        let sock = crate::conn::other_end(&conn.sock, false)?;
        Summary { sock, dir: Dir::Out, sent: 3, received: 0, early: None }.ended(
            End::LocalFin,
            By::Process(pid),
            from,
        )?;
        conn.recv_end()?;
        conn.close(End::PeerFin)?;
    }
    listener.close()
}
