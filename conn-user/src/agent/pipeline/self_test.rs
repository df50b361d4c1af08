//! The self-test's own records and events: they are watched for, and kept from the outputs.

use conn_common::decode::Record;
use conn_common::hook::HookId;

use crate::event::model::EventBody;
use crate::kernel::selftest::{SelfTestError, Watch, Workload};
use crate::units::Pid;

/// Watches the self-test while it runs.
#[derive(Default)]
pub(super) struct SelfTestFilter {
    watch: Option<Watch>,
}

impl SelfTestFilter {
    /// Begins to watch.
    pub(super) fn begin(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// The watch, while the test runs.
    pub(super) const fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    /// The next connections of the test; `None`: it does not run.
    pub(super) fn workload(&mut self) -> Option<Result<Workload, SelfTestError>> {
        self.watch.as_mut().map(Watch::workload)
    }

    /// Ends the test.
    pub(super) fn end(&mut self) {
        self.watch = None;
    }

    /// Takes note of a record.
    #[inline]
    pub(super) fn on_record(&mut self, hook: HookId, record: &Record<'_>) {
        if let Some(watch) = &mut self.watch {
            watch.on_record(hook, record);
        }
    }

    /// Whether a process is the test's child.
    pub(super) fn is_child(&self, pid: Pid) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.is_child(pid))
    }

    /// Whether an event is of the test's own making.
    #[inline]
    pub(super) fn hides(&self, body: &EventBody) -> bool {
        self.watch.as_ref().is_some_and(|watch| is_of_test(watch, body))
    }
}

fn is_of_test(watch: &Watch, body: &EventBody) -> bool {
    match body {
        EventBody::Flow(change) => {
            let of_connection = change.connection().map(|conn| (conn.local, conn.remote.port()));
            let ends = of_connection.or_else(|| change.listener().map(|of| (of.local, 0)));
            ends.is_some_and(|(local, remote_port)| {
                local.ip().is_loopback() && (watch.is_port(local.port()) || watch.is_port(remote_port))
            })
        }
        EventBody::Exec(event) | EventBody::Exit(event, _) => watch.is_child(event.process.pid),
        EventBody::Facts(_)
        | EventBody::Sample(_)
        | EventBody::Gap(_)
        | EventBody::Repair(_)
        | EventBody::Degraded(_)
        | EventBody::Heartbeat(_)
        | EventBody::Alert(_)
        | EventBody::Start(_)
        | EventBody::Clock => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::model::ProcEvent;
    use crate::flow::testing::{Backend, Rig, sock, who};
    use crate::process::testing::{exec_record, fork_record};

    const PORT: u16 = 4711;

    fn running() -> SelfTestFilter {
        let mut filter = SelfTestFilter::default();
        filter.begin(Watch::of_port(PORT));
        filter
    }

    /// The event of a connect from and to these addresses.
    fn connect(local: &str, remote: &str) -> EventBody {
        let mut rig = Rig::new(Backend::Fentry);
        rig.connects(10, sock(1, local, remote));
        EventBody::Flow(rig.out.remove(0).change)
    }

    #[test]
    fn loopback_connections_of_its_ports_are_hidden_while_it_runs() {
        let mut filter = running();
        let ours = connect("127.0.0.1:50000", "127.0.0.1:4711");
        assert!(filter.hides(&ours));
        assert!(filter.hides(&connect("[::1]:4711", "[::1]:50000")), "the other end");
        assert!(!filter.hides(&connect("127.0.0.1:50000", "127.0.0.1:80")));
        assert!(!filter.hides(&connect("10.0.0.1:50000", "203.0.113.9:4711")), "the port of another host");
        filter.end();
        assert!(!filter.hides(&ours));
        assert!(filter.workload().is_none());
    }

    #[test]
    fn its_listeners_are_hidden() {
        let mut rig = Rig::new(Backend::Fentry);
        rig.listens(10, sock(1, "127.0.0.1:4711", "0.0.0.0:0"));
        rig.listens(10, sock(2, "127.0.0.1:80", "0.0.0.0:0"));
        let filter = running();
        let hidden = rig.out.drain(..).map(|event| filter.hides(&EventBody::Flow(event.change)));
        assert_eq!(hidden.collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn its_child_is_hidden() {
        let mut rig = Rig::new(Backend::Fentry);
        let mut filter = running();
        let ours =
            rig.sock_record(HookId::FentryTcpConnect, who(10), sock(1, "127.0.0.1:1", "127.0.0.1:4711"));
        filter.on_record(HookId::FentryTcpConnect, &Record::Connect(ours));
        let parent = who(10);
        filter
            .on_record(HookId::ProcessFork, &Record::Fork(fork_record((10, parent.start_boot_ns), who(99))));
        assert!(filter.is_child(Pid(99)) && !filter.is_child(Pid(10)));
        let mut exec = |pid| {
            let process = rig.procs.on_exec(&exec_record(pid, who(pid).start_boot_ns, "/bin/true"), b"");
            filter.hides(&EventBody::Exec(ProcEvent::new(process)))
        };
        assert!(exec(99) && !exec(98));
    }
}
