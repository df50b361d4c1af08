//! What changed from one saved list to another.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use super::restart::{self, Restarted};
use super::saved::{Saved, SavedHolder, SavedSocket};
use crate::flow::model::Transport;

/// The differences, in the order of the lists.
#[derive(Clone, Debug, Default)]
pub struct Difference<'a> {
    /// In the new list only.
    pub appeared: Vec<&'a SavedSocket>,
    /// In the old list only.
    pub vanished: Vec<&'a SavedSocket>,
    /// In both, and not the same.
    pub changed: Vec<Changed<'a>>,
    /// Services that were restarted and listen as before.
    pub restarted: Vec<Restarted<'a>>,
    /// How many are in both and the same.
    pub same: usize,
    /// What makes the lists hard to compare.
    pub notes: Vec<String>,
}

/// A socket that is in both lists.
#[derive(Clone, Debug)]
pub struct Changed<'a> {
    /// Before.
    pub old: &'a SavedSocket,
    /// After.
    pub new: &'a SavedSocket,
    /// It is in another TCP state.
    pub state: bool,
    /// Other processes hold it: of the same boot, other processes; else, other executables.
    pub owner: bool,
}

impl Difference<'_> {
    /// Whether the lists differ.
    pub const fn is_empty(&self) -> bool {
        self.appeared.is_empty()
            && self.vanished.is_empty()
            && self.changed.is_empty()
            && self.restarted.is_empty()
    }
}

/// What names a socket in both lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key<'a> {
    /// In one boot. A socket may carry one connection after the other, so its ends belong to it.
    Cookie(&'a str, Tuple<'a>),
    /// Without cookies, or over a restart; of a listener with its executables.
    Ends(Tuple<'a>, Option<BTreeSet<Option<&'a [u8]>>>),
    /// A listener whose executable changed.
    Address(Tuple<'a>),
}

/// Ends and namespace. The numbers of namespaces mean nothing after a restart: there it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tuple<'a> {
    listens: bool,
    transport: Transport,
    local: SocketAddr,
    remote: SocketAddr,
    device: Option<&'a str>,
    netns: u32,
}

/// Compares two lists.
pub fn diff<'a>(old: &'a Saved, new: &'a Saved) -> Difference<'a> {
    let mut difference = Difference { notes: notes(old, new), ..Difference::default() };
    let same_boot = old.about.boot_id == new.about.boot_id;
    let mut left_old: Vec<&SavedSocket> = old.sockets.iter().collect();
    let mut left_new: Vec<&SavedSocket> = new.sockets.iter().collect();
    let tuple = |socket: &'a SavedSocket| Tuple {
        listens: socket.direction.is_none(),
        transport: socket.transport,
        local: socket.local,
        remote: socket.remote,
        device: socket.device.as_deref(),
        netns: if same_boot { socket.netns } else { 0 },
    };
    let by_cookie = |socket: &'a SavedSocket| {
        Some(Key::Cookie(socket.cookie.as_deref().filter(|_| same_boot)?, tuple(socket)))
    };
    let by_ends = |socket: &'a SavedSocket| {
        Some(Key::Ends(tuple(socket), socket.direction.is_none().then(|| exes(socket))))
    };
    let by_address =
        |socket: &'a SavedSocket| socket.direction.is_none().then(|| Key::Address(tuple(socket)));
    difference.pair(&mut left_old, &mut left_new, same_boot, by_cookie);
    if same_boot {
        difference.restarted = restart::find(&mut left_old, &mut left_new, tuple);
    }
    // Of one boot and with all its cookies, a socket that is not found by its cookie is not there.
    if !same_boot || lacks_cookies(old) || lacks_cookies(new) {
        difference.pair(&mut left_old, &mut left_new, same_boot, by_ends);
        difference.pair(&mut left_old, &mut left_new, same_boot, by_address);
    }
    difference.vanished = left_old;
    difference.appeared = left_new;
    difference
}

fn lacks_cookies(list: &Saved) -> bool {
    list.sockets.iter().any(|socket| socket.cookie.is_none())
}

impl<'a> Difference<'a> {
    /// Takes out of both lists what has the same key.
    fn pair(
        &mut self,
        old: &mut Vec<&'a SavedSocket>,
        new: &mut Vec<&'a SavedSocket>,
        same_boot: bool,
        key: impl Fn(&'a SavedSocket) -> Option<Key<'a>>,
    ) {
        let mut waiting: HashMap<Key<'a>, Vec<usize>> = HashMap::new();
        for (at, socket) in new.iter().enumerate().rev() {
            if let Some(key) = key(socket) {
                waiting.entry(key).or_default().push(at);
            }
        }
        let mut found = BTreeSet::new();
        old.retain(|socket| {
            let Some(at) = key(socket).and_then(|key| waiting.get_mut(&key)?.pop()) else { return true };
            found.insert(at);
            self.compare(socket, new[at], same_boot);
            false
        });
        let mut at = 0;
        new.retain(|_| {
            at += 1;
            !found.contains(&(at - 1))
        });
    }

    fn compare(&mut self, old: &'a SavedSocket, new: &'a SavedSocket, same_boot: bool) {
        let state = old.state != new.state;
        let owner = if same_boot {
            let ids = |socket: &SavedSocket| -> BTreeSet<(u32, Option<String>)> {
                socket.holders.iter().map(|holder| (holder.pid, holder.id.clone())).collect()
            };
            ids(old) != ids(new) || exes(old) != exes(new)
        } else {
            exes(old) != exes(new)
        };
        if state || owner {
            self.changed.push(Changed { old, new, state, owner });
        } else {
            self.same += 1;
        }
    }
}

fn exes(socket: &SavedSocket) -> BTreeSet<Option<&[u8]>> {
    socket.holders.iter().map(SavedHolder::image).collect()
}

impl SavedHolder {
    /// The executable, else the name.
    fn image(&self) -> Option<&[u8]> {
        self.exe.as_deref().or(self.comm.as_deref())
    }
}

fn notes(old: &Saved, new: &Saved) -> Vec<String> {
    let mut notes = Vec::new();
    let mut differ = |what: &str, old: &str, new: &str| {
        if old != new {
            notes.push(format!("{what}: `{old}` in the old list, `{new}` in the new one"));
        }
    };
    differ("the hosts differ", &old.about.host, &new.about.host);
    differ("other sockets were asked for", &old.about.selection, &new.about.selection);
    differ("the filters differ", &old.about.filter, &new.about.filter);
    if old.about.boot_id != new.about.boot_id {
        notes.push(
            "the machine was started anew between the lists: sockets are matched by address and executable"
                .to_owned(),
        );
    } else if lacks_cookies(old) || lacks_cookies(new) {
        notes.push("sockets without a cookie are matched by address and executable".to_owned());
    }
    for (which, list) in [("old", old), ("new", new)] {
        notes.extend(list.notes.iter().map(|note| format!("the {which} list is not whole: {note}")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::samples;

    fn list() -> Saved {
        let mut list = Saved::read(samples::json().as_bytes()).expect("a list");
        list.notes.clear();
        list.sockets.retain(|socket| socket.cookie.is_some());
        list
    }

    fn summary(old: &Saved, new: &Saved) -> (usize, usize, usize, usize) {
        let found = diff(old, new);
        (found.appeared.len(), found.vanished.len(), found.changed.len(), found.same)
    }

    #[test]
    fn a_list_equals_itself() {
        let list = list();
        assert_eq!(summary(&list, &list), (0, 0, 0, list.sockets.len()));
        assert!(diff(&list, &list).is_empty() && diff(&list, &list).notes.is_empty());
    }

    #[test]
    fn what_comes_goes_and_changes() {
        let (old, mut new) = (list(), list());
        new.sockets[0].state = TcpState::CloseWait;
        new.sockets[1].holders.pop();
        let gone = new.sockets.remove(3);
        let mut came = gone.clone();
        came.cookie = Some("9999".to_owned());
        new.sockets.push(came);
        let found = diff(&old, &new);
        assert_eq!((found.appeared.len(), found.vanished.len()), (1, 1), "another socket with the same ends");
        let changes: Vec<_> = found.changed.iter().map(|changed| (changed.state, changed.owner)).collect();
        assert_eq!(changes, [(true, false), (false, true)]);
        assert_eq!(found.same, old.sockets.len() - 3);
    }

    #[test]
    fn a_socket_with_another_connection_is_another_one() {
        let (old, mut new) = (list(), list());
        new.sockets[0].remote.set_port(9);
        assert_eq!(summary(&old, &new), (1, 1, 0, old.sockets.len() - 1));
    }

    #[test]
    fn an_exec_changes_the_owner() {
        let (old, mut new) = (list(), list());
        new.sockets[0].holders[0].exe = Some(b"/tmp/x".to_vec());
        assert!(diff(&old, &new).changed[0].owner);
    }

    /// The sample with its nginx started anew: other processes, other sockets.
    fn restarted() -> Saved {
        let mut new = list();
        for (at, socket) in new.sockets.iter_mut().filter(|socket| socket.direction.is_none()).enumerate() {
            if socket.holders.iter().all(|holder| holder.comm.as_deref() == Some(b"nginx")) {
                socket.cookie = Some(format!("77{at}"));
                for holder in &mut socket.holders {
                    holder.pid += 1000;
                    holder.id = Some(format!("restarted-{}", holder.pid));
                }
            }
        }
        new
    }

    #[test]
    fn a_service_that_was_restarted_and_listens_as_before_is_one_difference() {
        let (mut old, mut new) = (list(), restarted());
        for list in [&mut old, &mut new] {
            let nginx = |socket: &&SavedSocket| socket.local.port() == 8080 && socket.direction.is_none();
            let mut more = list.sockets.iter().find(nginx).expect("a listener").clone();
            more.local.set_port(8443);
            more.cookie = more.cookie.map(|cookie| cookie + "9");
            list.sockets.push(more);
            list.about.boot_id = "one".to_owned();
        }
        let found = diff(&old, &new);
        let (service, others) = found.restarted.split_first().expect("a restart");
        assert!(
            others.is_empty() && found.vanished.is_empty() && found.appeared.is_empty() && !found.is_empty()
        );
        let ports =
            |sockets: &[&SavedSocket]| sockets.iter().map(|socket| socket.local.port()).collect::<Vec<_>>();
        assert_eq!((ports(&service.old), ports(&service.new)), (vec![8080, 8443], vec![8080, 8443]));

        // A listener more is new, and what the service does not listen on any more has vanished.
        new.sockets.last_mut().expect("one").local.set_port(9443);
        let found = diff(&old, &new);
        assert_eq!((found.restarted.len(), found.appeared.len(), found.vanished.len()), (1, 1, 1));
    }

    /// Whatever else listens there is no restart.
    #[test]
    fn what_took_the_place_of_a_service_is_not_it_restarted() {
        let changed = |change: &dyn Fn(&mut SavedHolder)| {
            let mut new = restarted();
            let fresh = |socket: &&mut SavedSocket| {
                socket.cookie.as_deref().is_some_and(|cookie| cookie.starts_with("77"))
            };
            new.sockets.iter_mut().find(fresh).expect("a listener").holders.iter_mut().for_each(change);
            let old = list();
            let found = diff(&old, &new);
            (found.restarted.len(), found.appeared.len(), found.vanished.len())
        };
        assert_eq!(changed(&|_| {}), (1, 0, 0));
        assert_eq!(changed(&|holder| holder.exe = Some(b"/tmp/nginx".to_vec())), (0, 1, 1));
        assert_eq!(changed(&|holder| holder.uid = Some(0)), (0, 1, 1));
        assert_eq!(changed(&|holder| holder.exe_deleted = true), (0, 1, 1));
        assert_eq!(changed(&|holder| holder.exe = None), (0, 1, 1));
        assert_eq!(changed(&|holder| holder.args.push("x".to_owned())), (0, 1, 1), "no unit says what it is");
        assert_eq!(changed(&|holder| holder.unit = Some("other.service".to_owned())), (0, 1, 1));
        let same = |holder: &mut SavedHolder| {
            holder.pid -= 1000;
            holder.id = list()
                .sockets
                .iter()
                .flat_map(|socket| &socket.holders)
                .find(|own| own.pid == holder.pid)
                .and_then(|own| own.id.clone());
        };
        assert_eq!(changed(&same), (0, 1, 1), "its process goes on");
    }

    #[test]
    fn after_a_restart_a_listener_is_its_address_and_executable() {
        let (old, mut new) = (list(), list());
        new.about.boot_id = "another".to_owned();
        for socket in &mut new.sockets {
            socket.cookie = Some("1".to_owned());
            socket.netns += 7;
            for holder in &mut socket.holders {
                holder.pid += 1000;
                holder.id = Some("x".to_owned());
            }
        }
        assert_eq!(summary(&old, &new), (0, 0, 0, old.sockets.len()));
        let listener = new.sockets.iter_mut().find(|socket| socket.direction.is_none()).expect("a listener");
        listener.holders[0].exe = Some(b"/tmp/takeover".to_vec());
        let found = diff(&old, &new);
        assert_eq!((found.changed.len(), found.appeared.len()), (1, 0), "the same address");
        assert!(found.changed[0].owner && found.notes[0].contains("anew"));
    }

    #[test]
    fn without_cookies_ends_and_executables_emit() {
        let (old, mut new) = (list(), list());
        new.sockets[0].cookie = None;
        assert_eq!(summary(&old, &new), (0, 0, 0, old.sockets.len()));
        assert_eq!(diff(&old, &new).notes.len(), 1);
    }

    #[test]
    fn several_listeners_on_one_address_are_counted() {
        let (mut old, mut new) = (list(), list());
        for list in [&mut old, &mut new] {
            list.sockets.retain(|socket| socket.direction.is_none());
            list.sockets.truncate(1);
            let more = list.sockets[0].clone();
            list.sockets.extend([more.clone(), more]);
            list.sockets.iter_mut().for_each(|socket| socket.cookie = None);
        }
        new.sockets.pop();
        assert_eq!(summary(&old, &new), (0, 1, 0, 2));
    }

    #[test]
    fn lists_that_do_not_compare_say_so() {
        let (mut old, new) = (list(), list());
        old.about.selection = "listening".to_owned();
        old.notes.push("something is missing".to_owned());
        let notes = diff(&old, &new).notes;
        assert_eq!(notes.len(), 2);
        assert!(notes[1].contains("the old list is not whole: something is missing"));
    }

    use crate::flow::snapshot::model::TcpState;
}
