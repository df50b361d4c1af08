//! Paths as the service managers and runtimes make them, each in its cgroup v1 and v2 forms.

use proptest::prelude::*;

use super::*;

const ID: &str = "0f7d84f32c4d7a9b9fd4c3d1c1a1e6d8b1c6a5f0c7b4a39e28f17d06c5b4a392";
const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
const UID_: &str = "2c48913c_b29f_11e7_9350_020968147796";
/// A static pod has a hash.
const HASH: &str = "d8a3f0c1b2e4f5a6978812345678abcd";

fn of(path: &str) -> Placement {
    Placement::of(path.replace("UID_", UID_).replace("ID", ID).as_bytes())
}

fn text(bytes: Option<&[u8]>) -> &str {
    bytes.map_or("-", |bytes| std::str::from_utf8(bytes).expect("text"))
}

fn units(path: &str) -> String {
    let place = of(path);
    assert_eq!(place.container, None, "{path}");
    let [slice, unit, user] =
        [&place.slice, &place.unit, &place.user_unit].map(|name| text(name.as_deref()).to_owned());
    format!("{slice} {unit} {user}")
}

#[test]
fn units_of_systemd() {
    assert_eq!(units("/system.slice/nginx.service"), "system.slice nginx.service -");
    assert_eq!(units("/init.scope"), "- init.scope -");
    assert_eq!(units("/"), "- - -");
    assert_eq!(units(""), "- - -");
    assert_eq!(units("/system.slice"), "system.slice - -");
    assert_eq!(
        units("/system.slice/system-getty.slice/getty@tty1.service"),
        "system-getty.slice getty@tty1.service -"
    );
    assert_eq!(units("/user.slice/user-1000.slice/session-3.scope"), "user-1000.slice session-3.scope -");
    assert_eq!(
        units("/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service"),
        "user-1000.slice user@1000.service syncthing.service"
    );
    assert_eq!(
        units("/user.slice/user-1000.slice/user@1000.service/init.scope"),
        "user-1000.slice user@1000.service init.scope"
    );
    assert_eq!(
        units(
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope"
        ),
        "user-1000.slice user@1000.service vte-spawn-1.scope"
    );
    // A delegated service with cgroups of its own, and a unit whose name is one of a file of the cgroup file system.
    assert_eq!(
        units("/system.slice/postgresql@15-main.service/worker"),
        "system.slice postgresql@15-main.service -"
    );
    assert_eq!(units("/system.slice/_cpu.service"), "system.slice cpu.service -");
    assert_eq!(units("/system.slice/docker.service"), "system.slice docker.service -");
}

#[test]
fn names_that_are_no_units() {
    for path in ["/.slice/.service", "/nginx", "/a.service.d", "/../../system.slice/x.service", "/_.scope"] {
        assert_eq!(units(path), "- - -", "{path}");
    }
}

fn contained(path: &str) -> String {
    let place = of(path);
    let container = place.container.unwrap_or_else(|| panic!("{path}: in no container"));
    let id = if *container.id == *ID.as_bytes() { "ID" } else { text(Some(&container.id)) };
    let pod = match text(container.pod.as_deref()) {
        UID => "UID",
        HASH => "HASH",
        other => other,
    };
    let runtime = container.runtime.map_or("-".to_owned(), |runtime| format!("{runtime:?}"));
    format!("{runtime} {id} {pod} {}", text(place.unit.as_deref()))
}

#[test]
fn docker() {
    // systemd driver (the default on cgroup v2), cgroupfs driver, a parent of one's own, systemd inside.
    assert_eq!(contained("/system.slice/docker-ID.scope"), format!("Docker ID - docker-{ID}.scope"));
    assert_eq!(contained("/docker/ID"), "Docker ID - -");
    assert_eq!(contained("/web/ID"), "- ID - -");
    assert_eq!(
        contained("/system.slice/docker-ID.scope/system.slice/nginx.service"),
        format!("Docker ID - docker-{ID}.scope")
    );
    // Rootless.
    assert_eq!(
        contained("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope"),
        "Docker ID - user@1000.service"
    );
}

#[test]
fn podman() {
    assert_eq!(
        contained("/machine.slice/libpod-ID.scope/container"),
        format!("Podman ID - libpod-{ID}.scope")
    );
    assert_eq!(contained("/machine.slice/libpod-ID.scope"), format!("Podman ID - libpod-{ID}.scope"));
    assert_eq!(contained("/libpod_parent/libpod-ID"), "Podman ID - -");
    assert_eq!(
        contained("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container"),
        "Podman ID - user@1000.service"
    );
    assert_eq!(
        contained("/machine.slice/machine-libpod_pod_ID.slice/libpod-ID.scope/container"),
        format!("Podman ID - libpod-{ID}.scope")
    );
    // The monitor of a container runs outside.
    assert_eq!(
        units("/machine.slice/libpod-conmon-ID.scope"),
        format!("machine.slice libpod-conmon-{ID}.scope -")
    );
}

#[test]
fn containerd() {
    assert_eq!(contained("/system.slice/nerdctl-ID.scope"), format!("Containerd ID - nerdctl-{ID}.scope"));
    assert_eq!(contained("/default/ID"), "- ID - -");
}

#[test]
fn kubernetes() {
    // The systemd driver, by quality of service; guaranteed pods have no level of their own.
    for level in [
        "kubepods-besteffort.slice/kubepods-besteffort",
        "kubepods-burstable.slice/kubepods-burstable",
        "kubepods",
    ] {
        for (prefix, runtime) in [("cri-containerd", "Containerd"), ("crio", "CriO"), ("docker", "Docker")] {
            assert_eq!(
                contained(&format!("/kubepods.slice/{level}-podUID_.slice/{prefix}-ID.scope")),
                format!("{runtime} ID UID {prefix}-{ID}.scope")
            );
        }
    }
    // The cgroupfs driver: containerd and Docker look alike.
    assert_eq!(contained(&format!("/kubepods/burstable/pod{UID}/ID")), "- ID UID -");
    assert_eq!(contained(&format!("/kubepods/pod{UID}/ID")), "- ID UID -");
    assert_eq!(contained(&format!("/kubepods/besteffort/pod{UID}/crio-ID")), "CriO ID UID -");
    // containerd whose driver does not match the kubelet's.
    assert_eq!(
        contained("/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID"),
        "Containerd ID UID containerd.service"
    );
    assert_eq!(contained("/kubepods-burstable-podUID_.slice:cri-containerd:ID"), "Containerd ID UID -");
    // A static pod.
    assert_eq!(
        contained(&format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/crio-ID.scope"
        )),
        format!("CriO ID HASH crio-{ID}.scope")
    );
    // The monitor of CRI-O.
    assert_eq!(of("/kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope").container, None);
}

#[test]
fn the_innermost_container_counts() {
    let outer = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
    assert_eq!(
        contained(&format!(
            "/system.slice/docker-{outer}.scope/kubelet.slice/kubelet-kubepods.slice/\
             kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope"
        )),
        format!("Containerd ID UID docker-{outer}.scope")
    );
    assert_eq!(contained(&format!("/docker/{outer}/docker/ID")), "Docker ID - -");
}

#[test]
fn nspawn_and_lxc() {
    assert_eq!(
        contained("/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service"),
        "SystemdNspawn web - systemd-nspawn@web.service"
    );
    assert_eq!(
        contained(r"/machine.slice/machine-my\x2dweb.scope/payload"),
        r"SystemdNspawn my-web - machine-my\x2dweb.scope"
    );
    // nspawn itself.
    assert_eq!(
        units("/machine.slice/systemd-nspawn@web.service/supervisor"),
        "machine.slice systemd-nspawn@web.service -"
    );
    assert_eq!(contained("/lxc.payload.db/init.scope"), "Lxc db - -");
    assert_eq!(units("/lxc.monitor.db"), "- - -");
}

#[test]
fn virtual_machines() {
    for path in [
        r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator",
        r"/machine.slice/machine-qemu\x2d1\x2dweb.scope",
    ] {
        assert_eq!(contained(path), r"Libvirt qemu-1-web - machine-qemu\x2d1\x2dweb.scope");
    }
    assert_eq!(
        contained(r"/machine.slice/machine-lxc\x2d7\x2ddb.scope"),
        r"Libvirt lxc-7-db - machine-lxc\x2d7\x2ddb.scope"
    );
    assert_eq!(contained("/machine/qemu-1-web.libvirt-qemu/vcpu0"), "Libvirt qemu-1-web - -");
    // nspawn's own machine of such a name.
    assert_eq!(
        contained(r"/machine.slice/machine-qemu\x2dx.scope/payload"),
        r"SystemdNspawn qemu-x - machine-qemu\x2dx.scope"
    );
}

#[test]
fn quadlet() {
    assert_eq!(contained("/system.slice/web.service/libpod-payload-ID"), "Podman ID - web.service");
    assert_eq!(
        contained("/system.slice/web.service/libpod-payload-ID/system.slice/nginx.service"),
        "Podman ID - web.service"
    );
    let rootless =
        of("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-ID");
    assert_eq!(text(rootless.user_unit.as_deref()), "web.service");
    assert!(rootless.container.is_some());
    // The monitor.
    assert_eq!(units("/system.slice/web.service/runtime"), "system.slice web.service -");
}

#[test]
fn capsules_have_a_service_manager_of_their_own() {
    assert_eq!(
        units("/capsule.slice/capsule@shop.service/app.slice/web.service"),
        "capsule.slice capsule@shop.service web.service"
    );
    assert_eq!(units("/capsule.slice/capsule@shop.service"), "capsule.slice capsule@shop.service -");
}

#[test]
fn names_that_only_look_like_containers() {
    for path in [
        "/docker/abc",
        "/docker-abc.scope",
        "/system.slice/docker-.scope",
        "/payload",
        "/machine-.scope/payload",
        "/kubepods/podx/y",
        "/a:cri-containerd:b",
        "/cri-containerd:ID",
        "/lxc.payload.",
        "/machine.slice/machine-qemu.scope",
        "/machine/.libvirt-qemu",
        "/web.service/libpod-payload-abc",
    ] {
        assert_eq!(of(path).container, None, "{path}");
    }
    let upper = ID.to_uppercase();
    assert_eq!(Placement::of(format!("/docker/{upper}").as_bytes()).container, None);
}

#[test]
fn escapes() {
    assert_eq!(&*unescape_unit(br"a\x2db"), b"a-b");
    assert_eq!(&*unescape_unit(br"a\x2"), br"a\x2");
    assert_eq!(&*unescape_unit(br"\xzz\x41"), br"\xzzA");
}

proptest! {
    #[test]
    fn any_path_is_read(path in "(/(kubepods|pod|docker-|a\\.service|b\\.slice|\\.\\.|_|:|payload|\\\\x2|é){0,3}){0,5}") {
        let place = Placement::of(path.as_bytes());
        prop_assert_eq!(&*place.cgroup, path.as_bytes());
    }
}
