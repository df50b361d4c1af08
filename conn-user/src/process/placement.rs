//! What a cgroup path says: the systemd unit and the container that a process belongs to.
//!
//! Pure, from the path alone. The rules for units are those of systemd (`src/basic/cgroup-util.c`: leading slices are
//! skipped, the next component is the unit; below `user@UID.service` and `capsule@NAME.service` the same again gives the unit of
//! that service manager). Container
//! runtimes name their cgroups after the container; the shapes are in the tests.

/// Where a process stands in the cgroup tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Path of the cgroup, from the root of the hierarchy; attacker-controlled bytes where cgroups are delegated.
    pub cgroup: Box<[u8]>,
    /// The systemd unit (service, scope); `None`: in none.
    pub unit: Option<Box<[u8]>>,
    /// The unit of the user's own service manager, below `user@UID.service`, or of a capsule's, below `capsule@NAME.service`.
    pub user_unit: Option<Box<[u8]>>,
    /// The slice of the unit.
    pub slice: Option<Box<[u8]>>,
    /// The innermost container; `None`: in none that is known by its cgroup.
    pub container: Option<Container>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// What runs it; `None`: the path does not report.
    pub runtime: Option<Runtime>,
    /// Its id, or its name where the runtime has names only (systemd-nspawn, LXC).
    pub id: Box<[u8]>,
    /// UID of its Kubernetes pod, with dashes as the API server shows it; of a static pod the hash of its manifest.
    pub pod: Option<Box<[u8]>>,
}

impl Container {
    /// Its id as people write it: the first 12 digits of a long one, as `docker ps` shows it.
    pub fn short_id(&self) -> &[u8] {
        if self.id.len() == OCI_ID { &self.id[..12] } else { &self.id }
    }
}

/// A container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Docker (moby).
    Docker,
    /// containerd: by Kubernetes (CRI) or nerdctl.
    Containerd,
    /// Podman.
    Podman,
    /// CRI-O.
    CriO,
    /// systemd-nspawn.
    SystemdNspawn,
    /// LXC, Incus, LXD.
    Lxc,
    /// libvirt: a virtual machine (the hypervisor's own process, which is what there is of it here) or a container.
    Libvirt,
}

/// Digits of the ids of OCI containers.
pub const OCI_ID: usize = 64;

/// Names of cgroups before the id of an OCI container: `docker-ID.scope`, `crio-ID`.
/// Quadlet has podman split the unit's cgroup: `web.service/libpod-payload-ID`, beside that of the monitor, `runtime`.
const OCI_PREFIXES: [(&[u8], Runtime); 6] = [
    (b"docker-", Runtime::Docker),
    (b"cri-containerd-", Runtime::Containerd),
    (b"nerdctl-", Runtime::Containerd),
    (b"libpod-", Runtime::Podman),
    (b"libpod-payload-", Runtime::Podman),
    (b"crio-", Runtime::CriO),
];

impl Placement {
    /// The unit that a person would name: that of the user's own service manager, else the system's.
    pub fn innermost_unit(&self) -> Option<&[u8]> {
        self.user_unit.as_deref().or(self.unit.as_deref())
    }

    /// What the path of a cgroup says.
    pub fn of(path: &[u8]) -> Self {
        let components: Vec<&[u8]> = path.split(|&b| b == b'/').filter(|name| !name.is_empty()).collect();
        let mut place =
            Self { cgroup: path.into(), unit: None, user_unit: None, slice: None, container: None };
        // Outside the root of our cgroup namespace: what the first names are is not known.
        if components.first() != Some(&&b".."[..]) {
            let (slice, rest) = skip_slices(&components);
            place.slice = slice.map(Into::into);
            place.unit = rest.first().and_then(|name| unit(name)).map(Into::into);
            if let (Some(manager), [_, inner @ ..]) = (&place.unit, rest)
                && (manager.starts_with(b"user@") || manager.starts_with(b"capsule@"))
                && manager.ends_with(b".service")
            {
                let (_, inner) = skip_slices(inner);
                place.user_unit = inner.first().and_then(|name| unit(name)).map(Into::into);
            }
        }
        place.container = container(&components);
        place
    }
}

fn skip_slices<'p, 'c>(components: &'p [&'c [u8]]) -> (Option<&'c [u8]>, &'p [&'c [u8]]) {
    let end = components.iter().position(|name| !is_slice(name)).unwrap_or(components.len());
    let (slices, rest) = components.split_at(end);
    (slices.last().map(|name| unescape_cgroup(name)), rest)
}

fn is_slice(name: &[u8]) -> bool {
    has_name(name, b".slice")
}

fn has_name(name: &[u8], suffix: &[u8]) -> bool {
    unescape_cgroup(name).strip_suffix(suffix).is_some_and(|stem| !stem.is_empty())
}

/// systemd puts `_` before a name that could be a file of the cgroup file system (`cg_escape`).
fn unescape_cgroup(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"_").unwrap_or(name)
}

/// A cgroup of these is a unit; slices are distinguished, and the other types have no processes.
const UNIT_SUFFIXES: [&[u8]; 5] = [b".service", b".scope", b".socket", b".mount", b".swap"];

fn unit(name: &[u8]) -> Option<&[u8]> {
    UNIT_SUFFIXES.iter().any(|suffix| has_name(name, suffix)).then(|| unescape_cgroup(name))
}

/// The innermost container.
fn container(components: &[&[u8]]) -> Option<Container> {
    let (at, (runtime, id)) =
        (0..components.len()).rev().find_map(|at| Some((at, container_at(components, at)?)))?;
    let pod = components[..=at].iter().rev().find_map(|name| pod(name));
    Some(Container { runtime, id, pod })
}

fn container_at(components: &[&[u8]], at: usize) -> Option<(Option<Runtime>, Box<[u8]>)> {
    let name = components[at];
    let stem = name.strip_suffix(b".scope").unwrap_or(name);
    for (prefix, runtime) in OCI_PREFIXES {
        if let Some(id) = stem.strip_prefix(prefix).filter(|id| is_oci_id(id)) {
            return Some((Some(runtime), id.into()));
        }
    }
    let before = |back: usize| at.checked_sub(back).and_then(|at| components.get(at)).copied();
    if is_oci_id(name) {
        // The cgroupfs driver: no name of the runtime, but `docker run` puts its containers into one place.
        let runtime = (before(1) == Some(b"docker")).then_some(Runtime::Docker);
        return Some((runtime, name.into()));
    }
    // containerd with the systemd form of a path but the cgroupfs driver: `PARENT:cri-containerd:ID`.
    let mut parts = name.rsplitn(3, |&b| b == b':');
    if let (Some(id), Some(b"cri-containerd"), Some(_)) = (parts.next(), parts.next(), parts.next())
        && is_oci_id(id)
    {
        return Some((Some(Runtime::Containerd), id.into()));
    }
    if let Some(name) = name.strip_prefix(b"lxc.payload.").filter(|name| !name.is_empty()) {
        return Some((Some(Runtime::Lxc), name.into()));
    }
    // systemd-machined names the scope of a machine after its class and name, libvirt the cgroup where there is no machined
    // (`virCgroupNewMachineSystemd`, `virCgroupNewMachineManual` in src/util/vircgroup.c).
    let scope =
        name.strip_prefix(b"machine-").and_then(|name| name.strip_suffix(b".scope")).map(unescape_unit);
    if let Some(machine) =
        scope.filter(|name| [&b"qemu-"[..], b"lxc-"].iter().any(|class| name.starts_with(class)))
    {
        return Some((Some(Runtime::Libvirt), machine));
    }
    let manual =
        [&b".libvirt-qemu"[..], b".libvirt-lxc"].iter().find_map(|suffix| name.strip_suffix(*suffix));
    if let Some(machine) = manual.filter(|name| !name.is_empty()) {
        return Some((Some(Runtime::Libvirt), machine.into()));
    }
    // nspawn keeps itself in `supervisor` and the container in `payload` (`create_subcgroup` in nspawn-cgroup.c).
    if name == b"payload" {
        let unit = before(1)?;
        let machine = unit
            .strip_prefix(b"systemd-nspawn@")
            .and_then(|name| name.strip_suffix(b".service"))
            .or_else(|| unit.strip_prefix(b"machine-").and_then(|name| name.strip_suffix(b".scope")))
            .filter(|name| !name.is_empty())?;
        return Some((Some(Runtime::SystemdNspawn), unescape_unit(machine)));
    }
    None
}

fn is_oci_id(id: &[u8]) -> bool {
    id.len() == OCI_ID && id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The UID in the name of a pod's cgroup: `podUID`, or, by systemd, `kubepods-burstable-podUID.slice` with `_` for
/// each `-`; also before a colon.
fn pod(name: &[u8]) -> Option<Box<[u8]>> {
    let name = name.split(|&b| b == b':').next()?;
    let name = name.strip_suffix(b".slice").unwrap_or(name);
    let last = name.rsplit(|&b| b == b'-').next().filter(|last| last.starts_with(b"pod"));
    let uid = last.unwrap_or(name).strip_prefix(b"pod")?;
    let uid: Box<[u8]> = uid.iter().map(|&b| if b == b'_' { b'-' } else { b }).collect();
    let digits = uid.iter().filter(|&&b| b != b'-').count();
    let fits = uid.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    (fits && digits == 32 && matches!(uid.len(), 32 | 36)).then_some(uid)
}

/// Undoes the escapes of systemd in the name of a unit: `\xNN` is a byte, `-` is `/` and never comes here.
fn unescape_unit(name: &[u8]) -> Box<[u8]> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        let code = rest.strip_prefix(b"\\x").and_then(|code| code.get(..2));
        let byte = code.and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 16).ok());
        out.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &rest[4..] } else { tail };
    }
    out.into_boxed_slice()
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
