use super::*;

fn pipe(inode: u64, writer: (u32, u32), reader: (u32, u32)) -> [End; 2] {
    both(Channel::Pipe(inode), writer, reader)
}

fn both(channel: Channel, writer: (u32, u32), reader: (u32, u32)) -> [End; 2] {
    [
        End { channel, writes: true, pid: writer.0, fd: writer.1 },
        End { channel, writes: false, pid: reader.0, fd: reader.1 },
    ]
}

fn terminal(number: u32, master: (u32, u32), slave: u32) -> Vec<End> {
    let mut ends = Ends::default();
    for fd in 0..3 {
        ends.terminal(number, slave, fd);
    }
    ends.push(Channel::ToTerminal(number), true, master.0, master.1);
    ends.push(Channel::FromTerminal(number), false, master.0, master.1);
    ends.0
}

fn of(ends: impl IntoIterator<Item = End>, parents: &[(u32, u32)]) -> Vec<(u32, Vec<u32>)> {
    let parent = |pid| parents.iter().find(|(child, _)| *child == pid).map_or(0, |(_, parent)| *parent);
    let found = peers(ends.into_iter().collect(), parent);
    found.into_iter().map(|(pid, peers)| (pid, peers.to_vec())).collect()
}

#[test]
fn a_shell_with_two_pipes_of_its_parent() {
    let ends = [pipe(1, (10, 5), (11, 0)), pipe(2, (11, 1), (10, 6))];
    assert_eq!(of(ends.concat(), &[]), [(11, vec![10])]);
}

/// `cat fifo | sh -i 2>&1 | nc >fifo`
#[test]
fn a_loop_over_a_fifo() {
    let (cat, sh, nc) = (10, 11, 12);
    let fifo = both(Channel::Fifo(8, 77), (nc, 1), (cat, 3));
    let ends = [fifo, pipe(1, (cat, 1), (sh, 0)), pipe(2, (sh, 1), (nc, 0))];
    let found = of(ends.concat(), &[]);
    assert!(found.contains(&(sh, vec![cat, nc])), "{found:?}");
    assert!(found.contains(&(nc, vec![cat, sh])), "a loop has no beginning: {found:?}");
}

#[test]
fn what_flows_one_way_is_none() {
    // curl | sh
    assert_eq!(of(pipe(1, (10, 1), (11, 0)), &[]), []);
    // A command whose output is captured, and whose input is its own.
    assert_eq!(of(pipe(1, (11, 1), (10, 5)), &[]), []);
    // Pipes on other descriptors are no input.
    assert_eq!(of([pipe(1, (10, 5), (11, 3)), pipe(2, (11, 4), (10, 6))].concat(), &[]), []);
}

#[test]
fn a_terminal_is_that_of_an_ancestor() {
    let ends = terminal(0, (10, 4), 12);
    assert_eq!(of(ends.clone(), &[(12, 11), (11, 10)]), [(12, vec![10])]);
    assert_eq!(of(ends, &[(12, 1)]), [], "the terminal 0 of another container");
}

#[test]
fn a_socket_pair() {
    let mut ends = Ends::default();
    let holders = |inode| match inode {
        50 => vec![(10, 7)].into_iter(),
        51 => vec![(11, 0), (11, 1)].into_iter(),
        _ => Vec::new().into_iter(),
    };
    ends.note_pairs(&[(50, 51), (51, 50), (60, 0)], holders);
    assert_eq!(of(ends.0, &[]), [(11, vec![10])]);
}

/// The output of a thousand programs in one log, and a log that writes to all.
#[test]
fn a_hub_connects_nobody() {
    let mut ends = Vec::new();
    for pid in 10..90 {
        ends.push(End { channel: Channel::Pipe(1), writes: true, pid, fd: 1 });
        ends.push(End { channel: Channel::Pipe(2), writes: false, pid, fd: 0 });
    }
    ends.push(End { channel: Channel::Pipe(1), writes: false, pid: 5, fd: 3 });
    ends.push(End { channel: Channel::Pipe(2), writes: true, pid: 5, fd: 4 });
    assert_eq!(of(ends, &[]), []);
}
