use super::super::unit_files::{Tree, syntax};
use super::*;

fn at(local: &str) -> SocketAddr {
    local.parse().expect("an address")
}

/// What a unit of these files listens on.
fn listens_by(name: &str, texts: &[&str]) -> Vec<Listen> {
    let path: Arc<Path> = Path::new("x").into();
    let settings = texts.iter().flat_map(|text| syntax::settings(text));
    let settings = settings.map(|setting| (Arc::clone(&path), setting)).collect();
    listens(&Unit { name: name.to_owned(), settings, unread: Vec::new() })
}

fn parsed(text: &str) -> Vec<Listen> {
    listens_by("x.socket", &[text])
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
        listens_by("x@80.socket", &["[Socket]\nListenStream=80%i\nListenStream=%H:1\nListenStream=1%"]),
        [Listen::Port(8080)]
    );
    // A drop-in that replaces the port, as in sshd's documentation.
    let texts = ["[Socket]\nListenStream=22\n", "[Socket]\nListenStream=\nListenStream=2222\n"];
    assert_eq!(listens_by("x.socket", &texts), [Listen::Port(2222)]);
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
    assert_eq!(of("0.0.0.0:80"), None, "not distinguished");
}

fn socket(tree: &Tree, path: &str, listen: &str) {
    tree.write(path, &format!("[Socket]\nListenStream={listen}\n"));
}

#[test]
fn files_are_found_and_merged_as_systemd_does() {
    let tree = Tree::new();
    socket(&tree, "usr/lib/systemd/system/ssh.socket", "22");
    socket(&tree, "etc/systemd/system/ssh.socket.d/port.conf", "\nListenStream=2222");
    tree.link("etc/systemd/system/sshd.socket", "/usr/lib/systemd/system/ssh.socket");
    tree.link("etc/systemd/system/sockets.target.wants/ssh.socket", "/usr/lib/systemd/system/ssh.socket");
    // Overridden, and masked.
    socket(&tree, "usr/lib/systemd/system/web.socket", "80");
    socket(&tree, "etc/systemd/system/web.socket", "8080");
    socket(&tree, "usr/lib/systemd/system/masked.socket", "81");
    tree.link("etc/systemd/system/masked.socket", "/dev/null");
    // A drop-in of the same name in a folder that counts more.
    socket(&tree, "usr/lib/systemd/system/web.socket.d/10.conf", "\nListenStream=82");
    socket(&tree, "run/systemd/system/web.socket.d/10.conf", "83");
    // Instances: one that is wanted, and one with a file of its own.
    socket(&tree, "usr/lib/systemd/system/in@.socket", "90%i");
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
