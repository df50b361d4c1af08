//! The unit files of systemd, found and merged as in systemd.unit(5): by the priority of folders, with masks, aliases,
//! drop-ins, templates and instances.

pub mod name;
pub mod syntax;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::syntax::Setting;

/// Where systemd looks for system units, first wins ("UNIT FILE LOAD PATH" in systemd.unit(5)).
const FOLDERS: [&str; 12] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
    "/run/systemd/system.attached",
];
const DROP_IN: &str = ".conf";
/// Folders beside a unit whose links name what it starts.
const STARTS: [&str; 3] = [".wants", ".requires", ".upholds"];
/// A longer unit file is read as far as this.
const LONGEST: u64 = 1 << 20;
/// More units are not looked at.
const UNITS_MAX: usize = 4096;
/// Aliases of aliases: as many as systemd follows (`FOLLOW_MAX` in src/shared/unit-file.c).
const ALIASES_MAX: usize = 8;

/// What the folders have: names and links. The files are read one by one ([`UnitFiles::load`]).
#[derive(Debug, Default)]
pub struct UnitFiles {
    folders: Vec<PathBuf>,
    units: BTreeMap<String, Source>,
    /// What a folder such as `sockets.target.wants` has: who wants, who is wanted; false: a link to /dev/null hides it.
    wants: BTreeMap<(String, String), bool>,
    /// Units that have a folder of drop-ins.
    changed: BTreeSet<String>,
    /// Names that are none of a unit.
    odd: Vec<PathBuf>,
    /// How many units were not looked at, because there are too many.
    beyond: usize,
}

/// What there is of a unit's name in the first folder that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(Arc<Path>),
    /// A link to /dev/null, or an empty file.
    Masked,
    Alias(String),
}

/// A unit: what its file and its drop-ins say, in the order in which it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Each assignment with the file that it stands in.
    pub settings: Vec<(Arc<Path>, Setting)>,
    /// Files of it that could not be read (to the end), with the reason: it may say more, or other things.
    pub unread: Vec<(Arc<Path>, String)>,
}

/// The load path of a system whose files lie below this folder.
pub fn load_path(root: &Path) -> Vec<PathBuf> {
    FOLDERS.iter().map(|folder| root.join(folder.trim_start_matches('/'))).collect()
}

impl UnitFiles {
    /// Looks through folders, the first of which counts most, for units whose names are wanted (drop-ins and links of
    /// others are not looked for). A folder that is not there has none; one that is there twice (`/lib` may lead to
    /// `/usr/lib`) counts where it is first.
    pub fn scan(folders: &[PathBuf], is_wanted: impl Fn(&str) -> bool) -> Self {
        let mut files = Self::default();
        let mut seen = BTreeSet::new();
        for folder in folders {
            // The same folder under its other name would be reported under both.
            if fs::canonicalize(folder).is_ok_and(|real| seen.insert(real)) {
                files.folders.push(folder.clone());
                files.scan_one(folder, &is_wanted);
            }
        }
        files
    }

    fn scan_one(&mut self, folder: &Path, is_wanted: &impl Fn(&str) -> bool) {
        for name in names(folder) {
            let path = folder.join(&name);
            if let Some(unit) = STARTS.iter().find_map(|suffix| name.strip_suffix(suffix)) {
                for wanted in names(&path).into_iter().filter(|name| is_wanted(name)) {
                    let hidden = is_masked(&path.join(&wanted));
                    self.wants.entry((unit.to_owned(), wanted)).or_insert(!hidden);
                }
            } else if let Some(unit) = name.strip_suffix(".d") {
                if is_wanted(unit) {
                    self.changed.insert(unit.to_owned());
                }
            } else if is_wanted(&name) {
                if !name::is_valid(&name) {
                    self.odd.push(path);
                } else if self.units.len() >= UNITS_MAX && !self.units.contains_key(&name) {
                    self.beyond += 1;
                } else if let Some(source) = source(&name, &path) {
                    self.units.entry(name).or_insert(source);
                }
            }
        }
    }

    /// Folders that are there.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Units (and templates) that have a file and are not masked; aliases are none.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let files = self.units.iter().filter(|(_, source)| matches!(source, Source::File(_)));
        files.map(|(name, _)| name.as_str())
    }

    /// How many names are masked.
    pub fn masked(&self) -> usize {
        self.units.values().filter(|source| **source == Source::Masked).count()
    }

    /// Units that have a folder of drop-ins; they need not have a file.
    pub fn changed(&self) -> impl Iterator<Item = &str> {
        self.changed.iter().map(String::as_str)
    }

    /// Files whose names are none of a unit.
    pub fn odd(&self) -> &[PathBuf] {
        &self.odd
    }

    /// How many units were not looked at, because there are too many.
    pub const fn beyond(&self) -> usize {
        self.beyond
    }

    /// What a link wants: who, and what.
    pub fn wants(&self) -> impl Iterator<Item = (&str, &str)> {
        self.wants.iter().filter(|(_, shown)| **shown).map(|((by, what), _)| (by.as_str(), what.as_str()))
    }

    /// The name of the unit that a name stands for: itself, unless it is an alias. `None`: the aliases go in circles.
    pub fn real_name(&self, name: &str) -> Option<String> {
        let mut name = name.to_owned();
        for _ in 0..ALIASES_MAX {
            name = match self.units.get(&name) {
                Some(Source::Alias(target)) => target.clone(),
                Some(_) => return Some(name),
                None => {
                    let template = name::template_of(&name);
                    match template.as_ref().and_then(|template| self.units.get(template)) {
                        Some(Source::Alias(target)) => {
                            let alias = name::instance_of(target, name::instance(&name)?);
                            alias.unwrap_or_else(|| target.clone())
                        }
                        _ => return Some(name),
                    }
                }
            };
        }
        None
    }

    /// All names of a unit, its own first.
    pub fn names_of(&self, name: &str) -> Vec<String> {
        let aliases = self.units.iter().filter(|(_, source)| matches!(source, Source::Alias(_)));
        let instance = name::instance(name).filter(|instance| !instance.is_empty());
        let mut all = vec![name.to_owned()];
        for alias in aliases.map(|(alias, _)| alias) {
            let alias = match instance {
                Some(instance) if name::is_template(alias) => name::instance_of(alias, instance),
                _ => Some(alias.clone()),
            };
            all.extend(alias.filter(|alias| self.real_name(alias).as_deref() == Some(name)));
        }
        all
    }

    /// What a unit's file (or that of its template) and its drop-ins say. `None`: it has no file or is masked. A slice needs
    /// no file.
    pub fn load(&self, name: &str) -> Option<Unit> {
        let template = name::template_of(name);
        let own = self.units.get(name).or_else(|| self.units.get(template.as_ref()?));
        let file = match own {
            Some(Source::File(path)) => Some(path),
            None if name::is_a(name, "slice") => None,
            _ => return None,
        };
        let (mut settings, mut unread) = (Vec::new(), Vec::new());
        for path in file.cloned().into_iter().chain(self.drop_ins(name)) {
            let (text, error) = read(&path);
            unread.extend(error.map(|error| (Arc::clone(&path), error)));
            settings.extend(syntax::settings(&text).into_iter().map(|setting| (Arc::clone(&path), setting)));
        }
        Some(Unit { name: name.to_owned(), settings, unread })
    }

    /// The drop-ins of a unit in the order in which they count: by their names, of each name the first one found.
    fn drop_ins(&self, name: &str) -> Vec<Arc<Path>> {
        let mut found = BTreeMap::<String, Arc<Path>>::new();
        let mut look = |folder: &Path, unit: &str| {
            let folder = folder.join(format!("{unit}.d"));
            for name in names(&folder).into_iter().filter(|name| name.ends_with(DROP_IN)) {
                let path = folder.join(&name);
                found.entry(name).or_insert_with(|| path.into());
            }
        };
        for name in self.names_of(name) {
            for folder in &self.folders {
                for unit in name::drop_in_names(&name) {
                    look(folder, &unit);
                }
            }
        }
        if let Some((_, kind)) = name::split_type(name) {
            self.folders.iter().for_each(|folder| look(folder, kind));
        }
        found.into_values().collect()
    }
}

/// `None`: it is nothing of systemd's (a folder, a link to nowhere).
fn source(name: &str, path: &Path) -> Option<Source> {
    if is_masked(path) {
        return Some(Source::Masked);
    }
    let target = fs::read_link(path).ok();
    let target = target.as_deref().and_then(Path::file_name).and_then(|target| target.to_str());
    // A link to a file of the same name elsewhere is a linked unit, and one to the template is an instance.
    let is_alias = |target: &&str| {
        *target != name
            && name::is_valid(target)
            && name::split_type(target).map(|(_, kind)| kind) == name::split_type(name).map(|(_, kind)| kind)
            && name::template_of(name).as_deref() != Some(*target)
    };
    match target.filter(is_alias) {
        Some(target) => Some(Source::Alias(target.to_owned())),
        None => path.is_file().then(|| Source::File(path.into())),
    }
}

/// A link to /dev/null, or an empty file (`null_or_empty` in src/basic/stat-util.c).
fn is_masked(path: &Path) -> bool {
    let null = |target: PathBuf| target == Path::new("/dev/null");
    fs::read_link(path).is_ok_and(null)
        || fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() == 0)
}

/// The names in a folder in their order; one that is not there has none, and a name that is not text is none of a unit.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).take(4 * UNITS_MAX).collect();
    names.sort_unstable();
    names
}

/// A file as far as it can be read, and why not to the end.
fn read(path: &Path) -> (String, Option<String>) {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    let error = match read {
        Err(error) => Some(error.to_string()),
        Ok(_) if bytes.len() as u64 > LONGEST => Some(format!("it is longer than {} MiB", LONGEST >> 20)),
        Ok(_) => None,
    };
    (String::from_utf8_lossy(&bytes).into_owned(), error)
}

#[cfg(test)]
#[path = "unit_files/tests.rs"]
mod tests;
#[cfg(test)]
pub(crate) use tests::Tree;
