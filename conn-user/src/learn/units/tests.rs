//! From trees of unit files to rules, and to what the engine says of them.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::learn;
use crate::event::alert::{Phase, RuleKind};
use crate::event::samples::compare_file;
use crate::flow::model::ConnId;
use crate::process::info::ProcessInfo;
use crate::process::placement::Placement;
use crate::process::unit_files::Tree;
use crate::rules::file::{self, Checked};
use crate::rules::host::Host;
use crate::rules::model::Rule;
use crate::rules::testing::{Rig, process, seconds};

const LIB: &str = "usr/lib/systemd/system";

/// The rule file of a tree, without the tree's place.
fn text(tree: &Tree) -> String {
    let files = tree.scan();
    learn(&files).text(&files).replace(tree.0.to_str().expect("text"), "")
}

/// What `conn check` says of a rule file.
fn check(tree: &Tree, text: &str) -> Checked {
    let path: PathBuf = tree.0.join("learned.toml");
    std::fs::write(&path, text).expect("a file");
    file::read(&[path], &Host::default())
}

/// A tree of one unit.
fn tree(name: &str, text: &str) -> Tree {
    let tree = Tree::new();
    tree.write(&format!("{LIB}/{name}"), text);
    tree
}

/// The active rules of a tree.
fn rules(tree: &Tree) -> Vec<Rule> {
    let set = check(tree, &text(tree)).rules.unwrap_or_else(|errors| panic!("{errors}"));
    set.rules.iter().map(|rule| Rule::clone(rule)).collect()
}

/// An engine with these rules that has begun.
fn rig(tree: &Tree) -> Rig {
    let mut rig = Rig::before(rules(tree));
    rig.begin();
    rig
}

/// A process in this cgroup.
fn within(pid: u32, cgroup: &str) -> Arc<ProcessInfo> {
    let placement = Some(Arc::new(Placement::of(cgroup.as_bytes())));
    Arc::new(ProcessInfo { placement, ..ProcessInfo::clone(&process(pid, "/usr/bin/x")) })
}

fn of_unit(pid: u32, unit: &str) -> Arc<ProcessInfo> {
    within(pid, &format!("/system.slice/{unit}"))
}

/// Ids of the rules that raised something since the last call.
fn raised(rig: &mut Rig) -> Vec<String> {
    let reported = rig.reported().into_iter().filter(|alert| alert.phase == Phase::Raised);
    reported.map(|alert| alert.rule.id.to_string()).collect()
}

/// A tree with everything in it.
fn full() -> Tree {
    let tree = Tree::new();
    let lib = |name: &str, text: &str| tree.write(&format!("{LIB}/{name}"), text);
    let etc = |name: &str, text: &str| tree.write(&format!("etc/systemd/system/{name}"), text);
    lib(
        "sandboxed.service",
        "[Unit]\nDescription=x\n\n[Service]\nExecStart=/usr/bin/x\nPrivateNetwork=yes\n",
    );
    lib("named.service", "[Service]\nPrivateNetwork=yes\nNetworkNamespacePath=/run/netns/a\n");
    lib("joins.service", "[Unit]\nJoinsNamespaceOf=sandboxed2.service\n[Service]\nPrivateNetwork=1\n");
    lib("sandboxed2.service", "[Service]\nPrivateNetwork=true\n");
    lib("privileged.service", "[Service]\nExecStartPre=+/bin/y\nRestrictAddressFamilies=AF_UNIX\n");
    lib("unix.service", "[Service]\nRestrictAddressFamilies=AF_UNIX \\\n  AF_NETLINK\n");
    etc(
        "unix.service.d/more.conf",
        "[Service]\nRestrictAddressFamilies=AF_PACKET\nRestrictAddressFamilies=inet\n",
    );
    lib("v4.service", "[Service]\nRestrictAddressFamilies=~AF_INET6\n");
    lib("v6.service", "[Service]\nRestrictAddressFamilies=AF_INET6\n");
    lib(
        "local.service",
        "[Service]\nIPAddressDeny=any\nIPAddressAllow=localhost\nRestrictNetworkInterfaces=lo\n",
    );
    etc("local.service.d/50-lan.conf", "[Service]\nIPAddressAllow=192.0.2.0/24 nonsense\n");
    lib("open.service", "[Service]\nIPAddressDeny=any\nIPAddressAllow=any\n");
    lib("web.service", "[Service]\nSocketBindAllow=tcp:80\nSocketBindAllow=443\nSocketBindDeny=any\n");
    lib("udp.service", "[Service]\nSocketBindDeny=udp\nSocketBindAllow=%H\n");
    lib("worker@.service", "[Service]\nIPAddressDeny=any\nIPAddressAllow=localhost 10.0.0.%i\n");
    tree.link(
        "etc/systemd/system/multi-user.target.wants/worker@7.service",
        "/usr/lib/systemd/system/worker@.service",
    );
    lib("masked.service", "[Service]\nPrivateNetwork=yes\n");
    tree.link("etc/systemd/system/masked.service", "/dev/null");
    etc("system.slice.d/deny.conf", "[Slice]\nIPAddressDeny=10.0.0.0/8\n");
    etc("user-.slice.d/deny.conf", "[Slice]\nSocketBindDeny=tcp:1-1023\n");
    lib("ssh.socket", "[Socket]\nListenStream=22\nAccept=no\n");
    lib("ssh.service", "[Service]\nRestrictAddressFamilies=AF_UNIX\n");
    tree.link("etc/systemd/system/sockets.target.wants/ssh.socket", "/usr/lib/systemd/system/ssh.socket");
    lib(
        "cups.socket",
        "[Unit]\nConditionPathExists=/etc/cups\n[Socket]\nListenStream=/run/cups.sock\nListenStream=[::1]:631\nListenStream=127.0.0.1:631\nIPAddressDeny=any\nIPAddressAllow=localhost\n",
    );
    tree.link("etc/systemd/system/sockets.target.wants/cups.socket", "/usr/lib/systemd/system/cups.socket");
    lib("idle.socket", "[Socket]\nListenStream=[::]:79\n");
    lib("sctp.socket", "[Socket]\nListenStream=80\nSocketProtocol=sctp\n");
    lib("per@.socket", "[Socket]\nListenStream=%i\n");
    etc("odd name.service", "x");
    tree
}

#[test]
fn everything_in_one_file() {
    let tree = full();
    let text = text(&tree);
    compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/src/learn/units/golden.toml"), &text);
    let checked = check(&tree, &text);
    assert!(checked.rules.is_ok() && checked.warnings.is_empty(), "{:?}", checked.rules);
}

#[test]
fn every_setting_is_a_rule_or_is_reported() {
    let text = text(&full());
    for place in [
        "named.service:2",
        "open.service:2",
        "udp.service:2",
        "udp.service:3",
        "sctp.socket:3",
        "idle.socket:2",
    ] {
        assert!(text.lines().any(|line| line.starts_with("# -") && line.contains(place)), "{place}:\n{text}");
    }
    assert!(!text.contains("masked.service"));
}

#[test]
fn a_private_network_reaches_nobody() {
    let mut rig = rig(&tree("a.service", "[Service]\nPrivateNetwork=yes\n"));
    let own = of_unit(10, "a.service");
    rig.open(&own, "127.0.0.1:80");
    rig.open(&own, "[::1]:80");
    rig.open(&of_unit(11, "b.service"), "192.0.2.1:80");
    // A unit of this name that a user has is another one.
    rig.open(&within(12, "/user.slice/user-1.slice/user@1.service/app.slice/a.service"), "192.0.2.1:80");
    assert!(raised(&mut rig).is_empty());
    rig.open(&own, "192.0.2.1:80");
    assert_eq!(raised(&mut rig), ["unit.a.service.private-network"]);
}

#[test]
fn families_that_may_not_be_used() {
    let tree = Tree::new();
    tree.write(&format!("{LIB}/none.service"), "[Service]\nRestrictAddressFamilies=AF_UNIX\n");
    tree.write(&format!("{LIB}/four.service"), "[Service]\nRestrictAddressFamilies=AF_INET\n");
    tree.write(&format!("{LIB}/six.service"), "[Service]\nRestrictAddressFamilies=~AF_INET\n");
    tree.write(&format!("{LIB}/none.socket"), "[Socket]\nListenStream=22\n");
    let mut rig = rig(&tree);
    let (none, four, six) =
        (of_unit(10, "none.service"), of_unit(11, "four.service"), of_unit(12, "six.service"));
    rig.open(&four, "192.0.2.1:80");
    rig.listen(&four, "0.0.0.0:80");
    rig.open(&six, "[2001:db8::1]:80");
    rig.accept(&none, "10.0.0.1:22", "10.0.0.2:5000");
    assert!(raised(&mut rig).is_empty(), "what is allowed, and what came by the sockets of systemd");
    rig.open(&four, "[2001:db8::1]:80");
    rig.open(&six, "192.0.2.1:80");
    rig.listen(&none, "127.0.0.1:80");
    assert_eq!(
        raised(&mut rig),
        ["unit.four.service.families", "unit.six.service.families", "unit.none.service.families"]
    );
}

/// A connection of an IPv6 socket that has IPv4-mapped addresses needs the right to make an IPv6 socket.
#[test]
fn mapped_addresses_belong_to_the_other_family() {
    for (families, is_reported) in [("AF_INET", true), ("AF_INET6", false)] {
        let mut rig = rig(&tree("a.service", &format!("[Service]\nRestrictAddressFamilies={families}\n")));
        let process = of_unit(10, "a.service");
        let conn = rig.connection(
            crate::flow::model::Direction::Out,
            Some(&process),
            None,
            "192.0.2.1:80",
            crate::flow::model::Source::Live,
        );
        let mapped = crate::flow::model::ConnEvent { mapped: true, ..conn };
        let _: ConnId = rig.opens(mapped, crate::flow::model::Change::Connect);
        assert_eq!(!raised(&mut rig).is_empty(), is_reported, "{families}");
    }
}

#[test]
fn addresses_of_services_and_slices() {
    let tree = Tree::new();
    tree.write(
        "etc/systemd/system/system.slice.d/a.conf",
        "[Slice]\nIPAddressDeny=any\nIPAddressAllow=localhost\n",
    );
    tree.write(&format!("{LIB}/own.service"), "[Service]\nIPAddressAllow=192.0.2.0/24\n");
    tree.write(&format!("{LIB}/other.service"), "[Service]\nSlice=apart.slice\nIPAddressDeny=192.0.2.1\n");
    let mut rig = rig(&tree);
    let (own, plain) = (of_unit(10, "own.service"), of_unit(11, "plain.service"));
    let other = within(12, "/apart.slice/other.service");
    rig.open(&own, "192.0.2.7:80");
    rig.open(&own, "127.0.0.1:80");
    rig.open(&plain, "127.0.0.1:80");
    rig.open(&other, "198.51.100.1:80");
    rig.open(&within(13, "/user.slice/user-0.slice/session-1.scope"), "198.51.100.1:80");
    assert!(raised(&mut rig).is_empty());
    rig.open(&own, "198.51.100.1:80");
    rig.open(&plain, "192.0.2.7:80");
    rig.open(&within(14, "/system.slice/system-getty.slice/getty@tty1.service"), "192.0.2.7:80");
    rig.accept(&other, "10.0.0.1:80", "192.0.2.1:5000");
    let mut reported = raised(&mut rig);
    reported.sort_unstable();
    // The same program, address and port in the slice is one finding.
    assert_eq!(
        reported,
        ["unit.other.service.addresses", "unit.own.service.addresses", "unit.system.slice.addresses"]
    );
}

#[test]
fn ports_that_may_not_be_bound() {
    let text = "[Service]\nSocketBindDeny=any\nSocketBindAllow=tcp:80\nSocketBindAllow=ipv6:8000-8100\n";
    let mut rig = rig(&tree("a.service", text));
    let own = of_unit(10, "a.service");
    rig.listen(&own, "0.0.0.0:80");
    rig.listen(&own, "[::]:8100");
    rig.listen(&of_unit(11, "b.service"), "0.0.0.0:22");
    assert!(raised(&mut rig).is_empty());
    rig.listen(&own, "0.0.0.0:8100");
    assert_eq!(raised(&mut rig), ["unit.a.service.bind"]);
}

#[test]
fn a_socket_unit_that_is_started_is_expected_to_listen() {
    let tree = Tree::new();
    tree.write(&format!("{LIB}/a.socket"), "[Socket]\nListenStream=22\n");
    tree.write(&format!("{LIB}/idle.socket"), "[Socket]\nListenStream=23\n");
    tree.link("etc/systemd/system/sockets.target.wants/a.socket", "/usr/lib/systemd/system/a.socket");
    let kinds: Vec<RuleKind> = rules(&tree).iter().map(|rule| rule.about.kind).collect();
    assert_eq!(kinds, [RuleKind::Missing]);
    let mut rig = rig(&tree);
    let systemd =
        Arc::new(ProcessInfo { pid: crate::units::Pid(1), ..ProcessInfo::clone(&within(1, "/init.scope")) });
    // Somebody else at the port is not it.
    rig.listen(&of_unit(10, "thief.service"), "[::]:22");
    rig.pass(seconds(31));
    assert_eq!(raised(&mut rig), ["unit.a.socket.listen-22"]);
    let id = rig.listen_as(&systemd, "[::]:22", |listener| listener.socket_unit = Some("a.socket".into()));
    assert_eq!(rig.only().phase, Phase::Resolved);
    rig.unlisten(id);
    // The child that systemd makes the socket in, in the cgroup of the socket unit.
    rig.listen(&of_unit(11, "a.socket"), "[::]:22");
    rig.pass(seconds(31));
    assert!(raised(&mut rig).is_empty());
}

/// What cannot be read may take back what can: there is no rule, and that is reported.
#[test]
fn a_file_that_cannot_be_read() {
    let tree = tree("a.service", "[Service]\nPrivateNetwork=yes\n");
    // A folder is a file that nobody can read, root too.
    tree.write(&format!("{LIB}/a.service.d/a.conf/x"), "");
    let text = text(&tree);
    assert!(!text.contains("[[rule]]") && text.contains("a.service.d/a.conf: cannot be read"), "{text}");
}

/// Several units of the same place, of which conn cannot know which one it is.
#[test]
fn rivals_are_not_expected() {
    let tree = Tree::new();
    for name in ["a", "b"] {
        tree.write(&format!("{LIB}/{name}.socket"), "[Socket]\nListenStream=22\n");
        tree.link(
            &format!("etc/systemd/system/sockets.target.wants/{name}.socket"),
            &format!("/x/{name}.socket"),
        );
    }
    assert!(rules(&tree).is_empty() && text(&tree).matches("conn cannot know whose it is").count() == 2);
}

#[test]
fn instances_that_differ_have_rules_of_their_own() {
    let tree = Tree::new();
    tree.write(&format!("{LIB}/w@.service"), "[Service]\nPrivateNetwork=yes\n");
    tree.write("etc/systemd/system/w@free.service.d/a.conf", "[Service]\nPrivateNetwork=no\n");
    tree.write("etc/systemd/system/w@same.service.d/a.conf", "[Service]\nNice=1\n");
    let mut rig = rig(&tree);
    let instance = |pid, name: &str| within(pid, &format!("/system.slice/system-w.slice/w@{name}.service"));
    rig.open(&instance(10, "free"), "192.0.2.1:80");
    assert!(raised(&mut rig).is_empty());
    rig.open(&instance(11, "same"), "192.0.2.1:81");
    rig.open(&instance(12, "any"), "192.0.2.1:82");
    assert_eq!(raised(&mut rig), ["unit.w_.service.private-network"; 2]);
}

const KEYS: &str = "(PrivateNetwork|RestrictAddressFamilies|IPAddress(Allow|Deny)|SocketBind(Allow|Deny)|ListenStream|Slice|Service)";
const VALUES: &str = "((~?AF_INET6?|none|any|localhost|10\\.0\\.0\\.[0-9]/[0-9]{1,2}|[:0-9a-f]{2,8}|tcp|ipv[46]|yes|%[a-z]|'|\"|,|\\\\|\
                      a-b\\.slice)[ :]?){0,4}|.{0,12}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever units say, what is made of it is a rule file.
    #[test]
    fn any_units_make_a_rule_file(
        units in prop::collection::btree_map(
            "([a-c]|-|@|\\\\x2d){1,3}\\.(service|socket|slice)",
            prop::collection::vec((KEYS, VALUES), 0..8),
            0..5,
        ),
    ) {
        let tree = Tree::new();
        for (name, settings) in &units {
            let section = if name.ends_with("socket") { "Socket" } else if name.ends_with("slice") { "Slice" } else { "Service" };
            let lines: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
            tree.write(&format!("{LIB}/{name}"), &format!("[{section}]\n{}\n", lines.join("\n")));
            tree.link(&format!("etc/systemd/system/sockets.target.wants/{name}"), &format!("/{LIB}/{name}"));
        }
        let text = text(&tree);
        let checked = check(&tree, &text);
        prop_assert!(checked.rules.is_ok(), "{:?}\n{text}", checked.rules);
    }
}
