use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A tree of unit files.
pub(crate) struct Tree(pub(crate) PathBuf);

impl Tree {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("conn-units-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        path
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).expect("a file");
    }

    pub(crate) fn link(&self, path: &str, to: &str) {
        symlink(to, self.path(path)).expect("a link");
    }

    pub(crate) fn scan(&self) -> UnitFiles {
        UnitFiles::scan(&load_path(&self.0), |_| true)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn values(files: &UnitFiles, name: &str) -> Option<Vec<String>> {
    Some(files.load(name)?.settings.into_iter().map(|(_, setting)| setting.value).collect())
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[test]
fn the_first_folder_counts_and_masks_hide() {
    let tree = Tree::new();
    tree.write("usr/lib/systemd/system/a.service", "[Service]\nA=lib\n");
    tree.write("etc/systemd/system/a.service", "[Service]\nA=etc\n");
    tree.write("usr/lib/systemd/system/b.service", "[Service]\nA=lib\n");
    tree.link("etc/systemd/system/b.service", "/dev/null");
    tree.write("usr/lib/systemd/system/c.service", "[Service]\nA=lib\n");
    tree.write("etc/systemd/system/c.service", "");
    tree.link("lib", "usr/lib");
    tree.write("etc/systemd/system/a b.service", "x");
    let files = tree.scan();
    assert_eq!(values(&files, "a.service"), Some(texts(&["etc"])));
    assert_eq!((values(&files, "b.service"), values(&files, "c.service")), (None, None));
    assert_eq!((files.names().collect::<Vec<_>>(), files.masked()), (vec!["a.service"], 2));
    assert_eq!(files.folders().len(), 2, "/lib is /usr/lib");
    assert_eq!(files.odd().len(), 1);
}

#[test]
fn drop_ins_of_every_sort() {
    let tree = Tree::new();
    tree.write("usr/lib/systemd/system/a-b@.service", "[Service]\nA=file\n");
    tree.write("usr/lib/systemd/system/a-b@x.service.d/50.conf", "[Service]\nA=instance\n");
    tree.write("usr/lib/systemd/system/a-b@.service.d/40.conf", "[Service]\nA=template\n");
    tree.write("usr/lib/systemd/system/a-@.service.d/30.conf", "[Service]\nA=prefix\n");
    tree.write("usr/lib/systemd/system/service.d/20.conf", "[Service]\nA=type\n");
    tree.write("usr/lib/systemd/system/service.d/50.conf", "[Service]\nA=hidden by that of the instance\n");
    tree.write("etc/systemd/system/service.d/40.conf", "[Service]\nA=hidden by that of the template\n");
    tree.write("usr/lib/systemd/system/a-b@.service.d/60.conf", "[Service]\nA=hidden\n");
    tree.link("etc/systemd/system/a-b@.service.d/60.conf", "/dev/null");
    tree.write("usr/lib/systemd/system/a-b@.service.d/70.txt", "[Service]\nA=no drop-in\n");
    let files = tree.scan();
    assert_eq!(
        values(&files, "a-b@x.service"),
        Some(texts(&["file", "type", "prefix", "template", "instance"]))
    );
    let other = ["file", "type", "prefix", "template", "hidden by that of the instance"];
    assert_eq!(values(&files, "a-b@y.service"), Some(texts(&other)));
}

#[test]
fn aliases_bring_their_drop_ins() {
    let tree = Tree::new();
    tree.write("usr/lib/systemd/system/ssh.service", "[Service]\nA=file\n");
    tree.link("etc/systemd/system/sshd.service", "/usr/lib/systemd/system/ssh.service");
    tree.write("etc/systemd/system/sshd.service.d/a.conf", "[Service]\nA=alias\n");
    tree.write("usr/lib/systemd/system/getty@.service", "[Service]\nA=getty\n");
    tree.link("usr/lib/systemd/system/autovt@.service", "getty@.service");
    tree.link("etc/systemd/system/round.service", "circle.service");
    tree.link("etc/systemd/system/circle.service", "round.service");
    let files = tree.scan();
    assert_eq!(values(&files, "ssh.service"), Some(texts(&["file", "alias"])));
    assert_eq!(files.real_name("sshd.service").as_deref(), Some("ssh.service"));
    assert_eq!(files.real_name("autovt@tty1.service").as_deref(), Some("getty@tty1.service"));
    assert_eq!(files.names_of("getty@tty1.service"), ["getty@tty1.service", "autovt@tty1.service"]);
    assert_eq!(files.real_name("round.service"), None);
    assert_eq!(files.names().collect::<Vec<_>>(), ["getty@.service", "ssh.service"]);
}

#[test]
fn slices_need_no_file_and_links_want() {
    let tree = Tree::new();
    tree.write("etc/systemd/system/system.slice.d/deny.conf", "[Slice]\nA=1\n");
    tree.link("usr/lib/systemd/system/sockets.target.wants/a.socket", "../a.socket");
    tree.link("usr/lib/systemd/system/sockets.target.wants/b.socket", "../b.socket");
    tree.link("etc/systemd/system/sockets.target.wants/b.socket", "/dev/null");
    let files = tree.scan();
    assert_eq!(values(&files, "system.slice"), Some(texts(&["1"])));
    assert_eq!(values(&files, "nowhere.service"), None);
    assert_eq!(files.changed().collect::<Vec<_>>(), ["system.slice"]);
    assert_eq!(files.wants().collect::<Vec<_>>(), [("sockets.target", "a.socket")]);
}
