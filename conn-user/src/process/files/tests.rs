//! Workers that are threads, and workers that never answer.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::process::file_stat::FileStat;

impl FileWorker {
    /// With a thread.
    pub(in crate::process) fn for_test() -> Self {
        Self { patience: Duration::from_mins(1), ..Self::new(FileWorkers::threads(), Role::Find) }
    }
}

impl FileWorkers {
    /// With workers that never answer.
    pub(in crate::process) fn silent() -> Arc<Self> {
        Self::with(Starter::Silent(Mutex::default()))
    }
}

const WHO: Caller = Caller { uid: 1000, dev: Some(7) };

/// A worker that never answers.
fn silent(workers: &Arc<FileWorkers>, role: Role) -> FileWorker {
    FileWorker { patience: Duration::from_millis(1), ..FileWorker::new(Arc::clone(workers), role) }
}

/// The other ends of all workers that were started are closed: their file system answered, and they ended.
fn answer(workers: &FileWorkers) {
    let Starter::Silent(ends) = &workers.starter else { panic!("silent ones") };
    ends.lock().expect("lock").clear();
}

/// A request that the kernel's caches cannot answer.
fn ask(worker: &mut FileWorker, caller: Caller) -> Result<(), FileError> {
    let root = File::open("/").expect("root");
    worker.call(&Request::Open(b"x"[..].into()), Some(root.as_fd()), caller).map(|_| ())
}

#[test]
fn files_are_opened_in_a_root() {
    let mut worker = FileWorker::for_test();
    let folder = std::env::temp_dir().join(format!("conn-files-{}", std::process::id()));
    fs::create_dir_all(folder.join("tmp")).expect("a folder");
    fs::write(folder.join("tmp/file"), "x").expect("a file");
    std::os::unix::fs::symlink("/tmp/file", folder.join("link")).expect("a link");
    let inode = fs::metadata(folder.join("tmp/file")).expect("stat").ino();
    let path = |name: &str| folder.join(name).into_os_string().into_encoded_bytes();
    for _ in 0..2 {
        let found = worker.open(Path::new(OWN_ROOT), &path("tmp/file"), WHO).expect("found");
        assert_eq!(FileStat::of(found).expect("stat").file.inode, inode);
        let found = worker.open(&folder, b"/link", WHO).expect("found");
        assert_eq!(FileStat::of(found).expect("stat").file.inode, inode, "the link does not lead out");
        for wrong in [&path("none")[..], &path("tmp/file/x"), b""] {
            let error = worker.open(Path::new(OWN_ROOT), wrong, WHO).expect_err("nothing");
            assert!(matches!(&error, FileError::Io(_)), "{error:?}");
        }
    }
    // As on a kernel whose caches do not answer.
    let root = File::open(&folder).expect("root");
    let (reply, file) =
        worker.call(&Request::Open(b"/link"[..].into()), Some(root.as_fd()), WHO).expect("an answer");
    assert_eq!(reply, Reply::Opened);
    assert_eq!(FileStat::of(file.expect("a file")).expect("stat").file.inode, inode);
    assert!(
        matches!(ask(&mut worker, WHO), Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
    );
    assert_eq!(worker.generation, 1, "one worker for all");
    assert_eq!(worker.workers.stats(), FileWorkerStats::default());
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_file_is_hashed_in_parts_and_begun_again_by_another_worker() {
    let mut worker = FileWorker::for_test();
    let path = std::env::temp_dir().join(format!("conn-hashed-{}", std::process::id()));
    fs::write(&path, vec![7; 40 << 20]).expect("a file");
    let file = File::open(&path).expect("open");
    let state = FileState::of(&FileStat::of(&file).expect("stat"));
    let hash = |worker: &mut FileWorker, ends: bool| {
        let (mut job, mut read) = (Begun::new(1), Vec::new());
        loop {
            match worker.hash(&mut job, &file, state, WHO).expect("progress") {
                Progress::Read(bytes) => read.push(bytes >> 20),
                Progress::Done(hash) => return (read, hash.expect("a hash")),
            }
            if ends && read.len() == 1 {
                worker.socket = None;
            }
        }
    };
    let (read, once) = hash(&mut worker, false);
    assert_eq!(read, [16, 16]);
    assert_eq!(hash(&mut worker, true), (vec![16, 16, 16], once));
    fs::remove_file(path).expect("removed");
}

#[test]
fn a_worker_that_does_not_answer_is_replaced() {
    let workers = FileWorkers::silent();
    let mut worker = silent(&workers, Role::Hash);
    assert!(matches!(ask(&mut worker, WHO), Err(FileError::Stuck)));
    // The same file system is not asked again, another one is.
    assert!(matches!(ask(&mut worker, WHO), Err(FileError::Refused)));
    assert!(matches!(ask(&mut worker, Caller { dev: Some(8), ..WHO }), Err(FileError::Stuck)));
    assert_eq!(worker.generation, 2);
    assert_eq!(workers.stats(), FileWorkerStats { stuck: 2, stuck_now: 2, refused: 1 });
    answer(&workers);
    assert_eq!(workers.stats(), FileWorkerStats { stuck: 2, stuck_now: 0, refused: 1 });
    assert!(matches!(ask(&mut worker, WHO), Err(FileError::Stuck)), "asked again");
}

#[test]
fn abandoned_workers_are_bounded_for_a_user_and_in_all() {
    let workers = FileWorkers::silent();
    let mut worker = silent(&workers, Role::Hash);
    let mut stuck = |uid| {
        let all = (0..10).map(|dev| ask(&mut worker, Caller { uid, dev: Some(dev) }));
        all.filter(|asked| matches!(asked, Err(FileError::Stuck))).count()
    };
    assert_eq!([1, 2, 3, 4].map(&mut stuck), [STUCK_OF_USER, STUCK_OF_USER, 2, 0]);
    assert_eq!(workers.stats().stuck_now, STUCK_MAX);
    answer(&workers);
    assert_eq!(stuck(4), STUCK_OF_USER);
}

#[test]
fn a_user_who_makes_others_wait_is_refused_for_a_time() {
    let workers = FileWorkers::silent();
    let mut worker = silent(&workers, Role::Find);
    workers.state().waits.charge(1000, DurationNs(WAIT.0 + 3_600_000_000_000), boot_now());
    assert!(matches!(ask(&mut worker, WHO), Err(FileError::Refused)));
    assert!(matches!(ask(&mut worker, Caller { uid: 0, ..WHO }), Err(FileError::Stuck)));
    let mut worker = silent(&workers, Role::Hash);
    assert!(matches!(ask(&mut worker, WHO), Err(FileError::Stuck)), "hashing has its own bound");
}

#[test]
fn a_worker_that_ended_is_replaced() {
    let workers = FileWorkers::silent();
    let mut worker = silent(&workers, Role::Find);
    worker.socket = Some(worker.start().expect("started"));
    answer(&workers);
    assert!(matches!(ask(&mut worker, WHO), Err(FileError::Worker(_))));
    assert_eq!(workers.stats().stuck, 0);
    assert!(matches!(ask(&mut worker, WHO), Err(FileError::Stuck)), "the next one");
}
