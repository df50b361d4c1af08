//! Listeners that should not be, each with its benign twin.

use crate::event::alert::Phase;
use crate::flow::model::EndedHow;
use crate::rules::model::{Detect, Rule, ServerRule};
use crate::rules::testing::{Rig, process, rule, seconds};

fn server(find: ServerRule, matches: &str) -> Rule {
    rule(Detect::Server(find), matches)
}

#[test]
fn a_listener_is_reported_and_ends_with_it() {
    let mut rig = Rig::new(server(ServerRule::Listener, "lport:1-1023 -laddr:loopback -exe:/usr/sbin/nginx"));
    let python = process(10, "/usr/bin/python3");
    rig.listen(&process(11, "/usr/sbin/nginx"), "0.0.0.0:80");
    rig.listen(&python, "127.0.0.1:443");
    rig.listen(&python, "0.0.0.0:8443");
    assert!(rig.reported().is_empty());
    let id = rig.listen(&python, "[::]:443");
    let alert = rig.only();
    assert_eq!(alert.suppress.as_deref(), Some("exe:/usr/bin/python3 lport:443"));
    rig.unlisten(id);
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
    let id = rig.listen(&python, "[::]:443");
    rig.unlisten(id);
    assert!(rig.reported().is_empty(), "within the throttle");
}

#[test]
fn what_listened_before_is_judged_too() {
    let mut rig = Rig::before(vec![server(ServerRule::Listener, "lport:443")]);
    rig.listen(&process(10, "/usr/bin/python3"), "0.0.0.0:443");
    rig.begin();
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
}

#[test]
fn takeover() {
    let mut rig = Rig::before(vec![server(ServerRule::Takeover, "")]);
    let nginx = process(10, "/usr/sbin/nginx");
    let id = rig.listen(&nginx, "0.0.0.0:80");
    rig.begin();
    rig.unlisten(id);
    let id = rig.listen(&process(11, "/usr/sbin/nginx"), "0.0.0.0:80");
    rig.listen(&process(12, "/usr/bin/other"), "0.0.0.0:81");
    rig.unlisten(id);
    assert!(rig.reported().is_empty(), "the same again, and another port");
    rig.listen(&process(13, "/tmp/nginx"), "10.0.0.1:80");
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
}

#[test]
fn a_foreign_joiner() {
    let mut rig = Rig::new(server(ServerRule::Join, ""));
    rig.listen(&process(10, "/usr/bin/app"), "0.0.0.0:8080");
    rig.listen(&process(11, "/usr/bin/app"), "0.0.0.0:8080");
    rig.listen(&process(12, "/usr/bin/other"), "0.0.0.0:8081");
    assert!(rig.reported().is_empty());
    rig.listen(&process(13, "/usr/bin/thief"), "0.0.0.0:8080");
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
}

#[test]
fn widened_from_loopback() {
    let mut rig = Rig::new(server(ServerRule::Widened, ""));
    let redis = process(10, "/usr/bin/redis-server");
    rig.listen(&redis, "127.0.0.1:6379");
    rig.listen(&process(11, "/usr/bin/other"), "0.0.0.0:6380");
    let both = process(12, "/usr/bin/both");
    rig.listen(&both, "127.0.0.1:7000");
    rig.listen(&both, "0.0.0.0:7000");
    assert!(rig.reported().is_empty(), "other ports, and both at once");
    rig.pass(seconds(60));
    rig.listen(&process(13, "/usr/bin/redis-server"), "0.0.0.0:6379");
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
}

#[test]
fn the_first_accept() {
    let mut rig = Rig::new(server(ServerRule::Accept, "dir:in exe:/usr/bin/python3"));
    let python = process(10, "/usr/bin/python3");
    rig.accept(&process(11, "/usr/sbin/sshd"), "10.0.0.1:22", "10.0.0.2:5000");
    assert!(rig.reported().is_empty());
    let first = rig.accept(&python, "10.0.0.1:4444", "10.0.0.2:5000");
    assert_eq!(rig.phases(), [(1, Phase::Raised)]);
    rig.accept(&python, "10.0.0.1:4444", "10.0.0.2:5001");
    assert!(rig.reported().is_empty());
    rig.close(first, EndedHow::PeerFin, None);
    assert_eq!(rig.phases(), [(1, Phase::Resolved)]);
    rig.accept(&python, "10.0.0.1:4444", "203.0.113.2:5001");
    assert_eq!(rig.phases(), [(2, Phase::Raised)], "from farther away");
    // A day later another one has the port, which is no news of the one from before.
    rig.pass(seconds(86_400));
    rig.accept(&python, "10.0.0.1:4444", "10.0.0.2:5002");
    assert!(rig.reported().is_empty());
    rig.accept(&process(12, "/usr/bin/python3"), "10.0.0.1:4444", "10.0.0.2:5003");
    assert_eq!(rig.phases(), [(3, Phase::Raised)]);
}
