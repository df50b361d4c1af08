//! An alert: what, of whom, why it was judged so, and what suppresses it. For a log one line, for people a
//! short one and details below.

use super::line::arrow;
use crate::event::age::Age;
use crate::event::alert::{Alert, Covered, Evidence, Phase, RuleKind, Severity, Subject, Value};
use crate::event::names::Named;
use crate::event::words::Words;
use crate::event::{escape, human};
use crate::flow::model::Source;
use crate::process::info::ProcessInfo;
use crate::units::{BootNs, DurationNs, NetNs};

/// The longest tick of a kernel.
const TICK_MAX: DurationNs = DurationNs(10_000_000);
/// Columns of `CRITICAL`.
const SEVERITY_COLUMNS: usize = 8;

/// A line below an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// The process and by whom it came to be, and where it works.
    Process,
    /// Of its executable.
    Hash,
    Arguments,
    /// Both ends of a connection, or where a listener listens; and that it is older than the agent.
    Socket,
    Evidence,
    /// What was not seen.
    Coverage,
    Suppress,
}

impl Detail {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Process => "process     ",
            Self::Hash => "sha256      ",
            Self::Arguments => "arguments   ",
            Self::Socket => "socket      ",
            Self::Evidence => "evidence    ",
            Self::Coverage => "coverage    ",
            Self::Suppress => "suppress    ",
        }
    }
}

/// What stands below an alert: all when it is raised; what is new when it got worse; nothing when it is over.
pub(super) const fn details(phase: Phase) -> &'static [Detail] {
    match phase {
        Phase::Raised => &[
            Detail::Process,
            Detail::Hash,
            Detail::Arguments,
            Detail::Socket,
            Detail::Evidence,
            Detail::Coverage,
            Detail::Suppress,
        ],
        Phase::Escalated => &[Detail::Evidence, Detail::Coverage],
        Phase::Resolved => &[],
    }
}

/// What became of what an alert is about.
fn resolution(alert: &Alert) -> &'static str {
    let has = |name| alert.evidence.iter().any(|evidence| evidence.name == name);
    if has("why") {
        "no longer judged"
    } else if alert.rule.kind == RuleKind::Health {
        "over"
    } else if matches!(alert.subject, Subject::Absence) {
        // Its evidence may be how the last connection ended.
        "present again"
    } else if has("end") {
        "connection closed"
    } else if has("error") {
        "connection failed"
    } else {
        match alert.subject {
            Subject::Listener(_) => "no longer listening",
            Subject::Process(_) if alert.evidence.is_empty() => "process ended",
            Subject::Process(_) | Subject::Connection(_) | Subject::Absence => "over",
        }
    }
}

/// An SGR sequence for the line: by severity, and faint once it is over.
pub(super) const fn color(alert: &Alert) -> &'static [u8] {
    match (alert.phase, alert.severity) {
        (Phase::Resolved, _) => b"\x1b[2m",
        (_, Severity::Critical) => b"\x1b[1;37;41m",
        (_, Severity::High) => b"\x1b[1;31m",
        (_, Severity::Medium) => b"\x1b[1;33m",
        (_, Severity::Low) => b"\x1b[36m",
        (_, Severity::Info) => b"\x1b[34m",
    }
}

/// Whether there is something to say that the subject does not.
fn has_evidence(alert: &Alert) -> bool {
    alert.repeats > 0 || alert.evidence.iter().any(|evidence| !is_said(evidence, &alert.subject))
}

/// Whether the line says it already, where it reports the subject. JSON has the two apart.
fn is_said(evidence: &Evidence, subject: &Subject) -> bool {
    let ends = match subject {
        Subject::Connection(conn) => [Some(conn.local), Some(conn.remote)],
        Subject::Listener(listener) => [Some(listener.local), None],
        Subject::Process(_) | Subject::Absence => [None, None],
    };
    let mut ends = ends.into_iter().flatten();
    match (&*evidence.name, &evidence.value) {
        ("exe", Value::Text(exe)) => {
            subject.process().is_some_and(|process| process.exe.as_deref() == Some(exe))
        }
        ("args", Value::List(args)) => subject.process().is_some_and(|process| {
            let said = args.iter().map(|arg| if let Value::Text(arg) = arg { Some(&**arg) } else { None });
            said.eq(process.args.iter().map(|arg| Some(&**arg)))
        }),
        ("port", Value::Number(port)) => ends.any(|end| u64::from(end.port()) == *port),
        ("listens_on", Value::End(at)) => ends.any(|end| end == *at),
        _ => false,
    }
}

impl Words {
    /// Appends the alert as of `at`; `since` is the time since which it was watched, where that is not always.
    pub(super) fn alert(&mut self, alert: &Alert, at: BootNs, since: &[u8]) {
        self.severity_and_rule(alert);
        self.subject(&alert.subject);
        self.existing(&alert.subject, at);
        if has_evidence(alert) {
            self.gap();
            self.evidence(alert);
        }
        if alert.covered != Covered::All {
            self.detail("coverage: ");
            self.coverage(alert.covered, since);
        }
        if let (Some(suppress), Phase::Raised) = (&alert.suppress, alert.phase) {
            self.detail("suppress: ");
            self.filter(suppress);
        }
    }

    /// The line that stands alone on a busy screen, as of `at`.
    pub(super) fn alert_head(&mut self, alert: &Alert, at: BootNs) {
        self.severity_and_rule(alert);
        let process = alert.subject.process();
        if let Some(process) = process {
            self.gap();
            self.process(process);
        }
        match &alert.subject {
            Subject::Connection(conn) => {
                if process.is_some() {
                    self.text(" ");
                    self.ends_short(conn);
                } else {
                    // Whose it is only the own address says.
                    self.gap();
                    self.socket(&alert.subject);
                }
                self.service(conn.service_port());
            }
            Subject::Listener(listener) => {
                self.text(" on ");
                let device = listener.scope.as_ref().and_then(|scope| scope.device.as_deref());
                self.end_over(listener.local, device);
                self.service(listener.local.port());
            }
            Subject::Process(_) | Subject::Absence => {}
        }
        if alert.phase == Phase::Resolved {
            // How long it lasted is known of those whose beginning was seen.
            if !alert.evidence.iter().any(|evidence| evidence.name == "duration") {
                self.existing(&alert.subject, at);
            }
            if has_evidence(alert) {
                self.gap();
                self.evidence(alert);
            }
        }
    }

    /// A detail without its label. Nothing, where there is nothing to say. `netns`: the network namespace where it is
    /// worth a mention, and its name.
    pub(super) fn alert_detail(
        &mut self,
        detail: Detail,
        alert: &Alert,
        at: BootNs,
        since: &[u8],
        netns: Option<(NetNs, Option<&[u8]>)>,
    ) {
        let process = alert.subject.process();
        match detail {
            Detail::Process => {
                if let Some(process) = process {
                    self.chain(process);
                    self.user_detail(process);
                    self.place(process);
                    self.detail("exe=");
                    self.exe(process);
                    if let Some(cwd) = process.identity.state().and_then(|state| state.cwd.as_deref()) {
                        self.detail("cwd=");
                        self.word(cwd);
                    }
                }
                if let Some((netns, name)) = netns {
                    self.netns(netns, name);
                }
            }
            Detail::Hash => {
                if let Some(hash) = process.and_then(|process| process.identity.sha256()) {
                    self.with(|out| escape::hex_bytes(hash, out));
                }
            }
            Detail::Arguments => {
                for (at, arg) in process.iter().flat_map(|process| process.args.iter()).enumerate() {
                    if at > 0 {
                        self.blank();
                    }
                    self.word(arg);
                }
            }
            Detail::Socket => {
                let is_above = match &alert.subject {
                    Subject::Listener(listener) => listener.source == Source::Live,
                    Subject::Connection(conn) => process.is_none() && conn.source == Source::Live,
                    Subject::Process(_) | Subject::Absence => true,
                };
                if !is_above {
                    self.socket(&alert.subject);
                    self.existing(&alert.subject, at);
                }
            }
            Detail::Evidence => self.evidence(alert),
            Detail::Coverage => self.coverage(alert.covered, since),
            Detail::Suppress => {
                if let Some(suppress) = &alert.suppress {
                    self.filter(suppress);
                }
            }
        }
    }

    /// The severity, the alert's number, the rule, and what it found, or what became of it.
    fn severity_and_rule(&mut self, alert: &Alert) {
        let severity = alert.severity.name();
        self.with(|out| out.extend(severity.bytes().map(|byte| byte.to_ascii_uppercase())));
        self.pad_from(severity.len(), SEVERITY_COLUMNS);
        self.text("  a");
        self.number(alert.id.0);
        self.text(if alert.phase == Phase::Escalated { " escalated  " } else { "  " });
        self.word(alert.rule.id.as_bytes());
        self.gap();
        if alert.phase == Phase::Resolved {
            self.text(resolution(alert));
        } else {
            self.columns += escape::text(alert.rule.title.as_bytes(), &mut self.bytes);
        }
    }

    /// A filter of our own making, which quotes what it must; for a terminal it is escaped once more. It
    /// stands last in its line, so that it needs no quotes around it.
    fn filter(&mut self, filter: &str) {
        self.columns += escape::text(filter.as_bytes(), &mut self.bytes);
    }

    /// What the rule judged by, as far as the line with the subject does not say it, and how often.
    fn evidence(&mut self, alert: &Alert) {
        let mut is_first = true;
        let mut next = |line: &mut Self| {
            if !std::mem::take(&mut is_first) {
                line.gap();
            }
        };
        for evidence in alert.evidence.iter().filter(|evidence| !is_said(evidence, &alert.subject)) {
            next(self);
            self.evidence_one(evidence);
        }
        if alert.repeats > 0 {
            next(self);
            self.text("repeated=");
            self.number(alert.repeats);
        }
    }

    fn coverage(&mut self, covered: Covered, since: &[u8]) {
        match covered {
            Covered::All => {}
            Covered::Since(_) => {
                self.text("since ");
                self.with(|out| out.extend_from_slice(since));
            }
            Covered::Except { lost, repaired } => {
                self.number(lost);
                self.text(if lost == 1 { " record lost meanwhile" } else { " records lost meanwhile" });
                self.text(if repaired { ", repaired" } else { "" });
            }
            Covered::Unknown => self.text("records were lost meanwhile"),
        }
    }

    fn subject(&mut self, subject: &Subject) {
        if !matches!(subject, Subject::Absence) {
            self.actor(subject.process().map(|process| &**process));
        }
        if matches!(subject, Subject::Connection(_) | Subject::Listener(_)) {
            self.gap();
            self.socket(subject);
        }
    }

    fn socket(&mut self, subject: &Subject) {
        match subject {
            Subject::Connection(conn) => {
                let device = conn.device.as_deref();
                self.end_over(conn.local, device);
                self.text(" ");
                self.text(arrow(conn.direction));
                self.text(" ");
                self.end_over(conn.remote, device);
                self.device(device, &[conn.local, conn.remote]);
            }
            Subject::Listener(listener) => {
                let device = listener.scope.as_ref().and_then(|scope| scope.device.as_deref());
                self.end_over(listener.local, device);
                self.device(device, &[listener.local]);
            }
            Subject::Process(_) | Subject::Absence => {}
        }
    }

    /// That the subject did not begin before the eyes of the agent, and how old it is.
    fn existing(&mut self, subject: &Subject, at: BootNs) {
        let (source, born) = match subject {
            Subject::Connection(conn) => (conn.source, conn.born),
            Subject::Listener(listener) => (listener.source, listener.born),
            Subject::Process(_) | Subject::Absence => return,
        };
        match source {
            Source::Live => return,
            Source::Snapshot => self.detail("existing, age "),
            // Found after a loss, or by its first record: it need not be older than that.
            Source::Resync | Source::Late => {
                self.detail(source.name());
                self.text(", age ");
            }
        }
        match born.map(|born| Age::of(&born, at)).filter(Age::is_known) {
            Some(age) => self.with(|out| age.write_text(" ", out)),
            None => self.text("unknown"),
        }
    }

    fn actor(&mut self, process: Option<&ProcessInfo>) {
        self.gap();
        let Some(process) = process else { return self.text("?") };
        self.chain(process);
        self.user_detail(process);
        self.place(process);
        self.detail("exe=");
        self.exe(process);
    }

    /// The process, and by whom it came to be: `sshd[1] > bash[2] > nc[3]`.
    fn chain(&mut self, process: &ProcessInfo) {
        for ancestor in process.ancestors.iter().rev() {
            self.word(&ancestor.comm);
            self.text("[");
            self.number(ancestor.pid.0);
            self.text("] >");
            self.blank();
        }
        self.process(process);
    }

    /// Appends a piece of evidence: its name and its value.
    pub(crate) fn evidence_one(&mut self, evidence: &Evidence) {
        self.text(&evidence.name);
        self.text("=");
        match (&*evidence.name, &evidence.value) {
            ("via", Value::List(chain)) => {
                for (at, one) in chain.iter().enumerate() {
                    if at > 0 {
                        self.text(",");
                    }
                    match one {
                        Value::Text(process) => self.named_process(process),
                        other => self.value(other),
                    }
                }
            }
            // The kernel counts it in ticks of up to 10 ms.
            ("received_before", Value::Duration(before)) if before.0 < TICK_MAX.0 => self.text("<10ms"),
            (_, value) => self.value(value),
        }
    }

    /// Appends `name[pid]` as every process is shown: only the name is another one's word.
    fn named_process(&mut self, process: &[u8]) {
        let pid = process.strip_suffix(b"]").and_then(|text| {
            let at = text.iter().rposition(|byte| *byte == b'[')?;
            let (name, pid) = (&text[..at], &text[at + 1..]);
            (!pid.is_empty() && pid.iter().all(u8::is_ascii_digit)).then_some((name, pid))
        });
        match pid {
            Some((name, pid)) => {
                self.word(name);
                self.text("[");
                self.with(|out| out.extend_from_slice(pid));
                self.text("]");
            }
            None => self.word(process),
        }
    }

    /// Appends the value of a piece of evidence.
    pub(crate) fn value(&mut self, value: &Value) {
        match value {
            Value::Text(text) => self.word(text),
            Value::Number(number) => self.number(*number),
            Value::Duration(duration) => self.with(|out| human::write_duration(*duration, out)),
            Value::Score(score) => self.text(&format!("{score:.3}")),
            Value::End(end) if end.port() == 0 => {
                self.with(|out| crate::event::address::write_ip(end.ip(), out));
            }
            Value::End(end) => self.end(*end),
            Value::Process(process) => self.process(process),
            Value::List(values) => {
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        self.text(",");
                    }
                    self.value(value);
                }
            }
        }
    }
}
