//! The threads, against this very process.

use super::finder::UID_MIN;
use super::*;
use crate::process::identity::Tty;
use crate::process::procfs::ProcSource as _;
use crate::units::{BootNs, Pid};

const PATIENCE: Duration = Duration::from_mins(1);

fn me() -> Arc<ProcessInfo> {
    let seen = ProcFs::default().read(Pid(std::process::id())).expect("self");
    Arc::new(ProcessInfo {
        exe: seen.exe,
        exe_file: seen.exe_file,
        source: ProcessSource::ProcScan,
        ..ProcessInfo::new(seen.pid, seen.start)
    })
}

/// An inspector without its threads.
fn idle(queue: SyncSender<Job>) -> Inspector {
    let (sender, answers) = channel();
    let came = Arc::<Notify>::default();
    let outbox = Outbox { sender, came: Arc::clone(&came) };
    Inspector { queue, outbox, answers, came, counts: Arc::default(), files: FileWorkers::threads() }
}

/// Waits until everything is answered, and makes it known.
fn settled(inspector: &Inspector) {
    assert!(inspector.settle(PATIENCE));
    while let Some(answer) = inspector.next_answer() {
        answer.apply();
    }
}

#[test]
fn everything_is_found_out_and_hashed_once() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let mut all = vec![me(), me()];
    let fork = ProcessInfo {
        identity: all[0].identity.forked(),
        source: ProcessSource::Fork,
        ..ProcessInfo::clone(&me())
    };
    all.push(fork.into());
    for process in &all {
        inspector.ask(process, Depth::All, None);
    }
    assert!(all.iter().all(|process| !process.identity.is_settled()));
    assert!(inspector.settle(PATIENCE));
    assert!(all.iter().all(|process| process.identity.version() == 0), "not before it is delivered");
    settled(&inspector);
    assert!(all.iter().all(|process| process.identity.is_settled()));
    let exe = std::fs::read("/proc/self/exe").expect("own executable");
    let expected: [u8; 32] =
        sha2::Digest::finalize(sha2::Digest::chain_update(sha2::Sha256::default(), exe)).into();
    for process in &all {
        let state = process.identity.state().expect("a state");
        let cwd = std::env::current_dir().expect("cwd");
        assert_eq!(state.cwd.as_deref(), Some(cwd.as_os_str().as_encoded_bytes()));
        assert!(state.netns.is_some() && state.tty != Tty::Unknown);
        assert_eq!(process.identity.sha256(), Some(&expected));
        assert!(process.identity.exe().is_some());
        assert_eq!(process.identity.exe_is_host(), Some(true));
    }
    let stats = inspector.stats();
    assert_eq!((stats.asked, stats.hashed, stats.gone, stats.dropped), (3, 1, 0, 0), "{stats:?}");
}

/// It may be gone when it has used the network.
#[test]
fn who_may_write_a_program_is_asked_when_it_starts() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let with = |uid, exe: &[u8]| {
        let process = Arc::new(ProcessInfo { uid, exe: Some(exe.into()), ..ProcessInfo::clone(&me()) });
        inspector.ask(&process, Depth::State, None);
        settled(&inspector);
        process.identity.exe().is_some()
    };
    let own = me().exe.clone().expect("a path");
    assert!(with(33, &own));
    assert!(!with(UID_MIN, &own), "a person's");
    assert!(!with(0, &own), "it may become another user, who may write it");
    assert!(!with(33, b"/usr/bin/true"), "of a package");
    assert_eq!(inspector.stats().hashed, 0);
}

#[test]
fn nothing_is_hashed_that_nobody_wants() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), false).expect("threads");
    let process = me();
    inspector.ask(&process, Depth::All, None);
    settled(&inspector);
    assert!(process.identity.exe().is_some() && process.identity.is_settled());
    assert!(!process.identity.sha256_settled());
    assert_eq!((inspector.stats().hashed, inspector.stats().unreadable), (0, 0));
}

/// A process whose executable lies on a file system that does not answer.
#[test]
fn a_stuck_file_system_leaves_no_request_unanswered() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::silent(), true).expect("threads");
    let (process, other) = (me(), me());
    for process in [&process, &other] {
        inspector.ask(process, Depth::All, None);
        settled(&inspector);
        assert!(process.identity.state().is_some() && process.identity.is_settled());
        assert!(!process.identity.sha256_settled(), "it may be asked again");
    }
    let stats = inspector.stats();
    assert_eq!((stats.hashed, stats.files.stuck_now), (0, 1), "{stats:?}");
    assert!(stats.files.refused >= 1, "{stats:?}");
}

#[test]
fn an_exec_of_a_person_asks_for_the_state_only() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let process = Arc::new(ProcessInfo { uid: UID_MIN, ..ProcessInfo::clone(&me()) });
    inspector.ask(&process, Depth::State, None);
    settled(&inspector);
    assert!(process.identity.state().is_some());
    assert_eq!(process.identity.exe_is_host(), Some(true), "exceptions wait for it");
    assert!(process.identity.exe().is_none() && !process.identity.sha256_settled());
}

#[test]
fn a_child_that_is_gone_was_where_its_parent_was() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let parent = me();
    inspector.ask(&parent, Depth::State, None);
    let gone = |source| Arc::new(ProcessInfo { source, ..ProcessInfo::new(Pid(u32::MAX), BootNs(1)) });
    let (child, other) = (gone(ProcessSource::Fork), gone(ProcessSource::Exec));
    for process in [&child, &other] {
        inspector.ask(process, Depth::All, Some(parent.identity.clone()));
    }
    settled(&inspector);
    let (state, known) =
        (child.identity.state().expect("inherited"), parent.identity.state().expect("known"));
    assert_eq!((&state.cwd, &state.tty, state.netns), (&known.cwd, &known.tty, None));
    assert_eq!(other.identity.state(), None, "an exec may come after a chdir");
    assert_eq!((inspector.stats().gone, inspector.stats().unreadable), (2, 2));
}

/// Whoever asks never waits; what does not fit is counted, and the threads end with it.
#[test]
fn a_full_queue_drops_and_counts() {
    let (queue, jobs) = sync_channel(QUEUE_MAX);
    let inspector = idle(queue);
    let process = me();
    for _ in 0..QUEUE_MAX {
        inspector.ask(&process, Depth::State, None);
    }
    let stats = inspector.stats();
    assert_eq!((stats.asked, stats.dropped), (QUEUE_MAX as u64, QUEUE_MAX as u64 / 2), "room is left");
    for _ in 0..QUEUE_MAX {
        inspector.ask(&process, Depth::All, None);
    }
    let stats = inspector.stats();
    assert_eq!(stats.dropped, QUEUE_MAX as u64);
    assert!(!inspector.settle(Duration::ZERO));
    let answers: Vec<Answer> = std::iter::from_fn(|| inspector.next_answer()).collect();
    assert_eq!(answers.len(), QUEUE_MAX, "what is dropped is answered: nobody waits for it");
    assert!(answers.iter().all(|answer| answer.is_last && answer.facts.is_empty()));
    drop(inspector);
    assert_eq!(jobs.into_iter().count(), QUEUE_MAX);
}

#[test]
fn executables_are_compared_in_the_background_and_counted() {
    let inspector = Inspector::start(&ProcFs::default(), FileWorkers::threads(), true).expect("threads");
    let comparer = inspector.comparer();
    let (process, nameless) = (me(), Arc::new(ProcessInfo { exe: None, ..ProcessInfo::clone(&me()) }));
    let gone = ProcessInfo { exe: Some(b"/x"[..].into()), ..ProcessInfo::new(Pid(u32::MAX), BootNs(1)) };
    let gone = Arc::new(gone);
    assert!(comparer.ask(&process) && comparer.ask(&gone) && !comparer.ask(&nameless));
    settled(&inspector);
    assert_eq!(process.identity.replaced(), Some(Replaced::No));
    assert_eq!(gone.identity.replaced(), Some(Replaced::Unknown));
    let stats = inspector.stats();
    assert_eq!((stats.compare_asked, stats.compare_dropped, stats.compare_failed), (2, 0, 1));
}

#[test]
fn comparisons_leave_room_in_the_queue() {
    let (queue, _jobs) = sync_channel(QUEUE_MAX);
    let inspector = idle(queue);
    let (comparer, process) = (inspector.comparer(), me());
    let asked = (0..QUEUE_MAX).filter(|_| comparer.ask(&process)).count();
    assert_eq!((asked, inspector.stats().compare_dropped), (QUEUE_MAX / 2, QUEUE_MAX as u64 / 2));
}

/// A copy under another name is known by its content, soon after its exec, with or without the hashes of all.
#[test]
fn a_copied_tool_is_known_by_its_content() {
    use crate::process::exe::tests::Sleeper;
    for hashes in [false, true] {
        let (proc, files) = (ProcFs::default(), FileWorkers::threads());
        let inspector = Inspector::start_with_tools(&proc, files, hashes, &["sleep", "sh"]).expect("threads");
        let copies = ["copy", "again"].map(|name| Sleeper::start(&format!("tool-{name}-{hashes}")));
        for (copy, depth) in copies.iter().zip([Depth::State, Depth::All]) {
            let process = Arc::new(copy.process());
            inspector.ask(&process, depth, None);
            settled(&inspector);
            assert_eq!(process.identity.copy_of(), Some("sleep"), "{depth:?}");
        }
        let (own, hashed) = (me(), inspector.stats().hashed);
        inspector.ask(&own, Depth::State, None);
        settled(&inspector);
        assert_eq!((own.identity.copy_of_settled(), own.identity.copy_of()), (true, None));
        assert_eq!((hashed, inspector.stats().hashed), (2, 2), "a file of another size is not read");
    }
}

/// A hard link to a tool, or another mode, changes the state of its file after it was looked for.
#[test]
fn a_copied_tool_is_known_when_the_state_of_the_original_has_changed() {
    use std::os::unix::fs::PermissionsExt as _;

    use crate::process::exe::tests::Sleeper;
    let folder = std::env::temp_dir().join(format!("conn-tool-state-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy("/bin/sleep", folder.join("sleep")).expect("a copy");
    let tools = Tools::of([folder.clone()].into(), &["sleep"]);
    let mode = std::fs::Permissions::from_mode(0o500);
    std::fs::set_permissions(folder.join("sleep"), mode).expect("own file");
    let (proc, files) = (ProcFs::default(), FileWorkers::threads());
    let inspector = Inspector::start_with(&proc, files, false, tools).expect("threads");
    let copy = Sleeper::start("tool-state");
    let process = Arc::new(copy.process());
    inspector.ask(&process, Depth::State, None);
    settled(&inspector);
    assert_eq!(process.identity.copy_of(), Some("sleep"));
    std::fs::remove_dir_all(folder).expect("removed");
}
