//! The deeds: of intruders, and of those who look like them.

use fleetmend_event::table::Severity;

/// What a deed is to raise.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// A finding of this rule, of this severity or above.
    Finding(&'static str, Severity),
    /// Nothing above this severity.
    AtMost(Severity),
}

pub(crate) struct Deed {
    pub(crate) name: &'static str,
    /// Families of facts without which it cannot be judged.
    pub(crate) needs: &'static [&'static str],
    /// Programs without which it cannot be done.
    pub(crate) tools: &'static [&'static str],
    pub(crate) expect: Expect,
}

const fn intruder(
    name: &'static str,
    needs: &'static [&'static str],
    rule: &'static str,
    severity: Severity,
) -> Deed {
    Deed {
        name,
        needs,
        tools: &[],
        expect: Expect::Finding(rule, severity),
    }
}

const fn lookalike(
    name: &'static str,
    needs: &'static [&'static str],
    tools: &'static [&'static str],
) -> Deed {
    Deed {
        name,
        needs,
        tools,
        expect: Expect::AtMost(Severity::Low),
    }
}

pub(crate) fn deeds() -> Vec<Deed> {
    use Severity::{High, Low, Medium};
    vec![
        intruder("run_from_shared_memory", &["process"], "risky-exec-path", High),
        intruder("run_a_memfd", &["process"], "fileless-exec", High),
        intruder("run_a_set_user_id_copy", &["process"], "suid-program-run", High),
        intruder(
            "join_a_shell_to_a_connection",
            &["process", "network"],
            "reverse-shell",
            High,
        ),
        intruder(
            "listen_from_a_shared_folder",
            &["process", "network"],
            "unusual-listener",
            High,
        ),
        intruder("scan_ports", &["network"], "port-scan", Low),
        intruder("scan_ports_by_ten_processes", &["network"], "port-scan", Low),
        intruder("fork_without_end", &["process"], "fork-flood", High),
        intruder("stop_the_audit", &["process"], "defence-stopped", High),
        intruder("add_a_job", &["file"], "persistence-cron", Medium),
        intruder("rename_over_the_preload", &["file"], "persistence-preload", High),
        intruder("add_a_key", &["file"], "persistence-ssh-key", Medium),
        intruder("empty_a_log", &["file"], "log-tamper", High),
        intruder("remove_a_log", &["file"], "log-tamper", High),
        intruder("rewrite_a_log", &["file"], "log-tamper", High),
        intruder(
            "add_a_job_by_a_word_like_a_script",
            &["file"],
            "persistence-cron",
            Medium,
        ),
        intruder("put_a_folder_of_keys", &["file"], "persistence-ssh-key", Medium),
        intruder(
            "open_the_passwords_with_the_sticky_bit",
            &["file"],
            "permission-tamper",
            High,
        ),
        intruder("remove_the_history", &["file"], "history-tamper", Medium),
        intruder(
            "open_the_passwords_to_everyone",
            &["file"],
            "permission-tamper",
            High,
        ),
        intruder("drop_a_set_user_id_program", &["file"], "suid-drop", High),
        intruder("read_the_passwords", &["file"], "credential-read", High),
        intruder("write_memory_by_proc", &["memory"], "process-memory-write", High),
        intruder(
            "attach_to_a_guarded_process",
            &["memory"],
            "process-memory-write",
            High,
        ),
        intruder("write_memory_by_call", &["memory"], "process-memory-write", High),
        intruder("load_a_bpf_program", &["kernel"], "bpf-load", High),
        intruder(
            "open_the_core_pattern",
            &["memory"],
            "kernel-setting-tamper",
            High,
        ),
        intruder("kill_a_guard", &["signal"], "guard-signalled", High),
        lookalike("drop_privileges", &["process"], &[]),
        lookalike("become_another_by_su", &["process"], &["/bin/su"]),
        lookalike("become_another_by_sudo", &["process"], &["/usr/bin/sudo"]),
        lookalike("build_in_parallel", &["process"], &["/usr/bin/make"]),
        lookalike("back_up_everything", &["process"], &["/bin/tar"]),
        lookalike("rotate_logs", &["process"], &["/usr/sbin/logrotate"]),
        lookalike(
            "install_a_package",
            &["process"],
            &["/usr/bin/dpkg-deb", "/usr/bin/dpkg"],
        ),
        lookalike("debug_an_own_process", &["process"], &["/usr/bin/gdb"]),
        lookalike("debug_a_child", &["process"], &[]),
    ]
}
