//! Rule files: what they mean, what is wrong with them, and that nothing makes them panic.

use std::fmt::Write as _;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::event::alert::Severity;
use crate::event::samples;
use crate::rules::model::{Detect, Expect, FanOutOf, PathKey, PathRule, Rule};
use crate::units::DurationNs;

const EXAMPLE: &str = include_str!("example.toml");
const HOUR: u64 = 3_600_000_000_000;

fn checked(files: &[(&str, &str)]) -> Checked {
    compile_texts(files, &Host::default(), false).finish()
}

fn set(files: &[(&str, &str)]) -> RuleSet {
    checked(files).rules.unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(files: &[(&str, &str)]) -> RuleErrors {
    checked(files).rules.map(|_| ()).expect_err("something is wrong")
}

fn find<'a>(set: &'a RuleSet, id: &str) -> &'a Rule {
    set.rules.iter().find(|rule| &*rule.about.id == id).unwrap_or_else(|| panic!("no rule {id}"))
}

#[test]
fn the_example_means_what_it_says() {
    let set = set(&[("a.toml", EXAMPLE)]);
    let egress = find(&set, "shop.egress");
    assert_eq!((egress.severity, egress.throttle), (Severity::High, DurationNs(HOUR / 6)));
    assert_eq!(egress.matches.to_string(), "dir:out unit:shop.service");
    assert_eq!(egress.except.len(), 2);
    assert_eq!(egress.about.attack.iter().map(|id| &**id).collect::<Vec<_>>(), ["T1071.001", "T1048"]);
    assert!(matches!(egress.detect, Detect::Path(PathRule::Forbidden)));

    let Detect::Path(PathRule::FirstSeen { by, learn }) = &find(&set, "new-peer").detect else { panic!() };
    assert_eq!((&**by, *learn), (&[PathKey::Unit, PathKey::Zone, PathKey::Port][..], DurationNs(24 * HOUR)));
    let Detect::Path(PathRule::Pivot { to, within, .. }) = &find(&set, "jump").detect else { panic!() };
    assert_eq!((to.to_string().as_str(), *within), ("dir:out dst:databases", DurationNs(HOUR / 12)));
    let Detect::Path(PathRule::FanOut { of, limit, window }) = find(&set, "scan").detect else { panic!() };
    assert_eq!((of, limit, window), (FanOutOf::Ports, 30, DurationNs(10_000_000_000)));
    let Detect::Path(PathRule::Beacon { score, at_least, .. }) = find(&set, "clock").detect else { panic!() };
    assert!((score - 0.95).abs() < 1e-9 && at_least == 30);
    assert_eq!(find(&set, "clock").severity, Severity::Medium, "by default");
    assert_eq!(&*find(&set, "clock").about.title, "clock", "the id by default");

    let Detect::Long(long) = &find(&set, "psql.long").detect else { panic!() };
    let expected = [(HOUR / 2, Severity::Low), (2 * HOUR, Severity::Medium), (8 * HOUR, Severity::High)];
    assert_eq!(*long.levels, expected.map(|(after, severity)| (DurationNs(after), severity)));
    let expect = |id| match &find(&set, id).detect {
        Detect::Missing(missing) => (missing.expect, missing.grace),
        other => panic!("{other:?}"),
    };
    assert_eq!(expect("web.gone"), (Expect::Listeners(1), DurationNs(20_000_000_000)));
    assert_eq!(expect("backup.gone"), (Expect::Every(DurationNs(25 * HOUR)), DurationNs(30_000_000_000)));

    let Detect::Long(shell) = &find(&set, "long.shell").detect else { panic!() };
    assert_eq!(shell.levels.iter().map(|(after, _)| after.0 / HOUR).collect::<Vec<_>>(), [8, 24]);
    assert!(find(&set, "long.shell").except.iter().any(|except| except.to_string() == "user:@admins"));
    assert!(set.rules.iter().all(|rule| &*rule.about.id != "path.beacon"), "not active");

    let zone = |ip: &str| set.names.zone_of(ip.parse::<IpAddr>().expect("an address")).to_owned();
    assert_eq!(zone("198.51.100.9"), "office");
    assert!(
        set.names
            .zone("internal")
            .is_some_and(|zone| zone.contains("198.51.100.9".parse().expect("an address")))
    );
    assert!(
        set.names
            .zone("external")
            .is_some_and(|zone| !zone.contains("198.51.100.9".parse().expect("an address")))
    );
    assert!(set.names.list("may-serve").is_some_and(|list| list.len() > 2));
}

fn rule(id: &str, more: &str) -> String {
    format!("[[rule]]\nid = \"{id}\"\nkind = \"server\"\nfind = \"listener\"\n{more}\n")
}

#[test]
fn later_files_win() {
    let one = rule("a", "match = 'lport:1'") + &rule("b", "match = 'lport:2'");
    let two = rule("a", "match = 'lport:@ports'") + "[lists]\nports = [7, \"8-9\"]\n";
    let three = "[lists]\nports = [\"@ports\", 10]\n[[override]]\nid = \"b\"\nenabled = false\n";
    let all = [("1.toml", one.as_str()), ("2.toml", two.as_str()), ("3.toml", three)];
    let checked = checked(&all);
    assert_eq!(
        (checked.off.len(), checked.files.iter().map(|(_, rules)| *rules).collect()),
        (1, vec![2, 1, 0])
    );
    let set = checked.rules.expect("right");
    assert_eq!(set.rules.len(), 1);
    assert_eq!(find(&set, "a").matches.to_string(), "lport:@ports");
    assert_eq!(set.names.list("ports").expect("a list"), ["7", "8-9", "10"]);
}

#[test]
fn zones_of_a_file_come_in_any_order() {
    let text =
        "[zones]\na = [\"b\"]\nb = [\"c\", \"10.1.0.0/16\"]\nc = [\"10.2.0.1\"]\nd = { not = [\"a\"] }\n";
    let set = set(&[("a.toml", text)]);
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let contains = |name: &str, address| set.names.zone(name).expect("a zone").contains(ip(address));
    assert!(contains("a", "10.2.0.1") && contains("a", "10.1.2.3") && !contains("a", "10.2.0.2"));
    assert!(contains("d", "10.2.0.2") && !contains("d", "10.1.2.3"));
}

#[test]
fn default_rules_are_there_only_when_asked_for() {
    let mine = rule("a", "match = 'lport:1 -exe:@interpreters'");
    assert_eq!(set(&[("a.toml", &mine)]).rules.len(), 1);
    let all = set(&[("a.toml", &("use = \"defaults\"\n".to_owned() + &mine))]);
    assert_eq!(all.rules.len(), 1 + built_in(&Host::default()).expect("right").rules.len());
    assert!(set(&[]).rules.is_empty());
}

/// Each mistake as people see it, in `errors.txt`.
#[test]
fn errors_as_people_see_them() {
    let r = |more: &str| rule("x", more);
    let path = |find: &str, more: &str| {
        format!("[[rule]]\nid = \"x\"\nkind = \"path\"\nfind = \"{find}\"\nmatch = ''\n{more}\n")
    };
    let long =
        |levels: &str| format!("[[rule]]\nid = \"x\"\nkind = \"long\"\nmatch = ''\nlevels = {levels}\n");
    let missing = |more: &str| format!("[[rule]]\nid = \"x\"\nkind = \"missing\"\nmatch = ''\n{more}\n");
    let cases = [
        "rule = 1".to_owned(),
        "[[rules]]\nid = \"x\"".to_owned(),
        "use = \"default\"".to_owned(),
        "[[rule]]\nkind = \"path\"".to_owned(),
        "[[rule]]\nid = \"Über\"".to_owned(),
        "[[rule]]\nid = \"x\"".to_owned(),
        "[[rule]]\nid = \"x\"\nkind = \"servr\"".to_owned(),
        "[[rule]]\nid = \"x\"\nkind = \"server\"\nmatch = ''".to_owned(),
        "[[rule]]\nid = \"x\"\nkind = \"server\"\nfind = \"listner\"\nmatch = ''".to_owned(),
        r(""),
        r("match = ''\ntrottle = \"1h\""),
        r("match = ''\nlimit = 3"),
        r("match = ''\nthrottle = \"1 hour\""),
        r("match = ''\nthrottle = 60"),
        r("match = ''\nseverity = \"hgih\""),
        r("match = ''\nattack = [\"T10\", 7]"),
        r("match = 'lport:1 prot:2'"),
        r("match = \"proc:\\\"a b\\\" prot:2\""),
        r("match = '''\nlport:1\n  lprot:2\n'''"),
        r("match = 'lport:1 exe:@shels'"),
        r("match = 'laddr:intrenal'"),
        r("match = ['lport:1']"),
        r("match = 'kind:exec'"),
        r("match = ''\nexcept = ['lport:1', 'x']"),
        r("match = ''\nenabled = 1"),
        r("match = ''") + &r("match = 'lport:1'"),
        path("fan-out", "limit = 0\nof = \"hosts\"\nwindow = \"0s\""),
        path("fan-out", ""),
        path("first-seen", "by = [\"unit\", \"prot\"]"),
        path("first-seen", "by = []"),
        path("beacon", "score = 2\nat_least = -1"),
        path("pivot", "to = 'dir:uot'"),
        long("[]"),
        long("[\"4h\", \"1h\"]"),
        long("[\"1h\", { severity = \"high\" }, { after = \"2h\", color = 1 }]"),
        long("\"1h\""),
        missing("expect = \"listener\"\nevery = \"1h\""),
        missing("expect = \"connection\"\nevery = \"1h\"\ncount = 2"),
        missing("find = \"listener\"\nexpect = \"listeners\""),
        "[zones]\nany = [\"10.0.0.0/8\"]\nA = []\na = [\"10.0.0.0/33\", \"intern\", \"external\"]\nb = \"10.0.0.0/8\"".to_owned(),
        "[zones]\na = [\"b\"]\nb = [\"a\"]\nc = { but = [\"a\"] }\nd = [\"d\"]".to_owned(),
        "[lists]\na = [\"@nothing\", 1.5]\nb = \"x\"".to_owned(),
        "[[override]]\nid = \"x\"\nenabled = false".to_owned(),
        r("match = ''") + "[[override]]\nid = \"x\"\nmatch = 'lport:1'\ntrottle = \"1h\"\nlimit = 3",
        r(r#"match = "arg:/\d+/""#),
        r(r#"match = "proc:/\bsh\b/""#),
        "[[rule]\nid = \"x\"\nkind = ".to_owned(),
        "id = \"a\"\nid = \"b\"".to_owned(),
        path("first-seen", "baseline = 1"),
        path("first-seen", "baseline = true\nby = [\"exe\"]\nlearn = \"1h\""),
        path("forbidden", "baseline = true"),
        "baseline = 1".to_owned(),
        "[baseline]\nlistener = {}\n[[baseline.conection]]\nexe = \"/x\"".to_owned(),
        "[[baseline.connection]]\ndir = \"up\"\nremote = \"intern\"\nport = 70000\n\
         [[baseline.connection]]\nunit = \"session-1.scope\"\nremote = \"\"\nport = \"9-1\"\ncolour = 1"
            .to_owned(),
        "[[baseline.listener]]\nunit = \"a.service\"\nexe = \"/x\"\nlocal = 1\nport = 80\ncount = -1\nfirst = \"noon\"\n\
         [[baseline.program]]\nexe = \"/x\"\n[[baseline.window]]\nto = \"2026-11-26T21:00:00Z\"\nlost = \"x\""
            .to_owned(),
        "x = \"\u{202e}\u{1b}[31m\"\n\ty = 1".to_owned(),
    ];
    let mut all = String::new();
    for case in cases {
        let errors = errors(&[("rules.toml", &case)]);
        let _ = write!(all, "-----\n{errors}\n");
    }
    assert!(all.chars().all(|c| c == '\n' || !escape::is_hidden(c)));
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/src/rules/file/errors.txt"), &all);
}

#[test]
fn all_errors_are_reported_and_none_that_only_follows() {
    let broken = "[zones]\nmine = [\"10.0.0.0/8\"]\n[[rule]]\nid = \"b\"\nkind = \n";
    let other = rule("a", "match = 'laddr:mine prot:1'") + "[[override]]\nid = \"b\"\nenabled = false\n";
    let errors = errors(&[("1.toml", broken), ("2.toml", &other)]);
    let reported: Vec<_> = errors
        .errors
        .iter()
        .map(|error| (error.file.to_str(), error.place.as_ref().map(|place| place.line)))
        .collect();
    assert_eq!(reported, [(Some("1.toml"), Some(5)), (Some("2.toml"), Some(5))], "{errors}");
}

/// A rule with as many mistakes as it has lines, and each of them reported, whatever else is wrong with it.
#[test]
fn no_error_of_a_rule_hides_another() {
    let wrong = "match = 'lprot:1'\nexcept = ['prot:1']\nseverity = 'hgih'\nthrottle = 'often'\ntitle = 1\nattack = [1]\n\
                 enabled = 1\ntrottle = '1h'\n";
    let heads = [
        ("[[rule]]\nid = 'x'\nkind = 'servr'\nfind = 'listener'\n", vec![3]),
        ("[[rule]]\nid = 'x'\nkind = 'server'\nfind = 'listner'\n", vec![4]),
        ("[[rule]]\nid = 'X'\nkind = 'server'\nfind = 'listner'\n", vec![2, 4]),
        ("[[rule]]\n\nkind = 'server'\nfind = 'listener'\n", vec![1]),
        ("[[rule]]\n\nfind = 'listener'\n\n", vec![1, 1]),
    ];
    for (head, mut lines) in heads {
        lines.extend(5..=12);
        let errors = errors(&[("a.toml", &(head.to_owned() + wrong))]);
        let reported = errors.errors.iter().filter_map(|error| error.place.as_ref());
        assert_eq!(reported.map(|place| place.line).collect::<Vec<_>>(), lines, "{errors}");
    }
    let own = "[[rule]]\nid = 'x'\nkind = 'path'\nfind = 'nothing'\nmatch = ''\nlearn = 1\nwithin = 1\ngrace = 1\nwindow = '0s'\n\
               limit = 0\nscore = 2\nat_least = 1\nsum = 1\nof = 'x'\nby = []\nlevels = []\nexpect = 'x'\ncount = 0\nevery = '0s'\n\
               to = 'x:y'\n";
    assert_eq!(errors(&[("a.toml", own)]).errors.len(), 1 + (6..=20).count());
    let change = "[[override]]\nid = 'X'\ntrottle = '1h'\n[[override]]\nid = 'gone'\nlimt = 1\n";
    assert_eq!(errors(&[("a.toml", change)]).errors.len(), 4);
}

#[test]
fn errors_are_bounded() {
    let text = (0..5_000).map(|n| format!("x{n} = 1")).collect::<Vec<_>>().join("\n");
    let errors = errors(&[("a.toml", &text)]);
    assert_eq!((errors.errors.len(), errors.more), (100, 4_900));
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("conn-rules-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn folders_and_files() {
    let folder = Folder::new("right");
    folder.write("20.toml", rule("b", "match = ''"));
    folder.write("10.toml", rule("a", "match = ''"));
    folder.write(".#10.toml", "not for us");
    folder.write("10.toml.bak", "not for us");
    let checked = read(std::slice::from_ref(&folder.0), &Host::default());
    let names: Vec<_> =
        checked.files.iter().map(|(path, _)| path.file_name().and_then(|name| name.to_str())).collect();
    assert_eq!(names, [Some("10.toml"), Some("20.toml")]);
    assert_eq!(checked.rules.expect("right").rules.len(), 2);
    let alone = load(&[folder.0.join("20.toml")], &Host::default()).expect("right");
    assert_eq!(alone.rules.len(), 1);
}

#[test]
fn what_cannot_be_read_is_reported() {
    let folder = Folder::new("wrong");
    folder.write("1.toml", b"[[rule]]\nid = \"\xff\"\n");
    folder.write("2.toml", vec![b'#'; (16 << 20) + 1]);
    std::fs::create_dir(folder.0.join("3.toml")).expect("a folder");
    let fifo = folder.0.join("4.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("a FIFO");
    let paths = [folder.0.clone(), folder.0.join("none"), PathBuf::from("/dev/zero")];
    let errors = load(&paths, &Host::default()).map(|_| ()).expect_err("wrong");
    let reported: Vec<&str> = errors.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(errors.errors[0].place.as_ref().map(|place| (place.line, place.column)), Some((2, 7)));
    for (at, expected) in [
        "not UTF-8",
        "larger than 16 MiB",
        "it is a folder, not a regular file",
        "it is a FIFO, not a regular file",
        "cannot read this file or folder",
        "it is a device, not a regular file",
    ]
    .iter()
    .enumerate()
    {
        assert!(reported[at].contains(expected), "{reported:?}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = checked(&[("a.toml", &text)]).rules.map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = checked(&[("a.toml", &text)]).rules.map_err(|errors| errors.to_string());
    }

    /// Changes to a file that is right: characters put in, taken out, lines doubled and swapped.
    #[test]
    fn no_mutation_panics(
        edits in proptest::collection::vec((any::<Index>(), any::<Index>(), 0..5_u8, select(EDITS)), 1..6),
    ) {
        let mut text = EXAMPLE.to_owned();
        for (one, two, what, piece) in edits {
            edit(&mut text, one, two, what, piece);
        }
        let checked = checked(&[("a.toml", &text)]);
        if let Err(errors) = checked.rules {
            for error in &errors.errors {
                let place = error.place.as_ref().expect("a place");
                prop_assert!(place.text.get(place.marked.clone()).is_some(), "{error}");
            }
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}

const EDITS: &[&str] = &[
    "",
    "\"",
    "'",
    "'''",
    "\"\"\"",
    "[",
    "]",
    "{",
    "}",
    "=",
    "\n",
    "\r\n",
    "\\",
    "@",
    ",",
    ":",
    "-",
    ".",
    "#",
    "1e999",
    "0x",
    "é",
    "\u{202e}",
    "enabled = 3\n",
    "[[rule]]\n",
    "[zones]\n",
    "levels = []\n",
    "99999999999999999999",
    "2020-01-01",
    "\t",
    "*",
    "/",
    "//",
];

fn edit(text: &mut String, one: Index, two: Index, what: u8, piece: &str) {
    let place = |index: Index, text: &str| {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        *index.get(&places)
    };
    let lines: Vec<&str> = text.lines().collect();
    match what {
        0 | 1 => {
            let at = place(one, text);
            text.insert_str(at, piece);
        }
        2 => {
            let (from, to) = (place(one, text), place(two, text));
            let to = to.min(from + 20);
            if from < to && text.is_char_boundary(to) {
                text.replace_range(from..to, piece);
            }
        }
        3 if !lines.is_empty() => {
            let mut lines = lines;
            let count = lines.len();
            lines.swap(one.index(count), two.index(count));
            *text = lines.join("\n");
        }
        _ if !lines.is_empty() => {
            let line = (*one.get(&lines)).to_owned();
            let mut lines = lines;
            lines.insert(two.index(lines.len()), &line);
            *text = lines.join("\n");
        }
        _ => {}
    }
}
