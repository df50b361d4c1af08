//! Which units start with the machine.

use std::collections::{BTreeMap, VecDeque};

use super::cite;
use crate::process::unit_files::{UnitFiles, name, syntax};

/// What every boot of a system starts (bootup(7)). `basic.target` wants `sockets.target`, and so on, but its file need not be
/// in the folders that are looked at.
const ROOTS: [&str; 6] = [
    "default.target",
    "graphical.target",
    "multi-user.target",
    "basic.target",
    "sysinit.target",
    "sockets.target",
];
/// Units that are followed; beyond that none is.
const MOST: usize = 16_384;

/// Each unit that is started, with the one that starts it.
///
/// Followed are the links in `.wants`, `.requires` and `.upholds`, and what the files name as such. Without an own
/// `default.target` it is taken for granted that the machine goes up to `graphical.target`.
pub(super) fn started(files: &UnitFiles) -> BTreeMap<String, String> {
    let mut links = BTreeMap::<&str, Vec<&str>>::new();
    for (by, wanted) in files.wants() {
        links.entry(by).or_default().push(wanted);
    }
    let own_default = files.real_name("default.target").filter(|target| target != "default.target");
    let roots = ROOTS
        .iter()
        .filter(|root| own_default.is_none() || !matches!(**root, "graphical.target" | "multi-user.target"));
    let mut found = BTreeMap::new();
    let mut waiting: VecDeque<(String, String)> = VecDeque::new();
    for root in roots {
        waiting.push_back(((*root).to_owned(), "every boot".to_owned()));
    }
    while let Some((wanted, by)) = waiting.pop_front() {
        let Some(unit) = files.real_name(&wanted) else { continue };
        if found.len() >= MOST || found.contains_key(&unit) {
            continue;
        }
        let mut names = files.names_of(&unit);
        // Links of a template count for its instances.
        names.extend(name::template_of(&unit));
        let linked = names.iter().filter_map(|name| links.get(name.as_str())).flatten();
        let mut next: Vec<String> = linked.map(|name| (*name).to_owned()).collect();
        next.extend(named(files, &unit));
        waiting.extend(next.into_iter().map(|wanted| (wanted, unit.clone())));
        found.insert(unit, by);
    }
    found
}

/// What a unit's file says that it starts.
fn named(files: &UnitFiles, unit: &str) -> Vec<String> {
    let Some(unit) = files.load(unit) else { return Vec::new() };
    let starts = |section: &str, key: &str| match section {
        "Unit" => matches!(key, "Wants" | "Requires" | "BindsTo" | "Upholds"),
        "Service" => key == "Sockets",
        _ => false,
    };
    let mut names = Vec::new();
    for section in ["Unit", "Service"] {
        for (_, _, value) in cite::of_section(&unit, section).filter(|(_, key, _)| starts(section, key)) {
            if let Ok(value) = super::specifier::expand(value, &unit.name) {
                names.extend(syntax::words(&value).unwrap_or_default());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::unit_files::Tree;

    #[test]
    fn from_the_default_target_on() {
        let tree = Tree::new();
        let at = |path: &str| format!("usr/lib/systemd/system/{path}");
        tree.link(&at("default.target"), "graphical.target");
        tree.write(&at("graphical.target"), "[Unit]\nRequires=multi-user.target\n");
        tree.write(&at("multi-user.target"), "[Unit]\nRequires=basic.target\n");
        tree.write(&at("rescue.target"), "[Unit]\nWants=never.socket\n");
        tree.link("etc/systemd/system/multi-user.target.wants/cups.service", &at("cups.service"));
        tree.write(&at("cups.service"), "[Unit]\nRequires=cups.socket\n[Service]\nSockets=more.socket\n");
        tree.link(&at("sockets.target.wants/in@1.socket"), "../in@.socket");
        tree.write(&at("in@.socket"), "[Unit]\nWants=of-%i.socket\n");
        let started = started(&tree.scan());
        let by = |name: &str| started.get(name).map(String::as_str);
        assert_eq!(by("cups.socket"), Some("cups.service"));
        assert_eq!(by("more.socket"), Some("cups.service"));
        assert_eq!((by("in@1.socket"), by("of-1.socket")), (Some("sockets.target"), Some("in@1.socket")));
        assert_eq!((by("never.socket"), by("rescue.target")), (None, None));
        assert_eq!(by("sockets.target"), Some("every boot"));
    }

    #[test]
    fn another_default_target() {
        let tree = Tree::new();
        tree.link("etc/systemd/system/default.target", "/usr/lib/systemd/system/rescue.target");
        tree.write("usr/lib/systemd/system/rescue.target", "[Unit]\n");
        tree.link("etc/systemd/system/multi-user.target.wants/a.socket", "../a.socket");
        assert!(!started(&tree.scan()).contains_key("a.socket"));
    }
}
