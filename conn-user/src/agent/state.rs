//! What the agent keeps on disk between two runs: the paths that rules of kind `first-seen` learned.
//!
//! One small file in a directory of its own. A thread writes it as a whole, when something was learned and at the end; the
//! thread that reads records only sends. A file that others may write, or that is damaged, is refused: then all is learned anew.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::clock::boot_now;
use crate::rules::path_memory::{KnownByRule, KnownPaths, Learned, PathMemory, hash_probe};
use crate::units::{BootNs, DurationNs};

/// Name of the file in its directory.
const FILE: &str = "first-seen";
/// Version of the format.
const VERSION: u32 = 1;
/// A larger file is refused.
const SIZE_MAX: u64 = 16 << 20;
/// Most rules, and most paths of one.
const RULES_MAX: usize = 256;
const PATHS_MAX: usize = 65_536;
/// How long after something was learned it is written at the latest.
const DELAY: Duration = Duration::from_mins(1);
/// How long the end waits for the last write.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Why the state of earlier runs is not used.
#[derive(Debug, Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// Others may have written it.
    #[error("{0}")]
    Untrusted(String),
    /// It is of another version of conn.
    #[error("it is of another version of conn")]
    Version,
    /// It is not as it was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// Keeps the state of a run.
#[derive(Debug)]
pub struct StateWriter {
    learned: SyncSender<Learned>,
    ended: Receiver<()>,
}

impl StateWriter {
    /// Has everything written, and waits for it for a while.
    pub fn finish(self) {
        // The thread takes what waits, if it is alive.
        if self.learned.send(Learned::End).is_ok() {
            let _ = self.ended.recv_timeout(LAST_WRITE);
        }
    }
}

/// Reads what earlier runs learned from this directory, and starts to keep what this one learns. `report` is given messages for
/// people, here and in the thread that writes.
///
/// # Errors
/// When the thread cannot be started.
pub fn open(folder: &Path, report: impl Fn(&str) + Send + 'static) -> io::Result<(PathMemory, StateWriter)> {
    let path = folder.join(FILE);
    let known = read(&path).unwrap_or_else(|error| {
        report(&format!("warning: {} is not used, learning begins anew: {error}", path.display()));
        KnownByRule::default()
    });
    let (memory, learned, reports) = PathMemory::new(known.clone());
    let (done, ended) = channel();
    let mut keeper = Keeper::new(path, known);
    thread::Builder::new().name("conn-state".to_owned()).spawn(move || {
        keeper.run(&reports, &report);
        // Nobody may wait for it.
        let _ = done.send(());
    })?;
    Ok((memory, StateWriter { learned, ended }))
}

/// What one rule knows.
#[derive(Debug, Default)]
struct Rule {
    watched: DurationNs,
    /// When it began in this run.
    began: Option<BootNs>,
    paths: VecDeque<u64>,
}

#[derive(Debug)]
struct Keeper {
    path: PathBuf,
    rules: BTreeMap<Box<str>, Rule>,
    fails: bool,
}

impl Keeper {
    fn new(path: PathBuf, known: KnownByRule) -> Self {
        let rule =
            |known: KnownPaths| Rule { watched: known.watched, began: None, paths: known.paths.into() };
        let rules = known.into_iter().map(|(name, known)| (name, rule(known))).collect();
        Self { path, rules, fails: false }
    }

    fn run(&mut self, reports: &Receiver<Learned>, report: &impl Fn(&str)) {
        let mut due: Option<Instant> = None;
        loop {
            let next = match due {
                None => reports.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => reports.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match next {
                Ok(Learned::End) | Err(RecvTimeoutError::Disconnected) => {
                    self.write(report);
                    return;
                }
                Ok(learned) => {
                    self.take(learned);
                    due = due.or_else(|| Some(Instant::now() + DELAY));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.write(report);
                    due = None;
                }
            }
        }
    }

    fn take(&mut self, learned: Learned) {
        let (name, at, path) = match learned {
            Learned::Began(name, at) => (name, Some(at), None),
            Learned::Path(name, path) => (name, None, Some(path)),
            Learned::End => return,
        };
        if self.rules.len() >= RULES_MAX && !self.rules.contains_key(&*name) {
            // One that is not active has no use for its place.
            let unused =
                self.rules.iter().find(|(_, rule)| rule.began.is_none()).map(|(name, _)| name.clone());
            match unused {
                Some(unused) => drop(self.rules.remove(&unused)),
                None => return,
            }
        }
        let rule = self.rules.entry(Box::from(&*name)).or_default();
        if let Some(at) = at {
            rule.count(at);
            rule.began = Some(at);
        }
        rule.paths.extend(path);
        if rule.paths.len() > PATHS_MAX {
            rule.paths.pop_front();
        }
    }

    fn write(&mut self, report: &impl Fn(&str)) {
        let now = boot_now();
        self.rules.values_mut().for_each(|rule| rule.count(now));
        match replace(&self.path, &text(&self.rules)) {
            Ok(()) => self.fails = false,
            Err(error) if !self.fails => {
                self.fails = true;
                let path = self.path.display();
                report(&format!(
                    "cannot write {path}: {error}; what rules learn is lost at the end of this run"
                ));
            }
            Err(_) => {}
        }
    }
}

impl Rule {
    /// Adds the time since it began, or was counted last.
    fn count(&mut self, now: BootNs) {
        if let Some(began) = &mut self.began {
            self.watched.0 = self.watched.0.saturating_add(now.since(*began).0);
            *began = now.max(*began);
        }
    }
}

fn text(rules: &BTreeMap<Box<str>, Rule>) -> String {
    let mut text = format!("conn-state {VERSION} {:016x}\n", hash_probe());
    for (name, rule) in rules {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "rule {} {} {name}", rule.watched.0, rule.paths.len());
        for path in &rule.paths {
            let _ = writeln!(text, "{path:016x}");
        }
    }
    let sum = sum(&text);
    text.push_str(&sum);
    text
}

/// The last line: what is before it was written whole.
fn sum(text: &str) -> String {
    let mut line = String::from("sha256 ");
    for byte in Sha256::digest(text) {
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

/// Writes a file as a whole: whoever reads it has the one from before, or this one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// Returns what a file has; nothing if there is none.
fn read(path: &Path) -> Result<KnownByRule, StateError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        file => file?,
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(StateError::Untrusted("it is no regular file".to_owned()));
    }
    if meta.len() > SIZE_MAX {
        return Err(StateError::Damaged("it is too large"));
    }
    let folder = fs::metadata(path.parent().unwrap_or(Path::new(".")))?;
    for (what, meta) in [("it", meta), ("its directory", folder)] {
        // SAFETY: it has no arguments and cannot fail.
        let own = unsafe { libc::geteuid() };
        if meta.uid() != own && meta.uid() != 0 {
            return Err(StateError::Untrusted(format!("{what} belongs to user id {}", meta.uid())));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(StateError::Untrusted(format!("{what} is writable for others (chmod go-w)")));
        }
    }
    let mut text = String::new();
    file.take(SIZE_MAX).read_to_string(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => StateError::Damaged("it is no text"),
        _ => StateError::Io(error),
    })?;
    parse(&text)
}

fn parse(text: &str) -> Result<KnownByRule, StateError> {
    const SHORT: StateError = StateError::Damaged("it ends too early");
    const LINE: StateError = StateError::Damaged("a line is not as conn writes it");
    let at = text.rfind("sha256 ").ok_or(SHORT)?;
    let (body, last) = text.split_at(at);
    if last != sum(body) {
        return Err(StateError::Damaged("its check sum is wrong"));
    }
    let mut lines = body.lines();
    if lines.next() != Some(&*format!("conn-state {VERSION} {:016x}", hash_probe())) {
        return Err(StateError::Version);
    }
    let mut known = HashMap::new();
    while let Some(line) = lines.next() {
        let mut words = line.splitn(4, ' ');
        let (Some("rule"), Some(watched), Some(count), Some(name)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(LINE);
        };
        let watched = DurationNs(watched.parse().map_err(|_| LINE)?);
        let count: usize = count.parse().map_err(|_| LINE)?;
        if count > PATHS_MAX || known.len() >= RULES_MAX {
            return Err(StateError::Damaged("it has too much"));
        }
        let path = |line: &str| u64::from_str_radix(line, 16).map_err(|_| LINE);
        let paths = lines.by_ref().take(count).map(path).collect::<Result<Vec<_>, _>>()?;
        if paths.len() != count {
            return Err(SHORT);
        }
        known.insert(name.into(), KnownPaths { watched, paths });
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::mpsc::sync_channel;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("conn-state-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join(FILE)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Keeps what was learned, as a run does.
    fn kept(folder: &Folder, learned: Vec<Learned>) -> KnownByRule {
        let (sender, reports) = sync_channel(64);
        for learned in learned {
            sender.send(learned).expect("room");
        }
        drop(sender);
        let known = read(&folder.file()).expect("nothing wrong");
        Keeper::new(folder.file(), known).run(&reports, &|message: &str| panic!("{message}"));
        read(&folder.file()).expect("what was written")
    }

    #[test]
    fn the_next_run_has_what_was_learned() {
        let folder = Folder::new("next");
        let (one, two): (std::sync::Arc<str>, std::sync::Arc<str>) = ("a by ip".into(), "b".into());
        let known = kept(
            &folder,
            vec![
                Learned::Began(one.clone(), BootNs(0)),
                Learned::Path(one.clone(), 7),
                Learned::Path(two, 9),
            ],
        );
        assert_eq!((&known["a by ip"].paths[..], &known["b"].paths[..]), (&[7][..], &[9][..]));
        let (before, unused) = (known["a by ip"].watched, known["b"].watched);
        assert!(before.0 > 0 && unused.0 == 0, "only the one that began has watched");
        let known = kept(&folder, vec![Learned::Began(one.clone(), boot_now()), Learned::Path(one, 8)]);
        assert_eq!(known["a by ip"].paths, [7, 8]);
        assert!(known["a by ip"].watched >= before, "times add up");
        assert_eq!(fs::metadata(folder.file()).expect("written").mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 1, "nothing else is left");
    }

    #[test]
    fn it_is_bounded() {
        let folder = Folder::new("bounded");
        let mut keeper = Keeper::new(folder.file(), KnownByRule::default());
        for path in 0..PATHS_MAX as u64 + 5 {
            keeper.take(Learned::Path("a".into(), path));
        }
        for rule in 0..2 * RULES_MAX {
            keeper.take(Learned::Path(format!("rule {rule}").into(), 1));
        }
        keeper.write(&|message: &str| panic!("{message}"));
        let known = read(&folder.file()).expect("written");
        assert_eq!(known.len(), RULES_MAX);
        assert!(known.values().all(|known| known.paths.len() <= PATHS_MAX));
    }

    #[test]
    fn what_others_may_have_written_or_damaged_is_refused() {
        let folder = Folder::new("refused");
        let write = || drop(kept(&folder, vec![Learned::Path("a".into(), 7)]));
        let refused = || read(&folder.file()).expect_err("refused").to_string();
        let mode =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
        write();
        mode(&folder.file(), 0o620);
        assert_eq!(refused(), "it is writable for others (chmod go-w)");
        mode(&folder.file(), 0o600);
        mode(&folder.0, 0o777);
        assert_eq!(refused(), "its directory is writable for others (chmod go-w)");
        mode(&folder.0, 0o700);
        std::os::unix::fs::chown(folder.file(), Some(65_533), None).expect("root");
        assert_eq!(refused(), "it belongs to user id 65533");
        std::os::unix::fs::chown(folder.file(), Some(0), None).expect("root");
        let text = fs::read_to_string(folder.file()).expect("text");
        // Whatever byte changes, and wherever it ends.
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            if let Ok(changed) = std::str::from_utf8(&bytes) {
                assert!(parse(changed).is_err(), "byte {at}");
            }
            assert!(parse(&text[..at]).is_err(), "cut at {at}");
        }
        let body = text.split("sha256").next().expect("a body").replacen("state 1", "state 2", 1);
        assert!(matches!(parse(&format!("{body}{}", sum(&body))), Err(StateError::Version)));
        fs::remove_file(folder.file()).expect("removed");
        symlink("/etc/passwd", folder.file()).expect("a link");
        assert!(refused().starts_with("cannot read it"), "{}", refused());
    }

    #[test]
    fn a_refused_file_is_reported_and_written_anew() {
        let folder = Folder::new("anew");
        drop(kept(&folder, vec![Learned::Path("a".into(), 7)]));
        fs::write(folder.file(), "conn-state").expect("damaged");
        let (sender, messages) = channel();
        let report = move |message: &str| sender.send(message.to_owned()).expect("heard");
        let (memory, writer) = open(&folder.0, report).expect("a thread");
        let message = messages.recv().expect("a message");
        assert!(message.contains("learning begins anew: it is damaged"), "{message}");
        writer.finish();
        drop(memory);
        assert!(read(&folder.file()).expect("good again").is_empty());
    }
}
