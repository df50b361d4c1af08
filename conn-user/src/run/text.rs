//! The report for people. Names are escaped.

use super::report::{Report, Verdict, error, text_of, who};
use super::seen::Program;
use crate::event::address::write_ip;
use crate::event::fold::fold;
use crate::event::words::{Words, direction};
use crate::event::{escape, human};
use crate::process::info::ExitStatus;
use crate::sockets::table::{self, Column, Row};

const COLUMNS: [Column; 10] = [
    Column { title: "DIR", right: false, spare: 0 },
    Column { title: "PROGRAM", right: false, spare: 0 },
    Column { title: "ADDRESS", right: false, spare: 0 },
    Column { title: "PORT", right: true, spare: 0 },
    Column { title: "COUNT", right: true, spare: 0 },
    Column { title: "FAILED", right: true, spare: 0 },
    Column { title: "OPEN", right: true, spare: 0 },
    Column { title: "IN", right: true, spare: 1 },
    Column { title: "OUT", right: true, spare: 2 },
    Column { title: "ERROR", right: false, spare: 0 },
];
/// The column of the program.
const PROGRAM: usize = 1;

/// Writes a report: the table, then what is wrong, then the verdict. `width`: columns of the terminal;
/// `None`: nothing is folded.
pub fn write(report: &Report, width: Option<usize>, out: &mut Vec<u8>) {
    write_table(rows(report), width, out);
    let mut line = |text: String| fold(&format!("conn: {text}\n"), width, out);
    for unexpected in &report.unexpected {
        let suppress = unexpected.alert.suppress.as_deref();
        let suppress = suppress
            .map(|words| format!("; suppress: {}", escape::string(words.as_bytes())))
            .unwrap_or_default();
        line(format!("unexpected: {} ({}{suppress})", unexpected.what(), unexpected.rule()));
    }
    if report.more_unexpected > 0 {
        line(format!("unexpected: {} more", report.more_unexpected));
    }
    for missing in report.missing() {
        let lost = if report.loss.is_none() { "" } else { "; records were lost, it may have been there" };
        line(format!("missing: {} ({}{lost})", missing.what(), missing.rule_line()));
    }
    for process in &report.survivors {
        let mut words = Words::default();
        who(process, &mut words);
        line(format!("still running: {}", text_of(&words)));
    }
    for (count, what) in [
        (report.loss.records, "records lost while it ran (a larger --ring-size may help)"),
        (report.loss.not_followed, "not followed or not judged: limit reached"),
    ] {
        if count > 0 {
            line(format!("warning: not everything was seen; {what}: {count}"));
        }
    }
    line(summary(report));
}

/// Where the terminal has no room for it the program goes below its row.
fn write_table(mut rows: Vec<Row<10>>, width: Option<usize>, out: &mut Vec<u8>) {
    let mut columns = COLUMNS;
    let widest = |at: usize, title: &str| {
        let widest = rows.iter().map(|row| row.cells[at].columns).max().unwrap_or(0);
        if widest > 0 { widest.max(title.len()) + 2 } else { 0 }
    };
    let needed: usize = columns.iter().enumerate().map(|(at, column)| widest(at, column.title)).sum();
    if width.is_some_and(|width| needed > width + 2) {
        columns[PROGRAM..].rotate_left(1);
        for row in &mut rows {
            row.cells[PROGRAM..].rotate_left(1);
        }
    }
    table::write(&columns, &rows, true, width, out);
}

fn rows(report: &Report) -> Vec<Row<10>> {
    let listeners = report.listeners.iter().map(|row| {
        let mut cells: [Words; 10] = Default::default();
        cells[0].text("listen");
        program(&row.program, &mut cells[1]);
        cells[2].with(|out| write_ip(row.local.ip(), out));
        port(row.local.port(), &mut cells[3]);
        cells[4].number(row.count);
        count(row.open, &mut cells[6]);
        Row { cells, color: None }
    });
    let connections = report.connections.iter().map(|row| {
        let mut cells: [Words; 10] = Default::default();
        cells[0].text(direction(Some(row.path.direction)));
        program(&row.path.program, &mut cells[1]);
        cells[2].with(|out| write_ip(row.path.remote, out));
        port(row.path.port, &mut cells[3]);
        cells[4].number(row.count);
        count(row.failed, &mut cells[5]);
        count(row.open, &mut cells[6]);
        // Only those that were closed have reported their traffic.
        if row.count > row.failed + row.open {
            cells[7].with(|out| human::write_bytes(row.bytes_in, out));
            cells[8].with(|out| human::write_bytes(row.bytes_out, out));
        }
        if let Some(errno) = row.errno {
            cells[9].text(&error(errno));
        }
        Row { cells, color: None }
    });
    listeners.chain(connections).collect()
}

fn program(program: &Program, cell: &mut Words) {
    if program.name.is_empty() {
        cell.text("?");
    } else {
        cell.word(&program.name);
    }
}

fn port(port: u16, cell: &mut Words) {
    match port {
        0 => cell.text("?"),
        port => cell.number(port),
    }
}

fn count(count: u64, cell: &mut Words) {
    if count > 0 {
        cell.number(count);
    }
}

/// How it ended, and the verdict.
fn summary(report: &Report) -> String {
    let mut line = Words::default();
    line.word(report.command.first().map(|program| &**program).unwrap_or_default());
    match report.ended {
        ExitStatus::Code(code) => {
            line.text(" exited with code ");
            line.number(code);
        }
        ExitStatus::Signal(signal) => {
            line.text(" was killed by signal ");
            line.number(signal);
        }
    }
    line.text(" after ");
    line.with(|out| human::write_duration(report.took, out));
    line.text("; ");
    line.number(report.processes);
    line.text(if report.processes == 1 { " process" } else { " processes" });
    let (wrong, missing) =
        (report.unexpected.len() as u64 + report.more_unexpected, report.missing().count());
    match report.verdict() {
        Verdict::NotJudged => line.text("; no rules"),
        Verdict::Passed => line.text("; as expected"),
        Verdict::Inconclusive => line.text("; inconclusive: not everything was seen"),
        Verdict::Failed => line.text(&format!("; {wrong} unexpected, {missing} missing")),
    }
    text_of(&line)
}
