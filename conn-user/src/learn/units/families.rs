//! `RestrictAddressFamilies=`: systemd.exec(5).

use std::collections::BTreeSet;

use super::cite::Cite;
use crate::process::unit_files::syntax;

/// Families of sockets that a unit may make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Families {
    /// `None`: nothing was listed.
    listed: Option<BTreeSet<String>>,
    /// The list is what may be made; else what may not.
    allows: bool,
    /// What made the list.
    pub(super) cites: Vec<Cite>,
    /// What systemd ignores, with the reason.
    pub(super) ignored: Vec<(Cite, String)>,
}

impl Families {
    /// Takes an assignment as `config_parse_address_families` (src/core/load-fragment.c) does: the first one says which sort
    /// of list it is, a later one of the other sort takes away.
    pub(super) fn assign(&mut self, cite: &Cite, value: &str) {
        match value {
            "" => *self = Self::default(),
            "none" => {
                *self = Self { allows: true, cites: vec![cite.clone()], ..Self::default() };
            }
            value => self.add(cite, value),
        }
    }

    fn add(&mut self, cite: &Cite, value: &str) {
        let (inverted, names) = value.strip_prefix('~').map_or((false, value), |names| (true, names));
        let Some(names) = syntax::words(names) else {
            self.ignored.push((cite.clone(), "systemd ignores it: a quote is not closed".to_owned()));
            return;
        };
        self.cites.push(cite.clone());
        let listed = match &mut self.listed {
            Some(listed) => listed,
            None => {
                self.allows = !inverted;
                self.listed.insert(BTreeSet::new())
            }
        };
        for name in names {
            if !name.starts_with("AF_") {
                self.ignored
                    .push((cite.clone(), format!("systemd ignores {name}, which is no address family")));
            } else if self.allows == inverted {
                listed.remove(&name);
            } else {
                listed.insert(name);
            }
        }
    }

    /// Whether sockets of this family may not be made.
    pub(super) fn denies(&self, family: &str) -> bool {
        self.allows != self.listed.as_ref().is_some_and(|listed| listed.contains(family))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{cite, testing::unit};
    use super::*;

    fn families(values: &[&str]) -> Families {
        let lines: Vec<String> =
            values.iter().map(|value| format!("RestrictAddressFamilies={value}")).collect();
        let unit = unit("a.service", &lines.join("\n"));
        let mut families = Families::default();
        for (cite, _, value) in cite::of_section(&unit, "Service") {
            families.assign(&cite, value);
        }
        families
    }

    /// Whether IPv4 and IPv6 are denied.
    fn denied(values: &[&str]) -> (bool, bool) {
        let families = families(values);
        (families.denies("AF_INET"), families.denies("AF_INET6"))
    }

    #[test]
    fn lists_of_both_sorts() {
        assert_eq!(denied(&[]), (false, false));
        assert_eq!(denied(&["none"]), (true, true));
        assert_eq!(denied(&["AF_UNIX"]), (true, true));
        assert_eq!(denied(&["AF_UNIX AF_INET"]), (false, true));
        assert_eq!(denied(&["~AF_INET AF_INET6"]), (true, true));
        assert_eq!(denied(&["~AF_INET6"]), (false, true));
        assert_eq!(denied(&["~AF_UNIX"]), (false, false));
        assert_eq!(denied(&["~"]), (false, false));
    }

    #[test]
    fn merging() {
        assert_eq!(denied(&["AF_UNIX", "AF_INET AF_INET6"]), (false, false));
        assert_eq!(denied(&["AF_UNIX AF_INET", "~AF_INET"]), (true, true), "taken away from what is allowed");
        assert_eq!(denied(&["~AF_INET", "AF_INET"]), (false, false), "taken away from what is denied");
        assert_eq!(denied(&["AF_UNIX", ""]), (false, false));
        assert_eq!(denied(&["AF_UNIX", "", "~AF_INET6"]), (false, true));
        assert_eq!(denied(&["none", "~AF_INET6"]), (false, true), "after none the next one begins a list");
        assert_eq!(denied(&["'AF_UNIX' \"AF_INET\" AF_INET6"]), (false, false));
    }

    #[test]
    fn what_is_ignored() {
        assert_eq!(families(&["AF_UNIX inet"]).ignored.len(), 1);
        assert_eq!(denied(&["inet"]), (true, true), "a list without a family allows none");
        let broken = families(&["AF_UNIX", "'AF_INET"]);
        assert_eq!((broken.ignored.len(), broken.cites.len()), (1, 1));
    }

    proptest! {
        #[test]
        fn any_values(values in prop::collection::vec("~?(AF_(UNIX|INET|INET6) ?|'|none|.){0,6}", 0..5)) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let _ = denied(&values);
        }
    }
}
