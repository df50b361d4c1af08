use std::os::unix::fs::symlink;

use super::*;

fn at(local: &str) -> SocketAddr {
    local.parse().expect("an address")
}

fn parsed(text: &str) -> Vec<Listen> {
    listens(&[text.to_owned()], "")
}

#[test]
fn values_of_listen_stream() {
    let one = |value: &str| Listen::parse(value);
    assert_eq!(one("22"), Some(Listen::Port(22)));
    assert_eq!(one("127.0.0.1:631"), Some(Listen::Address(at("127.0.0.1:631"))));
    assert_eq!(one("[::1]:631"), Some(Listen::Address(at("[::1]:631"))));
    assert_eq!(one("[fe80::1]:80%eth0"), Some(Listen::Address(at("[fe80::1]:80"))));
    for other in
        ["", "0", "+22", "65536", "/run/x.sock", "@x", "vsock::22", "localhost:80", "1.2.3.4", "[::]:0"]
    {
        assert_eq!(one(other), None, "{other}");
    }
}

#[test]
fn unit_files() {
    assert_eq!(
        parsed(
            "[Unit]\nListenStream=1\n[Socket]\n# ListenStream=2\nListenStream = 22\nAccept=yes\n;x\nListenStream=/run/x\n\
                ListenStream=\\\n# between\n  23\n[Install]\nListenStream=3"
        ),
        [Listen::Port(22), Listen::Port(23)]
    );
    assert_eq!(parsed("[Socket]\nListenStream=1\nListenStream=\nListenStream=2\n"), [Listen::Port(2)]);
    assert_eq!(parsed("[Socket]\nListenStream=1\nListenDatagram=\n"), []);
    assert_eq!(
        listens(&["[Socket]\nListenStream=80%i\nListenStream=%H:1\nListenStream=1%".into()], "80"),
        [Listen::Port(8080)]
    );
    // A drop-in that replaces the port, as in sshd's documentation.
    let texts =
        ["[Socket]\nListenStream=22\n".to_owned(), "[Socket]\nListenStream=\nListenStream=2222\n".to_owned()];
    assert_eq!(listens(&texts, ""), [Listen::Port(2222)]);
}

fn unit(name: &str, wanted: bool, listens: &[Listen]) -> SocketUnit {
    SocketUnit { name: name.into(), wanted, listens: listens.to_vec() }
}

#[test]
fn the_unit_of_a_listener() {
    let units = [
        unit("ssh.socket", true, &[Listen::Port(22)]),
        unit("dropbear.socket", false, &[Listen::Port(22), Listen::Port(2222)]),
        unit("cups.socket", false, &[Listen::Address(at("127.0.0.1:631")), Listen::Address(at("[::1]:631"))]),
        unit("a.socket", true, &[Listen::Address(at("0.0.0.0:80"))]),
        unit("b.socket", true, &[Listen::Address(at("0.0.0.0:80"))]),
    ];
    let of = |local: &str| choose(&units, at(local)).map(|name| name.to_string());
    assert_eq!(of("[::]:22").as_deref(), Some("ssh.socket"), "the wanted one");
    assert_eq!(of("0.0.0.0:2222").as_deref(), Some("dropbear.socket"));
    assert_eq!(of("127.0.0.1:22"), None, "a port alone is all addresses");
    assert_eq!(of("127.0.0.1:631").as_deref(), Some("cups.socket"));
    assert_eq!(of("[::ffff:127.0.0.1]:631").as_deref(), Some("cups.socket"));
    assert_eq!(of("0.0.0.0:631"), None);
    assert_eq!(of("0.0.0.0:80"), None, "not told apart");
}

/// A tree of unit files.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("conn-units-{}", std::process::id()));
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        path
    }

    fn socket(&self, path: &str, listen: &str) {
        fs::write(self.path(path), format!("[Socket]\nListenStream={listen}\n")).expect("a file");
    }

    fn link(&self, path: &str, to: &str) {
        symlink(to, self.path(path)).expect("a link");
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_are_found_and_merged_as_systemd_does() {
    let tree = Tree::new();
    tree.socket("usr/lib/systemd/system/ssh.socket", "22");
    tree.socket("etc/systemd/system/ssh.socket.d/port.conf", "\nListenStream=2222");
    tree.link("etc/systemd/system/sshd.socket", "/usr/lib/systemd/system/ssh.socket");
    tree.link("etc/systemd/system/sockets.target.wants/ssh.socket", "/usr/lib/systemd/system/ssh.socket");
    // Overridden, and masked.
    tree.socket("usr/lib/systemd/system/web.socket", "80");
    tree.socket("etc/systemd/system/web.socket", "8080");
    tree.socket("usr/lib/systemd/system/masked.socket", "81");
    tree.link("etc/systemd/system/masked.socket", "/dev/null");
    // A drop-in of the same name in a folder that counts more.
    tree.socket("usr/lib/systemd/system/web.socket.d/10.conf", "\nListenStream=82");
    tree.socket("run/systemd/system/web.socket.d/10.conf", "83");
    // Instances: one that is wanted, and one with a file of its own.
    tree.socket("usr/lib/systemd/system/in@.socket", "90%i");
    tree.link("etc/systemd/system/sockets.target.wants/in@01.socket", "/usr/lib/systemd/system/in@.socket");
    tree.link("etc/systemd/system/in@02.socket", "../../../usr/lib/systemd/system/in@.socket");
    let mut units = SocketUnits::within(&tree.0);
    let mut of = |port: u16| units.unit_of(at(&format!("[::]:{port}"))).map(|name| name.to_string());
    assert_eq!(of(2222).as_deref(), Some("ssh.socket"), "not by its alias");
    assert_eq!(of(22), None);
    assert_eq!(of(8080).as_deref(), Some("web.socket"));
    assert_eq!((of(80), of(81), of(82)), (None, None, None));
    assert_eq!(of(83).as_deref(), Some("web.socket"));
    assert_eq!((of(9001).as_deref(), of(9002).as_deref()), (Some("in@01.socket"), Some("in@02.socket")));
    assert_eq!(of(90), None, "a template is no unit");
}

#[test]
fn a_system_without_systemd_has_none() {
    assert_eq!(SocketUnits::within(Path::new("/nonexistent")).unit_of(at("[::]:22")), None);
}
