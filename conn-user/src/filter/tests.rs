//! The language: examples, errors as people see them, a naive evaluator, and the page of the documentation.

use std::fmt::Write;

use super::key::Key;
use super::names::Zone;
use super::*;
use crate::event::names;
use crate::event::samples;
use crate::flow::model::{Direction, EndedHow, Source, Transport, UnknownReason};
use crate::flow::snapshot::model::TcpState;
use crate::kernel::gap::GapCause;
use crate::process::info::ProcessSource;
use crate::process::placement::Runtime;

fn filter(text: &str) -> Filter {
    Filter::new(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Numbers of the samples that match.
fn matching(text: &str) -> Vec<u64> {
    let filter = filter(text);
    samples::all().iter().filter(|event| filter.matches(event)).map(|event| event.seq).collect()
}

#[test]
fn examples() {
    assert_eq!(matching("").len(), samples::all().len());
    assert_eq!(matching("pid:4242 kind:connect"), [2, 9]);
    assert_eq!(matching("kind:connect,failed errno:ECONNREFUSED"), [8]);
    assert_eq!(matching("errno:cancelled"), [10]);
    assert_eq!(matching("proto:mptcp"), [7, 8]);
    assert_eq!(matching("dst:2001:db8::/32 rport:440-450"), [7, 8]);
    assert_eq!(matching("kind:exit -proc:nginx"), [19]);
    assert_eq!(matching("proc:/^ngin/ kind:exit"), [20]);
    assert_eq!(matching("exe:/usr/bin/* kind:exec"), [18]);
    assert_eq!(matching("arg:\"nginx: worker process\" kind:exit"), [20]);
    assert_eq!(matching("end:peer_reset,timeout"), [12, 14]);
    assert_eq!(matching("kind:listen dport:8080"), [1]);
    assert_eq!(matching("method:unknown"), [12, 22]);
    assert_eq!(matching("source:late dir:unknown"), [12]);
    assert_eq!(matching("source:snapshot,resync"), [21, 22, 23]);
    assert_eq!(matching("method:fd_table kind:unlisten"), [23]);
    assert_eq!(matching("kind:exec,exit user:ann"), [18, 19]);
    assert_eq!(matching("kind:exec,exit parent:bash"), [18, 19]);
    assert_eq!(matching("kind:exec,exit ancestor:/usr/sbin/sshd -ancestor:cron"), [18, 19]);
    assert_eq!(matching("kind:exec unit:session-*.scope cwd:/home/* tty:pts/3"), [18]);
    assert_eq!(matching("unit:/x\\.service$/ kind:exec"), [17]);
    assert_eq!(matching("kind:exit runtime:containerd container:0f7d84f32c4d pod:/^2c48/"), [20]);
    assert_eq!(matching("kind:exit container:0f7d84f32c4"), Vec::<u64>::new(), "too short");
    assert_eq!(matching("exe_flag:writable kind:exec"), [17]);
    assert_eq!(matching("exe_flag:memfd"), [24, 27]);
    assert_eq!(matching("unit:ssh.socket"), [25]);
    assert_eq!(matching("kind:listen unit:init.scope"), [25, 26]);
    assert_eq!(matching("exe_sha256:00081018* kind:exec"), [18]);
}

#[test]
fn a_process_of_a_close_is_owner_or_closer() {
    assert_eq!(matching("kind:close pid:666"), [6]);
    assert_eq!(matching("kind:close pid:812"), [6, 14, 21]);
    assert_eq!(matching("kind:close -pid:666,812"), [5, 12]);
}

#[test]
fn directions_are_those_of_the_connection() {
    assert_eq!(matching("kind:accept sport:40000 dport:8080"), [3, 13]);
    assert_eq!(matching("kind:connect sport:40000 dport:8080"), [2]);
    assert_eq!(matching("kind:close dir:unknown dport:8080"), Vec::<u64>::new());
}

#[test]
fn an_unknown_port_is_no_port() {
    assert_eq!(matching("lport:0-65535 kind:connect"), [2, 7]);
}

#[test]
fn mapped_networks_are_ipv4() {
    assert_eq!(matching("kind:connect dst:::ffff:127.0.0.0/104"), [2, 9]);
    assert_eq!(matching("kind:connect dst:[::ffff:127.0.0.1]"), [2, 9]);
}

#[test]
fn gaps_pass_unless_named() {
    let gap = samples::all().into_iter().rfind(|event| event.body.kind() == EventKind::Gap).expect("a gap");
    assert!(!filter("port:80").matches(&gap) && filter("port:80").passes(&gap));
    assert!(filter("kind:connect").passes(&gap));
    assert!(!filter("-kind:gap").passes(&gap));
    assert!(filter("lost:1").passes(&gap) && !filter("lost:>1").passes(&gap));
    assert!(filter("code:>0").asks_for(EventKind::Exit) && !filter("-signal:9").asks_for(EventKind::Exit));
    assert!(filter("kind:exec").asks_for(EventKind::Exec) && !filter("-kind:exec").asks_for(EventKind::Exec));
}

/// Names with a few of their own.
pub(super) fn names() -> Names {
    let mut names = Names::builtin().clone();
    let office = Zone::In(["10.0.1.0/24".parse().expect("a network")].into());
    names.set_zone("office", office).expect("a name");
    for (name, values) in properties::LISTS {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        names.set_list(name, values).expect("a name");
    }
    names
}

#[test]
fn zones_are_values_of_addresses() {
    assert_eq!(matching("kind:connect dst:loopback"), [2, 9]);
    assert_eq!(matching("kind:connect dst:internal"), [2, 9]);
    assert_eq!(matching("kind:connect dst:external"), [7]);
    assert_eq!(matching("kind:connect -dst:loopback,2001:db8::/64"), [7]);
    assert_eq!(matching("kind:connect dst:any"), [2, 7, 9]);
    assert!(Filter::new("dst:office").is_err());
    assert!(Filter::with_names("dst:office,-src", &names()).is_err());
}

#[test]
fn lists_are_values_of_any_key() {
    let mut names = names();
    let mut matching = |list: &[&str], text: &str| -> Vec<u64> {
        names.set_list("x", list.iter().map(|value| (*value).to_owned()).collect()).expect("a name");
        let filter = Filter::with_names(text, &names).unwrap_or_else(|error| panic!("{error}"));
        samples::all().iter().filter(|event| filter.matches(event)).map(|event| event.seq).collect()
    };
    assert_eq!(matching(&["curl", "/^ngi/"], "kind:exec,exit proc:@x"), [18, 19, 20]);
    assert_eq!(matching(&["\"curl\"", "n*"], "kind:exec,exit proc:@x"), [18, 19, 20]);
    assert_eq!(matching(&["nginx: worker process"], "kind:exit arg:@x"), [20], "blanks are text");
    assert_eq!(matching(&["1-79", ">=443"], "kind:connect dport:@x,80"), [2, 7, 9]);
    assert_eq!(matching(&["external", "10.0.0.0/8"], "kind:connect dst:@x"), [7]);
    assert_eq!(matching(&["ECONNREFUSED"], "errno:@x"), [8]);
    assert_eq!(matching(&["failed"], "kind:@x errno:cancelled"), [10]);
    assert_eq!(matching(&[], "kind:exit proc:@x"), Vec::<u64>::new(), "an empty list has nothing");
    assert_eq!(matching(&[], "kind:exit -proc:@x"), [19, 20]);
    assert_eq!(matching(&["curl"], "proc:\"@x\""), Vec::<u64>::new(), "a text in quotes is no list");
}

#[test]
fn numbers_are_compared() {
    assert_eq!(matching("kind:close duration:>1s"), [5, 6, 14]);
    assert_eq!(matching("duration:>1d1h"), [16]);
    assert_eq!(matching("duration:<=1.23456789s"), [5, 6, 14]);
    assert_eq!(matching("duration:<1.23456789s,2d-3d"), Vec::<u64>::new());
    assert_eq!(matching("bytes_in:5M-6M bytes_out:<79 retransmits:>=2 srtt:431us-1ms"), [5, 6, 14, 21]);
    assert_eq!(matching("connect_time:>=250us"), [4]);
    assert_eq!(matching("after:200us-1ms"), [8]);
    assert_eq!(matching("kind:connect dport:>8079"), [2, 9]);
    assert_eq!(matching("kind:connect dport:<8080"), [7]);
    assert_eq!(matching("kind:exit code:>0"), [19]);
    assert_eq!(matching("signal:9"), [20]);
    assert_eq!(matching("lost:>=12 cpu:<2 cause:ring_full"), [33]);
}

#[test]
fn an_age_must_fit_as_a_whole() {
    assert_eq!(matching("age:>50m"), [21], "at least 3150 s");
    assert_eq!(matching("age:>1h"), Vec::<u64>::new(), "perhaps");
    assert_eq!(matching("age:3s-2h"), [21, 23]);
    assert_eq!(matching("age:<2h"), [21, 23], "nothing reports how old the third is at most");
}

#[test]
fn fields_of_their_own() {
    assert_eq!(matching("closer:nginx kind:close"), [14, 21]);
    assert_eq!(matching("closer_reason:kernel"), [12]);
    assert_eq!(matching("closer_method:closer"), [14]);
    assert_eq!(matching("listener:/usr/sbin/nginx"), [3]);
    assert_eq!(matching("listener_reason:before_attach"), [13]);
    assert_eq!(matching("reason:no_holder"), [22]);
    assert_eq!(matching("kernel_socket:true"), [22]);
    assert_eq!(matching("hook:kprobe:*"), [6, 7, 8]);
    assert_eq!(matching("hook:fentry:tcp_close kind:gap"), [33]);
    assert_eq!(matching("socket_unit:*"), [25]);
    assert_eq!(matching("exe_fs:ext4 exe_mount:/ kind:exec login_uid:1000 ancestor_pid:901"), [18]);
    assert_eq!(matching("slice:user-1000.slice kind:exec cgroup:*session-3* process_netns:>0"), [18]);
    assert_eq!(matching("user_unit:* kind:exec args_truncated:true kernel:false"), [17]);
    assert_eq!(matching("process_source:fork kind:exit"), [20]);
    assert_eq!(matching("mapped:true kind:listen,connect"), [9, 15]);
}

#[test]
fn interfaces() {
    assert_eq!(matching("device:eth0"), [22, 23]);
    assert_eq!(matching("-device:* kind:close"), [5, 6, 14, 21]);
    assert_eq!(matching("dst:fe80::2%eth0"), [22]);
    assert_eq!(matching("dst:fe80::2%eth1"), Vec::<u64>::new());
    assert_eq!(matching("dst:fe80::2%eth0,127.0.0.1%eth0 kind:established"), [22]);
    assert_eq!(matching("src:fe80::%eth0/64"), [22]);
    assert_eq!(matching("src:[fe80::1]%eth0 dst:[fe80::2%eth0]:2049"), [22]);
    assert_eq!(matching("ip:::1%eth0"), [23], "a listener");
    assert_eq!(matching("ip:internal%eth0 -dst:fe80::2%eth0"), [23]);
    assert_eq!(matching("kind:established -dst:fe80::2%eth1"), [4, 22]);
}

#[test]
fn late_facts_are_known_by_their_words() {
    for (text, late) in [
        ("proc:x exe_flag:memfd", false),
        ("proc:x exe_flag:deleted,memfd", true),
        ("exe_flag:user_writable", true),
        ("proc:x -exe_flag:deleted,writable", true),
        ("exe_sha256:0*", true),
        ("cwd:/tmp", true),
        ("script:/tmp/*", true),
        ("-tty:*", true),
        ("exe_fs:tmpfs", true),
        ("process_netns:1", true),
        ("netns:1 unit:x cgroup:/ user:root", false),
    ] {
        assert_eq!(filter(text).needs_late_facts(), late, "{text}");
    }
}

/// Errors as people see them; the file is read by people too.
#[test]
fn errors() {
    let mut shown = String::new();
    let mut names = names();
    names.set_list("regexes", vec!["/(/".to_owned()]).expect("a name");
    names.set_list("nested", vec!["@text".to_owned()]).expect("a name");
    for text in [
        "nginx",
        "8080",
        "10.0.0.1 port:80",
        "/usr/bin/nginx",
        "tmux: server",
        "port=443",
        "port",
        "port -proc:x",
        "port proc:x",
        "port:80 or port:443",
        "(port:80)",
        "tcp port 443",
        "host:example.org",
        "host example.org",
        "process:nginx",
        "not",
        "proc:x !",
        "user:0,root",
        "proc:/\u{8}sh/",
        "-dst:10.0.0.1:80",
        "ip:[::1]:80",
        "prot:443",
        "colour:red",
        "2001:db8::1",
        "proc:nginx - port:1",
        "port:",
        "port:80,",
        "port:http",
        "port:8100-8000",
        "port:65536",
        "port:/80/",
        "pid:nginx",
        "uid:root",
        "dst:10.0.*",
        "dst:internl",
        "dst:example",
        "dst:@cdn",
        "proc:@",
        "dst:@text",
        "proc:@regexes",
        "dport:@ports,@port",
        "proc:@nested",
        "uid:>4294967295",
        "port:<0",
        "duration:5s",
        "duration:>5",
        "bytes_in:>1KB",
        "mapped:yes",
        "dst:10.0.0.0/33",
        "dst:fe80::1%eth*",
        "dst:fe80::1%",
        "dst:internl%eth0",
        "-dst:[fe80::1]%eth0:443",
        "kind:conect",
        "kind:banana",
        "dir:outgoing",
        "end:reset",
        "errno:ECONREFUSED",
        "errno:what",
        "family:4",
        "proc:\"tmux: server",
        "proc:\"a\"b",
        "proc:/(/",
        "proc:/(a{1,100}){1,100}{1,100}/",
        "proc:x 漢字:\u{1b}[2J \u{202e}",
        "漢字:1 port:x",
    ] {
        let error = Filter::with_names(text, &names).expect_err(text);
        let _ = writeln!(shown, "$ {}\n{error}\n", text.escape_debug());
    }
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/src/filter/errors.txt"), &shown);
}

pub(super) fn names_of(key: Key) -> Option<Vec<&'static str>> {
    Some(match key {
        Key::State => names::all::<TcpState>(),
        Key::ExeFlag => names::all::<names::ExeFlag>(),
        Key::Runtime => names::all::<Runtime>(),
        Key::Dir => names::all::<Direction>(),
        Key::Kind => names::all::<EventKind>(),
        Key::Proto => names::all::<Transport>(),
        Key::End => names::all::<EndedHow>(),
        Key::Source => names::all::<Source>(),
        Key::Family => vec!["ipv4", "ipv6"],
        Key::Method | Key::CloserMethod | Key::ListenerMethod => names::METHODS.to_vec(),
        Key::Reason | Key::CloserReason | Key::ListenerReason => names::all::<UnknownReason>(),
        Key::ProcessSource => names::all::<ProcessSource>(),
        Key::Cause => names::all::<GapCause>(),
        _ => return None,
    })
}

const PAGE: &str = include_str!("reference.md");

#[test]
fn the_page_of_the_documentation_is_made_from_the_keys() {
    let mut rows = String::new();
    for key in Key::ALL {
        let about = key.about();
        Filter::new(about.example).unwrap_or_else(|error| panic!("the example of {}: {error}", about.name));
        let alias = about.alias.map(|alias| format!(", `{alias}`")).unwrap_or_default();
        let takes = match names_of(*key) {
            Some(names) => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            None => about.takes.help().to_owned(),
        };
        let _ =
            writeln!(rows, "| `{}`{alias} | {} | {takes} | `{}` |", about.name, about.meaning, about.example);
    }
    let mut zones = String::new();
    for (name, zone) in Names::builtin().zones() {
        let (nets, outside) = match zone {
            Zone::In(nets) => (nets, ""),
            Zone::NotIn(nets) => (nets, "all but "),
        };
        let nets: Vec<_> = nets.iter().map(|net| format!("`{net}`")).collect();
        let _ = writeln!(zones, "| `{name}` | {outside}{} |", nets.join(", "));
    }
    let page = PAGE.replace("@KEYS@\n", &rows).replace("@ZONES@\n", &zones);
    samples::compare_file(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/filter.md"), &page);
}
