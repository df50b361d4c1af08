//! Filters against listed sockets.

use super::{Listing, samples};
use crate::filter::{Filter, Names};

/// Places in the sample list of what matches.
fn matching(text: &str) -> Vec<usize> {
    let filter = Filter::for_sockets(text, Names::builtin()).unwrap_or_else(|error| panic!("{error}"));
    let Listing { sockets, ended, .. } = samples::listing();
    (0..sockets.len()).filter(|at| filter.matches_socket(&sockets[*at], ended)).collect()
}

#[test]
fn examples() {
    assert_eq!(matching("").len(), samples::listing().sockets.len());
    assert_eq!(matching("state:listen"), [1, 2, 8]);
    assert_eq!(matching("state:listen dport:8080 family:ipv6"), [2]);
    assert_eq!(matching("state:LISTEN,ESTAB"), [0, 1, 2, 3, 6, 8]);
    assert_eq!(matching("state:FIN-WAIT-2,time_wait,Close-Wait dir:In,OUT"), [4, 5, 7]);
    assert_eq!(matching("dir:?"), [6]);
    assert_eq!(matching("dir:in state:listen"), [1, 2, 8], "what a listener takes comes in");
    assert_eq!(matching("-dir:in"), [0, 6, 7]);
    assert_eq!(matching("dir:out dport:443"), [7]);
    assert_eq!(matching("dir:in sport:40005"), [5]);
    assert_eq!(matching("netns:4026532001"), [6]);
    assert_eq!(matching("method:unknown state:established"), [3, 6]);
    assert_eq!(matching("unit:ssh.socket user:root"), [8]);
    assert_eq!(matching("runtime:containerd"), [1, 2]);
    assert_eq!(matching("source:live"), Vec::<usize>::new());
    assert_eq!(matching("dst:external"), [7]);
    assert_eq!(matching("bytes_in:>5M mapped:false"), [0]);
    assert_eq!(matching("age:>50m"), [0]);
    assert_eq!(matching("reason:time_wait"), [5]);
    assert_eq!(matching("dst:::1%eth0"), [2]);
    assert_eq!(matching("dst:::1%eth1"), Vec::<usize>::new());
}

#[test]
fn one_holder_must_have_all_and_none_what_is_excluded() {
    assert_eq!(matching("proc:curl"), [0, 2]);
    assert_eq!(matching("proc:nginx uid:33"), [1, 2]);
    assert_eq!(matching("proc:curl uid:33"), Vec::<usize>::new(), "curl is another user");
    assert_eq!(matching("-proc:nginx state:listen"), [8]);
    assert_eq!(matching("-proc:curl state:listen"), [1, 8]);
    assert_eq!(matching("-uid:0-65535"), [3, 4, 5, 6], "nobody holds them");
}

#[test]
fn words_about_events_are_refused() {
    for text in ["port:80 kind:listen", "-errno:0", "end:timeout", "duration:>1h", "closer:nginx"] {
        let error = Filter::for_sockets(text, Names::builtin()).expect_err("no list has it");
        assert!(error.to_string().contains("is about events"), "{error}");
    }
}
