//! The configuration file of `conn agent`.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use super::emit;
use crate::event::escape;
use crate::filter::amount;
use crate::filter::error::lines;
use crate::history::retention::Keep;
use crate::history::writer::HistoryOptions;
use crate::priority::Priority;
use crate::rules::file::source;
use crate::service::access::group_id;
use crate::service::{GROUP, default_socket};

/// Most of a file that is read.
const SIZE_MAX: u64 = 1 << 20;

/// The configuration as it is written. Every key may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// As `--backend`.
    pub backend: Option<String>,
    /// As `--ring-size`.
    pub ring_size: Option<String>,
    /// As `--priority`.
    pub priority: Priority,
    /// Rule folders; without any the built-in rules hold.
    pub rules: Vec<PathBuf>,
    /// Whether a reload may leave no rule: else the rules from before stay active.
    pub allow_empty_rules: bool,
    /// The directory in which is kept what rules learned; the empty text: nothing is kept.
    pub state: PathBuf,
    /// Where clients connect; the empty text: nowhere. Without it, see [`Config::socket`].
    pub socket: Option<PathBuf>,
    /// The group whose members may connect.
    pub group: String,
    /// Where alerts go.
    pub alerts: Alerts,
    /// Where events go.
    pub events: Events,
    /// What is kept.
    pub history: History,
}

/// What is kept of the events, to be asked later.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// Whether anything is.
    pub enabled: bool,
    /// The folder of its files; without it the one of `state`.
    pub folder: Option<PathBuf>,
    /// The last so many days.
    pub days: u32,
    /// At most so much: `500M`, `2G`.
    pub bytes: String,
    /// So many identical short connections in a second have rows of their own, the others are counted; 0: all have.
    pub rate: u32,
}

impl Default for History {
    fn default() -> Self {
        Self { enabled: true, folder: None, days: 30, bytes: "2G".to_owned(), rate: 20 }
    }
}

impl History {
    /// Where and how much is kept; `None`: nothing is.
    ///
    /// # Errors
    /// What is wrong, for people.
    fn options(&self, state: &Path, group: &str) -> Result<Option<HistoryOptions>, String> {
        let Some(folder) =
            self.folder.as_deref().or(Some(state)).filter(|folder| !folder.as_os_str().is_empty())
        else {
            return Ok(None);
        };
        if self.days == 0 {
            return Err("`days` of [history]: at least 1; `enabled = false` keeps nothing".to_owned());
        }
        let bytes = amount::bytes(&self.bytes)
            .ok_or_else(|| format!("`bytes` of [history]: {:?} is no size such as 500M or 2G", self.bytes))?;
        let keep = Keep { days: self.days, bytes };
        let group = group_id(group);
        Ok(self.enabled.then(|| HistoryOptions { folder: folder.to_owned(), keep, rate: self.rate, group }))
    }
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// A file that JSON lines are appended to; `-`: standard output; the empty text: none.
    pub file: PathBuf,
    /// The local syslog socket; the empty text: none.
    pub syslog: PathBuf,
}

/// Where events go: nowhere by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// A file that JSON lines are appended to; `-`: standard output; the empty text: none.
    pub file: PathBuf,
    /// Which ones.
    pub filter: String,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { file: "-".into(), syslog: "/dev/log".into() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: None,
            ring_size: None,
            priority: Priority::default(),
            rules: Vec::new(),
            allow_empty_rules: false,
            state: "/var/lib/conn".into(),
            socket: None,
            group: GROUP.to_owned(),
            alerts: Alerts::default(),
            events: Events::default(),
            history: History::default(),
        }
    }
}

impl Config {
    /// Where clients connect; `None`: nowhere.
    pub fn socket(&self) -> Option<PathBuf> {
        let own = self.socket.clone().filter(|path| !path.as_os_str().is_empty());
        if self.socket.is_some() { own } else { default_socket() }
    }

    /// Where and how much of the history is kept; `None`: nothing is.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn history(&self) -> Result<Option<HistoryOptions>, String> {
        self.history.options(&self.state, &self.group)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong, with the file, the place and the keys that there are.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = || escape::path(path);
        let mut warnings = Vec::new();
        let text = source::read(path, SIZE_MAX, &mut warnings)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into()))
            .with_context(|| format!("reading {}", shown()))?;
        for warning in warnings {
            emit(format_args!("warning: {warning}"));
        }
        let config: Self = toml::from_str(&text)
            // It shows a line of the file.
            .map_err(|error| anyhow::anyhow!("{}", lines(&error.to_string())))
            .with_context(|| format!("in {}", shown()))?;
        let places = [&config.alerts.file, &config.alerts.syslog, &config.events.file];
        if places.iter().all(|place| place.as_os_str().is_empty()) {
            anyhow::bail!("in {}: nothing is reported anywhere: set `file` or `syslog` of [alerts]", shown());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_needed_and_nothing_unknown_is_taken() {
        let config: Config = toml::from_str("").expect("empty");
        assert_eq!(config, Config::default());
        assert_eq!(config.state.to_str(), Some("/var/lib/conn"));
        let text = "rules = ['/etc/conn/rules.d']\nallow_empty_rules = true\n[alerts]\nsyslog = ''\n[events]\nfile = '-'\nfilter = 'dir:out'";
        let config: Config = toml::from_str(text).expect("all keys");
        assert_eq!(
            (
                config.events.filter.as_str(),
                config.alerts.syslog.as_os_str().is_empty(),
                config.allow_empty_rules
            ),
            ("dir:out", true, true)
        );
        let error = toml::from_str::<Config>("[alerts]\nsyslogg = 'x'").expect_err("unknown").to_string();
        assert!(error.contains("line 2, column 1") && error.contains("`syslog`"), "{error}");
    }

    #[test]
    fn a_socket_can_be_elsewhere_or_nowhere() {
        let socket = |text: &str| toml::from_str::<Config>(text).expect("keys").socket();
        assert_eq!(socket("socket = ''"), None);
        assert_eq!(socket("socket = '/tmp/s'"), Some("/tmp/s".into()));
        assert_eq!(Config::default().group, "conn");
    }

    #[test]
    fn something_must_be_reported_somewhere() {
        let path = std::env::temp_dir().join(format!("conn-config-{}.toml", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            Config::read(&path).map_err(|error| format!("{error:#}"))
        };
        let quiet = read("[alerts]\nfile = ''").expect("syslog");
        assert_eq!((quiet.alerts.file.to_str(), quiet.alerts.syslog.to_str()), (Some(""), Some("/dev/log")));
        let nowhere = read("[alerts]\nfile = ''\nsyslog = ''").expect_err("nowhere");
        assert!(nowhere.contains("nothing is reported anywhere"), "{nowhere}");
        let raw =
            read("backend = \"\u{9b}\u{202e}\x1b[31m\u{200b}\"\nx = 1").expect_err("a control character");
        assert!(raw.contains("line 1") && raw.contains('\n'), "{raw}");
        assert!(!raw.chars().any(|c| c != '\n' && escape::is_hidden(c)), "{raw:?}");
        std::fs::remove_file(&path).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("a FIFO");
        let fifo = Config::read(&path).expect_err("a FIFO");
        assert!(format!("{fifo:#}").ends_with("it is a FIFO, not a regular file"), "{fifo:#}");
        std::fs::remove_file(&path).expect("removed");
    }
}
