//! What a unit says about the network.

use super::address::IpAccess;
use super::bind::Binds;
use super::cite::{self, Cite};
use super::families::Families;
use super::specifier;
use crate::process::unit_files::{Unit, syntax};

/// Settings about the network that no rule can say, with the reason.
const NOT_SAID: [(&str, &str); 5] = [
    ("RestrictNetworkInterfaces", "filters know no network interface"),
    ("IPIngressFilterPath", "what the BPF program lets pass is not in the unit file"),
    ("IPEgressFilterPath", "what the BPF program lets pass is not in the unit file"),
    ("BPFProgram", "what the BPF program does is not in the unit file"),
    ("NFTSet", "what the firewall does with its set is not in the unit file"),
];

/// Commands of a service (systemd.service(5)).
const COMMANDS: [&str; 7] =
    ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"];

/// What a unit says about the network, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// `PrivateNetwork=`.
    pub(super) private_network: Option<(bool, Cite)>,
    /// `NetworkNamespacePath=`.
    pub(super) namespace_path: Option<Cite>,
    /// `JoinsNamespaceOf=`: other units.
    pub(super) joins: Vec<(String, Cite)>,
    /// `RestrictAddressFamilies=`.
    pub(super) families: Families,
    /// `IPAddressAllow=` and `IPAddressDeny=`.
    pub(super) ip: IpAccess,
    /// `SocketBindAllow=` and `SocketBindDeny=`.
    pub(super) binds: Binds,
    /// `Slice=`; an error: why it is not known.
    pub(super) slice: Option<(Result<String, String>, Cite)>,
    /// Commands that run with full privileges (`+`).
    pub(super) privileged: Vec<(String, Cite)>,
    /// What no rule can say, with the reason.
    pub(super) not_said: Vec<(Cite, &'static str)>,
    /// What systemd ignores, with the reason, where the lists do not have it.
    pub(super) ignored: Vec<(Cite, String)>,
}

impl Policy {
    /// What stands in this section (and in `[Unit]`).
    pub(super) fn of(unit: &Unit, section: &str) -> Self {
        let mut policy = Self::default();
        for (cite, key, value) in cite::of_section(unit, "Unit") {
            if key == "JoinsNamespaceOf" {
                let value = specifier::expand(value, &unit.name).unwrap_or_else(|_| value.to_owned());
                let names = syntax::words(&value).unwrap_or_default();
                policy.joins.extend(names.into_iter().map(|name| (name, cite.clone())));
                if value.is_empty() {
                    policy.joins.clear();
                }
            }
        }
        for (cite, key, value) in cite::of_section(unit, section) {
            policy.assign(unit, cite, key, value);
        }
        policy
    }

    fn assign(&mut self, unit: &Unit, cite: Cite, key: &str, value: &str) {
        match key {
            "PrivateNetwork" => match syntax::boolean(value) {
                Some(on) => self.private_network = Some((on, cite)),
                None => self.ignored.push((cite, "systemd ignores it: it is neither yes nor no".to_owned())),
            },
            "NetworkNamespacePath" => self.namespace_path = (!value.is_empty()).then_some(cite),
            "RestrictAddressFamilies" => self.families.assign(&cite, value),
            "Slice" => self.slice = (!value.is_empty()).then(|| (specifier::expand(value, &unit.name), cite)),
            key if COMMANDS.contains(&key) => {
                if value.is_empty() {
                    self.privileged.retain(|(own, _)| own != key);
                } else if is_privileged(value) {
                    self.privileged.push((key.to_owned(), cite));
                }
            }
            key => {
                if !self.ip.assign(unit, &cite, key, value)
                    && !self.binds.assign(unit, &cite, key, value)
                    && let Some((name, reason)) = NOT_SAID.iter().find(|(name, _)| *name == key)
                {
                    if value.is_empty() {
                        let is_same =
                            |cite: &Cite| cite.text().split_once('=').is_some_and(|(own, _)| own == *name);
                        self.not_said.retain(|(cite, _)| !is_same(cite));
                    } else {
                        self.not_said.push((cite, reason));
                    }
                }
            }
        }
    }

    /// Everything of it that systemd ignores.
    pub(super) fn all_ignored(&self) -> impl Iterator<Item = &(Cite, String)> {
        let lists = self.ip.allow.ignored.iter().chain(&self.ip.deny.ignored);
        let binds = self.binds.allow.ignored.iter().chain(&self.binds.deny.ignored);
        self.ignored.iter().chain(&self.families.ignored).chain(lists).chain(binds)
    }
}

/// A `+` among the signs before a command (`@`, `-`, `:`, `+`, `!`, `|`).
fn is_privileged(command: &str) -> bool {
    command.chars().take_while(|c| "@-:+!|".contains(*c)).any(|c| c == '+')
}

#[cfg(test)]
mod tests {
    use super::super::testing::unit;
    use super::*;

    #[test]
    fn the_last_one_counts() {
        let policy = |text: &str| Policy::of(&unit("a.service", text), "Service");
        let on = |text: &str| policy(text).private_network.is_some_and(|(on, _)| on);
        assert!(on("PrivateNetwork=no\nPrivateNetwork=yes"));
        assert!(!on("PrivateNetwork=yes\nPrivateNetwork=off"));
        let ignored = policy("PrivateNetwork=yes\nPrivateNetwork=maybe");
        assert_eq!((ignored.private_network.map(|(on, _)| on), ignored.ignored.len()), (Some(true), 1));
        assert!(!on("[Install]\nPrivateNetwork=yes"));
        assert!(policy("NetworkNamespacePath=/x\nNetworkNamespacePath=").namespace_path.is_none());
        assert_eq!(policy("[Unit]\nJoinsNamespaceOf=a.service b.service").joins.len(), 2);
        assert_eq!(
            policy("BPFProgram=ingress:/x\nBPFProgram=\nRestrictNetworkInterfaces=eth0").not_said.len(),
            1
        );
    }

    #[test]
    fn privileged_commands() {
        let many = |text: &str| Policy::of(&unit("a.service", text), "Service").privileged.len();
        assert_eq!(
            many("ExecStartPre=+/bin/a\nExecStart=-+/bin/b\nExecStop=!/bin/c+\nExecReload=/bin/d +"),
            2
        );
        assert_eq!(many("ExecStart=+/bin/a\nExecStart=\nExecStart=/bin/b"), 0);
    }
}
