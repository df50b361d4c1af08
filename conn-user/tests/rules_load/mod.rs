//! Rules and events for the benchmark of the rule engine and for the test that counts its allocations: an operator's many
//! rules, and a busy server's events, none of which is anomalous.

use std::sync::Arc;

use conn_common::hook::HookId;
use conn_user::event::alert::{RuleKind, RuleRef, Severity};
use conn_user::event::model::{Event, EventBody, ProcEvent};
use conn_user::filter::Filter;
use conn_user::filter::names::{Names, Zone};
use conn_user::flow::model::{
    Actor, Change, ConnEvent, ConnId, Direction, EndedHow, Ending, Failure, ListenEvent, Traffic, Unlisten,
};
use conn_user::learn::baseline::Learner;
use conn_user::process::identity::{ExeFile, ProcessState};
use conn_user::process::info::{ExitStatus, ProcessInfo, ProcessSource};
use conn_user::process::lineage;
use conn_user::process::placement::Placement;
use conn_user::rules::RuleSet;
use conn_user::rules::defaults;
use conn_user::rules::detector::Flows;
use conn_user::rules::host::Host;
use conn_user::rules::model::{
    Advice, Detect, Expect, FanOutOf, LongRule, MissingRule, PathRule, ProcessRule, Rule, ServerRule,
};
use conn_user::units::{BootNs, DurationNs, NetNs, Pid, WallNs};

/// Nothing lives between the events.
pub(crate) struct NoFlows;

impl Flows for NoFlows {
    fn connection(&self, _id: ConnId) -> Option<ConnEvent> {
        None
    }
}

const SECOND: u64 = 1_000_000_000;
const MINUTE: DurationNs = DurationNs(60 * SECOND);

/// So many rules of all kinds, each of which looks at something of its own: a port, a zone, a program, a unit, a user.
pub(crate) fn rules(count: usize) -> RuleSet {
    let mut names = Names::builtin().clone();
    let rules = (0..count).map(|number| Arc::new(rule(number, &mut names))).collect();
    RuleSet { rules, names: Arc::new(names), baseline: Arc::default() }
}

/// The default rules.
pub(crate) fn defaults() -> RuleSet {
    defaults::set(&Host::default()).expect("the default rules")
}

/// Both.
pub(crate) fn defaults_and(count: usize) -> RuleSet {
    let mut set = defaults();
    set.rules.extend(rules(count).rules);
    set
}

/// Rules that find something in [`events`].
#[allow(dead_code, reason = "the benchmark has no use for them")]
pub(crate) fn that_find() -> RuleSet {
    let names = Names::builtin();
    let found = [
        (RuleKind::Path, Detect::Path(PathRule::Forbidden), "dir:out dport:5432"),
        (RuleKind::Process, Detect::Process(ProcessRule::Network), "proc:java"),
        (RuleKind::Process, Detect::Process(ProcessRule::Network), "unit:nginx.service"),
        (RuleKind::Server, Detect::Server(ServerRule::Listener), "lport:8081"),
        (RuleKind::Server, Detect::Server(ServerRule::Accept), "dir:in dport:22"),
    ];
    let rules = found.into_iter().map(|(kind, detect, text)| {
        Arc::new(Rule {
            about: Arc::new(RuleRef {
                id: text.into(),
                kind,
                title: "one that finds".into(),
                attack: Box::default(),
            }),
            severity: Severity::Low,
            matches: filter(text, names),
            except: Box::default(),
            covers: Arc::default(),
            throttle: MINUTE,
            detect,
            advice: Advice::default(),
        })
    });
    RuleSet { rules: rules.collect(), names: Arc::new(names.clone()), baseline: Arc::default() }
}

/// Rules that ask a baseline of which [`events`] are.
#[allow(dead_code, reason = "the benchmark of replays has no use for them")]
pub(crate) fn with_baseline() -> RuleSet {
    let mut learner = Learner::default();
    for event in events() {
        learner.take(&event);
    }
    let learnt = learner.learnt();
    let text = learnt.text("h", "from events");
    let path = std::env::temp_dir().join(format!("conn-rules-load-{}.toml", std::process::id()));
    std::fs::write(&path, text).expect("a file");
    let set = conn_user::rules::file::load(std::slice::from_ref(&path), &Host::default());
    std::fs::remove_file(&path).expect("removed");
    let set = set.expect("what was learnt is right");
    assert_eq!((set.rules.len(), set.baseline.entries().len()), (3, learnt.entries.len()));
    set
}

fn filter(text: &str, names: &Names) -> Filter {
    Filter::with_names(text, names).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn rule(number: usize, names: &mut Names) -> Rule {
    let zone = format!("zone-{number}");
    let net = format!("172.{}.{}.0/24", 16 + number / 256, number % 256);
    names.set_zone(&zone, Zone::In([net.parse().expect("a network")].into())).expect("a name");
    let port = 20_000 + number;
    let list = format!("port-list-{number}");
    names.set_list(&list, (0..5).map(|at| (40_000 + number * 5 + at).to_string()).collect()).expect("a name");
    // Steps of seven, so that the first ten are as mixed as all are.
    let (kind, detect, text) = match number * 7 % 20 {
        0 => (RuleKind::Path, Detect::Path(PathRule::Forbidden), format!("dir:out dport:{port}")),
        1 => (RuleKind::Path, Detect::Path(PathRule::Forbidden), format!("dir:out dst:{zone}")),
        2 => {
            let detect = PathRule::FanOut { of: FanOutOf::Peers, limit: 100, window: MINUTE };
            (RuleKind::Path, Detect::Path(detect), format!("dir:out exe:/opt/app-{number}/bin/worker"))
        }
        3 => (
            RuleKind::Path,
            Detect::Path(PathRule::Forbidden),
            format!("dir:out unit:app-{number}.service -dst:internal"),
        ),
        4 => (
            RuleKind::Process,
            Detect::Process(ProcessRule::Network),
            format!("proc:tool-{number} -ip:loopback"),
        ),
        5 => (RuleKind::Process, Detect::Process(ProcessRule::Network), format!("user:user-{number}")),
        6 => (RuleKind::Process, Detect::Process(ProcessRule::Network), format!("exe:/srv/app-{number}/*")),
        7 => (RuleKind::Process, Detect::Process(ProcessRule::Stdio), format!("proc:shell-{number}")),
        8 => {
            (RuleKind::Process, Detect::Process(ProcessRule::Replaced), format!("unit:svc-{number}.service"))
        }
        9 => {
            (RuleKind::Server, Detect::Server(ServerRule::Listener), format!("lport:{port} -laddr:loopback"))
        }
        10 => {
            (RuleKind::Server, Detect::Server(ServerRule::Takeover), format!("lport:@{list} -laddr:loopback"))
        }
        11 => (RuleKind::Server, Detect::Server(ServerRule::Accept), format!("dir:in src:{zone} dport:443")),
        12 => (
            RuleKind::Server,
            Detect::Server(ServerRule::Join),
            format!("unit:db-{number}.service lport:>1023"),
        ),
        13 => {
            let levels = [(MINUTE, Severity::Low)].into();
            (RuleKind::Long, Detect::Long(LongRule { levels, sum: false }), format!("dir:out dst:{zone}"))
        }
        14 => {
            let levels = [(MINUTE, Severity::Low)].into();
            let text = format!("dir:out proc:agent-{number} dst:external");
            (RuleKind::Long, Detect::Long(LongRule { levels, sum: true }), text)
        }
        15 => (
            RuleKind::Missing,
            Detect::Missing(MissingRule { expect: Expect::Listeners(1), grace: MINUTE }),
            format!("lport:443 unit:web-{number}.service"),
        ),
        16 => (
            RuleKind::Missing,
            Detect::Missing(MissingRule { expect: Expect::Open(2), grace: MINUTE }),
            format!("dir:out unit:shop-{number}.service dport:5432"),
        ),
        17 => (
            RuleKind::Missing,
            Detect::Missing(MissingRule { expect: Expect::Every(MINUTE), grace: MINUTE }),
            format!("dir:out exe:/usr/bin/backup-{number}"),
        ),
        18 => {
            let to = filter(&format!("dir:out dst:{zone} dport:22"), names);
            (
                RuleKind::Path,
                Detect::Path(PathRule::Pivot { to, within: MINUTE, own: true }),
                format!("dir:in src:{zone}"),
            )
        }
        _ => {
            let detect = PathRule::Beacon { score: 0.9, at_least: 30, apart: DurationNs(1_000_000_000) };
            (RuleKind::Path, Detect::Path(detect), format!("dir:out uid:{port} dst:external"))
        }
    };
    let id = format!("rule-{number}").into();
    Rule {
        about: Arc::new(RuleRef { id, kind, title: "one of many".into(), attack: Box::default() }),
        severity: Severity::Low,
        matches: filter(&text, names),
        except: Box::default(),
        covers: Arc::default(),
        throttle: MINUTE,
        detect,
        advice: Advice::default(),
    }
}

/// A process in a unit, of which everything is known.
fn known(pid: u32, exe: &str, unit: &str, user: (u32, &str)) -> Arc<ProcessInfo> {
    let name = exe.rsplit('/').next().unwrap_or_default();
    let init = ProcessInfo { comm: b"systemd"[..].into(), ..ProcessInfo::new(Pid(1), BootNs(0)) };
    let cgroup = format!("/system.slice/{unit}");
    let process = ProcessInfo {
        ppid: Some(Pid(1)),
        ancestors: lineage::below(&init),
        comm: name.as_bytes().into(),
        exe: Some(exe.as_bytes().into()),
        args: [exe.as_bytes().into(), b"--run"[..].into()].into(),
        uid: user.0,
        gid: user.0,
        user: Some(user.1.as_bytes().into()),
        cgroup_id: u64::from(pid) + 1_000,
        placement: Some(Arc::new(Placement::of(cgroup.as_bytes()))),
        source: ProcessSource::Exec,
        ..ProcessInfo::new(Pid(pid), BootNs(u64::from(pid) * 10_000_000))
    };
    process.identity.set_state(ProcessState::default());
    process.identity.set_copy_of(None);
    process.identity.set_exe(ExeFile { writable: Some(false), ..ExeFile::default() });
    process.identity.set_sha256(None);
    Arc::new(process)
}

/// The events of a server in a steady state: what begins in them ends in them, so that they can be reported again and again.
pub(crate) fn events() -> Vec<Event> {
    let nginx = known(10, "/usr/sbin/nginx", "nginx.service", (33, "www-data"));
    let app = known(20, "/usr/bin/java", "shop.service", (998, "shop"));
    let sshd = known(30, "/usr/sbin/sshd", "ssh.service", (0, "root"));
    let cron = known(40, "/usr/bin/rsync", "backup.service", (0, "root"));
    let exporter =
        known(50, "/usr/bin/prometheus-node-exporter", "node-exporter.service", (997, "prometheus"));
    let out = [
        (&app, "10.0.0.9:5432"),
        (&app, "10.0.0.12:6379"),
        (&nginx, "127.0.0.1:8080"),
        (&cron, "10.0.1.7:873"),
    ];
    let inside = [
        (&nginx, "10.0.0.5:443", "10.0.2.7"),
        (&nginx, "10.0.0.5:443", "10.0.3.4"),
        (&app, "127.0.0.1:8080", "127.0.0.1"),
        (&exporter, "10.0.0.5:9100", "10.0.0.2"),
        (&sshd, "10.0.0.5:22", "10.0.0.3"),
    ];
    let mut story = Story::default();
    for round in 0..64_u16 {
        for (process, remote) in out {
            let local = if remote.starts_with("127.") { "127.0.0.1" } else { "10.0.0.5" };
            let conn =
                story.connection(process, Direction::Out, &format!("{local}:{}", 32_768 + round), remote);
            story.flow(Change::Connect(conn.clone()));
            if round % 16 == 7 {
                story.flow(Change::Failed(conn, Failure { errno: 111, after: Some(DurationNs(90_000)) }));
                continue;
            }
            let conn = ConnEvent { established: Some(BootNs(story.now)), ..conn };
            story.flow(Change::Established(conn.clone()));
            story.close(conn);
        }
        for (process, local, remote) in inside {
            let conn =
                story.connection(process, Direction::In, local, &format!("{remote}:{}", 40_000 + round));
            let conn = ConnEvent {
                established: Some(BootNs(story.now)),
                listener: Some(Actor::by(process, HookId::FexitListenStart)),
                ..conn
            };
            story.flow(Change::Accept(conn.clone()));
            story.close(conn);
        }
        if round % 8 == 0 {
            let check =
                known(1_000 + u32::from(round), "/usr/lib/check/check_load", "check.service", (996, "check"));
            let of = |process| ProcEvent::new(process);
            story.emit(EventBody::Exec(of(Arc::clone(&check))));
            story.emit(EventBody::Exit(of(check), ExitStatus::Code(0)));
        }
        if round % 32 == 0 {
            let listener = story.listener(&app, "127.0.0.1:8081");
            story.flow(Change::Listen(listener.clone()));
            let end = Unlisten { closer: listener.owner.clone(), duration: Some(DurationNs(SECOND)) };
            story.flow(Change::Unlisten(listener, end));
        }
    }
    story.events
}

/// Connections from outside that one server accepts and that end at once, each a step of time after the one before.
#[allow(dead_code, reason = "only the benchmark of the rules has them")]
pub(crate) struct Visits {
    story: Story,
    server: Arc<ProcessInfo>,
    step: u64,
}

#[allow(dead_code, reason = "only the benchmark of the rules has them")]
impl Visits {
    /// So that `remembered` of them ended within the ten minutes for which the default rules remember who came in.
    pub(crate) fn of_ten_minutes(remembered: u64) -> Self {
        let server = known(10, "/usr/sbin/nginx", "nginx.service", (33, "www-data"));
        Self { story: Story::default(), server, step: 600 * SECOND / remembered }
    }

    /// The events of the next ones.
    pub(crate) fn next(&mut self, count: u32) -> Vec<Event> {
        let server = Arc::clone(&self.server);
        for _ in 0..count {
            self.story.now += self.step;
            let id = self.story.last as u32;
            let remote = format!("203.0.{}.{}:{}", id >> 8 & 255, id & 255, 1_024 + id % 60_000);
            let conn = self.story.connection(&server, Direction::In, "198.51.100.5:443", &remote);
            let conn = ConnEvent { established: Some(BootNs(10_000 * SECOND + self.story.now)), ..conn };
            self.story.flow(Change::Accept(conn.clone()));
            self.story.close(conn);
        }
        std::mem::take(&mut self.story.events)
    }
}

#[derive(Default)]
struct Story {
    events: Vec<Event>,
    now: u64,
    last: u64,
}

impl Story {
    fn emit(&mut self, body: EventBody) {
        self.now += 50_000;
        let seq = self.events.len() as u64;
        let (boot, wall) = (BootNs(10_000 * SECOND + self.now), WallNs(self.now));
        self.events.push(Event { seq, boot, wall, body });
    }

    fn flow(&mut self, change: Change) {
        self.emit(EventBody::Flow(change));
    }

    fn close(&mut self, conn: ConnEvent) {
        let ending = Ending {
            how: EndedHow::LocalFin,
            errno: 0,
            closer: conn.owner.clone(),
            duration: Some(DurationNs(1_234_567)),
            traffic: Some(Traffic { bytes_in: 5_300, bytes_out: 780, retransmits: Some(0), srtt_us: 31 }),
        };
        self.flow(Change::Close(conn, ending));
    }

    fn id(&mut self) -> ConnId {
        self.last += 1;
        ConnId(self.last)
    }

    fn connection(
        &mut self,
        process: &Arc<ProcessInfo>,
        direction: Direction,
        local: &str,
        remote: &str,
    ) -> ConnEvent {
        ConnEvent::new(
            self.id(),
            direction,
            (local.parse().expect("address"), remote.parse().expect("address")),
            NetNs(4_026_531_840),
            Actor::by(process, HookId::FentryTcpConnect),
        )
    }

    fn listener(&mut self, process: &Arc<ProcessInfo>, local: &str) -> ListenEvent {
        ListenEvent::new(
            self.id(),
            local.parse().expect("address"),
            NetNs(4_026_531_840),
            Actor::by(process, HookId::FexitListenStart),
        )
    }
}
