use std::path::PathBuf;

use clap::ValueEnum as _;

use super::fixtures::{
    debian_5_10, debian_6_1, debian_6_12, debian_7_3, micro_vm_6_18, no_btf, unprivileged,
};
use super::*;
use crate::kernel::facts::{Capabilities, KernelFunction, Probe, Symbol, Tracefs, TracepointId};
use crate::kernel::offsets::MissingMember;

const COMMON: [&str; 4] = ["state", "process_fork", "process_exec", "process_exit"];

fn auto(facts: &KernelFacts) -> Plan {
    plan(facts, BackendChoice::Auto).expect("a plan")
}

fn only(facts: &KernelFacts, backend: Backend) -> Plan {
    plan(facts, BackendChoice::Only(backend)).expect("a plan")
}

/// The programs besides the common ones.
fn own(plan: &Plan) -> Vec<&'static str> {
    let all: Vec<_> = plan.programs.iter().map(|program| program.program).collect();
    assert!(COMMON.iter().all(|common| all.contains(common)), "{all:?}");
    assert_eq!(plan.programs.iter().filter(|program| program.hook.is_backup()).count(), with_backup(plan));
    all.into_iter().filter(|program| !COMMON.contains(program) && !program.ends_with("_backup")).collect()
}

/// How many programs of a plan can be preempted, on kernels where those of system calls cannot.
fn with_backup(plan: &Plan) -> usize {
    let is_of_call = |program: &PlannedProgram| matches!(program.attach, Attach::Tracepoint { .. });
    plan.programs
        .iter()
        .filter(|program| {
            !program.hook.backups().is_empty()
                && !is_of_call(program)
                && !program.program.ends_with("_2_args")
        })
        .count()
}

#[test]
fn fentry_on_real_kernels() {
    let old = auto(&debian_5_10());
    assert_eq!(old.backend, Backend::Fentry);
    assert_eq!(
        own(&old),
        ["fentry_tcp_connect", "fentry_sock_graft", "fentry_tcp_close", "fexit_listen_start_2_args"]
    );
    let accept = old.of_role(Role::Accept).next().expect("accept");
    assert_eq!(accept.attach, Attach::Fentry("security_sock_graft"));
    let expected =
        ("fentry:__inet_accept".to_owned(), "this kernel has no function __inet_accept".to_owned());
    assert_eq!(accept.passed_over, [expected]);
    assert!(old.notes.iter().any(|note| note.contains("bpf_get_socket_cookie")), "{:?}", old.notes);

    for facts in [debian_6_1(), debian_6_12(), debian_7_3()] {
        let plan = auto(&facts);
        assert_eq!(
            own(&plan),
            ["fentry_tcp_connect", "fentry_inet_accept", "fentry_tcp_close", "fexit_listen_start"]
        );
        assert!(plan.refused.is_empty() && plan.notes.is_empty(), "{plan:?}");
        assert_eq!(plan.tracefs, TracefsUse::NotNeeded);
    }
}

#[test]
fn kprobes_on_real_kernels() {
    let listen = ["kprobe_tcp_close", "kprobe_inet_hash"];
    let plan = only(&debian_5_10(), Backend::Kprobe);
    assert_eq!(own(&plan)[..2], ["kprobe_tcp_connect", "kprobe_sock_graft"]);
    assert_eq!(own(&plan)[2..], ["kprobe_tcp_close", "kprobe_inet_hash", "kprobe_inet6_hash"]);
    let plan = only(&debian_7_3(), Backend::Kprobe);
    assert_eq!(own(&plan)[..2], ["kprobe_tcp_connect", "kprobe_inet_accept"]);
    assert_eq!(own(&plan)[2..], listen, "inet_hash serves IPv6 too");
    assert!(plan.programs.iter().any(|p| p.attach == Attach::Kprobe("inet_hash")));
}

#[test]
fn without_trampolines_and_kprobes_the_tracepoints_remain() {
    let plan = auto(&micro_vm_6_18());
    assert_eq!(plan.backend, Backend::Tracepoint);
    assert_eq!(own(&plan), ["sys_exit_accept", "sys_exit_accept4"]);
    assert_eq!(plan.tracefs, TracefsUse::OwnMount);
    let [(Backend::Fentry, fentry), (Backend::Kprobe, kprobe)] = &plan.refused[..] else {
        panic!("{:?}", plan.refused)
    };
    assert!(fentry.contains("although no capability is missing: EPERM"), "{fentry}");
    assert!(kprobe.contains("has no kprobes"), "the cause, not the errno: {kprobe}");

    let error = plan_error(&micro_vm_6_18(), BackendChoice::Only(Backend::Fentry));
    assert!(matches!(&error, PlanError::NoBackend(refused) if refused.len() == 1));
    assert!(!error.is_permission());
    assert!(error.to_string().contains("--backend auto"), "{error}");
}

#[test]
fn a_system_calls_program_has_a_backup_where_it_can_be_preempted() {
    let mut facts = debian_7_3();
    let accepts = |facts: &KernelFacts| -> Vec<_> {
        only(facts, Backend::Tracepoint).of_role(Role::Accept).map(|program| program.program).collect()
    };
    assert_eq!(accepts(&facts), ["sys_exit_accept", "sys_exit_accept4"]);
    facts.btf.faultable_syscalls = true;
    assert_eq!(
        accepts(&facts),
        [
            "sys_exit_accept",
            "sys_exit_accept_backup",
            "sys_exit_accept_second_backup",
            "sys_exit_accept4",
            "sys_exit_accept4_backup",
            "sys_exit_accept4_second_backup"
        ]
    );
    let plan = only(&facts, Backend::Fentry);
    let names: Vec<_> = plan.programs.iter().map(|program| program.program).collect();
    let at = |name: &str| names.iter().position(|program| *program == name).expect(name);
    assert!(at("state") < at("state_backup") && at("state_backup") < at("state_second_backup"));
    assert!(at("fentry_tcp_close_backup") < at("fentry_tcp_close_second_backup"));
}

fn plan_error(facts: &KernelFacts, wanted: BackendChoice) -> PlanError {
    plan(facts, wanted).expect_err("no plan")
}

#[test]
fn a_refused_program_makes_room_for_the_next() {
    let refused = Probe::Refused { errno: libc::EINVAL, what: "load".to_owned() };
    let mut facts = debian_6_1();
    let accept = |facts: &KernelFacts| own(&auto(facts))[1];
    for program in ["fentry_inet_accept", "fentry_sock_graft"] {
        assert_eq!(accept(&facts), program);
        facts.refused.insert(program.to_owned(), refused.clone());
    }
    assert_eq!(accept(&facts), "fexit_csk_accept_4_args");
    let plan = auto(&facts);
    assert!(
        plan.notes.iter().any(|note| note.contains("blocked since before the attach")),
        "{:?}",
        plan.notes
    );
    let passed_over = &plan.of_role(Role::Accept).next().expect("accept").passed_over;
    assert_eq!(passed_over[0], ("fentry:__inet_accept".to_owned(), "EINVAL (load)".to_owned()));

    facts.refused.insert("fexit_csk_accept_4_args".to_owned(), refused.clone());
    let plan = auto(&facts);
    assert_eq!(plan.backend, Backend::Kprobe, "no accept, no backend");
    assert!(plan.refused[0].1.contains("fexit:inet_csk_accept: EINVAL"), "{:?}", plan.refused);

    facts.refused.insert("state".to_owned(), refused);
    assert!(matches!(plan_error(&facts, BackendChoice::Auto), PlanError::Base(_)));
}

#[test]
fn an_unknown_signature_is_not_guessed() {
    let mut facts = debian_6_12();
    facts.btf.functions.insert(KernelFunction::InetAccept, 4);
    facts.btf.functions.insert(KernelFunction::SecuritySockGraft, 3);
    let plan = auto(&facts);
    let accept = plan.of_role(Role::Accept).next().expect("accept");
    assert_eq!(accept.program, "fexit_csk_accept");
    assert_eq!(accept.passed_over[0].1, "__inet_accept has 4 parameters here; conn knows it with 3");

    facts.btf.functions.insert(KernelFunction::InetCskAccept, 3);
    facts.kprobes.supported = false;
    let plan = auto(&facts);
    assert_eq!(plan.backend, Backend::Tracepoint);
    assert!(plan.refused[0].1.contains("conn knows it with 4"), "{:?}", plan.refused);
}

#[test]
fn a_listener_without_its_hook_is_a_note() {
    let mut facts = debian_6_12();
    facts.btf.functions.remove(&KernelFunction::InetCskListenStart);
    let plan = auto(&facts);
    assert_eq!(plan.backend, Backend::Fentry);
    assert!(plan.of_role(Role::Listen).next().is_none());
    assert!(plan.notes.iter().any(|note| note.contains("automatically bound listener")), "{:?}", plan.notes);
}

#[test]
fn kprobes_go_by_the_symbol_table() {
    let mut facts = debian_6_12();
    let symbols = facts.kprobes.symbols.as_mut().expect("readable");
    symbols.insert(KernelFunction::InetAccept, Symbol::Blacklisted);
    symbols.remove(&KernelFunction::SecuritySockGraft);
    let plan = only(&facts, Backend::Kprobe);
    let accept = plan.of_role(Role::Accept).next().expect("accept");
    assert_eq!(accept.attach, Attach::Kretprobe("inet_csk_accept"));
    assert!(accept.passed_over[0].1.contains("must not be probed"));
    assert!(accept.passed_over[1].1.contains("no function security_sock_graft"));

    facts.kprobes.symbols = None;
    assert_eq!(own(&only(&facts, Backend::Kprobe))[1], "kprobe_inet_accept", "else by BTF");
}

#[test]
fn missing_capabilities_are_named_with_the_remedy() {
    let error = plan_error(&unprivileged(), BackendChoice::Auto);
    assert!(error.is_permission());
    assert_eq!(
        error.to_string(),
        "CAP_BPF, CAP_PERFMON missing: run it with sudo, or grant them once with `sudo setcap \
         cap_bpf,cap_perfmon,cap_dac_read_search,cap_sys_ptrace+ep /usr/bin/conn`"
    );

    let mut facts = unprivileged();
    facts.privilege.capabilities = Capabilities::of(&[Capability::Bpf]);
    let PlanError::Capabilities { missing, backend: None, .. } = plan_error(&facts, BackendChoice::Auto)
    else {
        panic!("a permission error")
    };
    assert_eq!(missing, [Capability::Perfmon]);

    facts.privilege.capabilities = Capabilities::of(&[Capability::SysAdmin]);
    assert_eq!(auto(&facts).backend, Backend::Fentry, "CAP_SYS_ADMIN stands for both");

    facts.privilege.capabilities = Capabilities::of(&[Capability::Bpf, Capability::Perfmon]);
    assert!(auto(&facts).notes.iter().any(|note| note.contains("CAP_SYS_PTRACE")), "a degradation, no error");

    facts.executable = "/tmp/a b\n;x".to_owned();
    facts.privilege.capabilities = Capabilities::default();
    assert!(plan_error(&facts, BackendChoice::Auto).to_string().ends_with("+ep \"/tmp/a b\\n;x\"`"));
}

#[test]
fn tracefs_wants_root_or_a_capability() {
    let mut facts = unprivileged();
    facts.privilege.capabilities = Capabilities::of(&[Capability::Bpf, Capability::Perfmon]);
    let refused = TracepointId::Refused { errno: libc::EACCES };
    let mounted = |id| Tracefs::Mounted {
        path: PathBuf::from("/sys/kernel/tracing"),
        sys_exit_accept: id,
        sys_exit_accept4: id,
    };
    facts.tracefs = mounted(refused);
    let error = plan_error(&facts, BackendChoice::Only(Backend::Tracepoint));
    assert!(error.is_permission());
    assert!(
        error.to_string().starts_with("CAP_DAC_READ_SEARCH missing for the backend tracepoint (tp_btf): "),
        "{error}"
    );
    assert_eq!(auto(&facts).backend, Backend::Fentry, "the others need no tracefs");

    // A group may have been given tracefs; and where nothing helps, the backend works without the acceptor.
    facts.tracefs = mounted(TracepointId::Readable);
    assert_eq!(own(&only(&facts, Backend::Tracepoint)).len(), 2);
    for tracefs in [mounted(TracepointId::Absent), Tracefs::NotMounted, Tracefs::Unsupported] {
        facts.tracefs = tracefs;
        let plan = only(&facts, Backend::Tracepoint);
        assert!(own(&plan).is_empty() && plan.tracefs == TracefsUse::NotNeeded);
        assert!(plan.notes.iter().any(|note| note.starts_with("accept: the listener's owner")), "{plan:?}");
    }
}

#[test]
fn what_no_backend_can_do_without() {
    let error = plan_error(&no_btf(), BackendChoice::Auto);
    assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF") && !error.is_permission(), "{error}");

    let mut facts = debian_6_12();
    facts.lockdown = Lockdown::Confidentiality;
    assert_eq!(plan_error(&facts, BackendChoice::Auto), PlanError::Lockdown);
    facts.lockdown = Lockdown::Integrity;
    assert_eq!(auto(&facts).backend, Backend::Fentry);

    let mut facts = debian_6_12();
    facts.privilege.initial_user_namespace = Some(false);
    assert_eq!(plan_error(&facts, BackendChoice::Auto), PlanError::UserNamespace);

    let mut facts = debian_6_12();
    facts.btf.tracepoints.remove(&BtfTracepoint::InetSockSetState);
    assert!(
        plan_error(&facts, BackendChoice::Auto).to_string().contains("no tracepoint inet_sock_set_state")
    );

    let mut facts = debian_6_12();
    facts.btf.fatal = vec![MissingMember {
        container: "sock".to_owned(),
        path: "sk_err".to_owned(),
        found: "struct sock has no member sk_err".to_owned(),
        loses: "nothing works without it".to_owned(),
    }];
    assert!(plan_error(&facts, BackendChoice::Auto).to_string().contains("sk_err"));

    let mut facts = debian_6_12();
    facts.tp_btf = Probe::Refused { errno: libc::EINVAL, what: "load".to_owned() };
    assert!(plan_error(&facts, BackendChoice::Auto).to_string().contains("EINVAL"));
}

#[test]
fn locked_memory_is_a_matter_of_old_kernels() {
    for (mut facts, noted) in [(debian_5_10(), true), (debian_6_1(), false)] {
        let without: Vec<_> =
            Capability::ALL.into_iter().filter(|&capability| capability != Capability::SysResource).collect();
        facts.privilege.capabilities = Capabilities::of(&without);
        let notes = auto(&facts).notes;
        assert_eq!(notes.iter().any(|note| note.contains("CAP_SYS_RESOURCE")), noted, "{notes:?}");
    }
}

#[test]
fn names_of_backends() {
    for choice in BackendChoice::value_variants() {
        assert_eq!(choice.key().parse(), Ok(*choice));
        assert_eq!(choice.to_possible_value().expect("shown").get_name(), choice.key());
    }
    assert_eq!("ebpf".parse::<BackendChoice>(), Err(UnknownBackend("ebpf".to_owned())));
    assert_eq!(Backend::Tracepoint.to_string(), "tracepoint (tp_btf)");
}

#[test]
fn every_program_has_its_own_hook() {
    for facts in [debian_5_10(), debian_6_1(), debian_6_12(), debian_7_3(), micro_vm_6_18()] {
        for backend in Backend::ALL {
            let Ok(plan) = assess(&facts, backend) else { continue };
            let mut hooks: Vec<_> = plan.programs.iter().map(|program| program.hook).collect();
            hooks.sort_unstable();
            hooks.dedup();
            assert_eq!(hooks.len(), plan.programs.len(), "{backend} on {}", facts.release);
            for program in &plan.programs {
                let at = program.attach.label();
                let (kind, function) = at.split_once(':').expect("kind:name");
                let label = program.hook.label();
                assert!(label.starts_with(kind), "{label} at {at}");
                assert!(label.contains(function.rsplit('/').next().expect("a name")), "{label} at {at}");
            }
        }
    }
}
