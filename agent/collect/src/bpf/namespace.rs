//! Whether the agent counts processes as the kernel's probes do.
//!
//! The probes name a process by its pid in the initial namespace; /proc names it by its pid in the namespace it was
//! mounted for. Where an agent in a pid namespace of its own reads the /proc of that namespace, the two are different
//! numbers for different processes, and what is read of one would be told of another.

use std::path::{Path, PathBuf};

use super::diagnose::Diagnosis;
use crate::process::proc_fs::ProcFs;

/// The initial pid namespace: its number is fixed (`PROC_PID_INIT_INO` of `include/linux/proc_ns.h`).
const INITIAL: &str = "pid:[4026531836]";

/// What is wrong when `proc` is of another namespace than the initial one. The first process of a namespace is in it;
/// where nobody may look at that one, the agent itself has to do. What cannot be read is believed to be right:
/// kernels without pid namespaces have no link.
pub(super) fn foreign(proc: &ProcFs) -> Option<Diagnosis> {
    let links: [PathBuf; 2] = [proc.path(1, "ns/pid"), proc.path(std::process::id(), "ns/pid")];
    let name = links.iter().find_map(|link| std::fs::read_link(link).ok())?;
    let name = name.to_str().filter(|name| *name != INITIAL)?;
    Some(Diagnosis {
        reason: format!(
            "the agent runs in a pid namespace of its own ({name}): the kernel names processes by the host's pids and \
             /proc by the namespace's, so parents, paths, users and units may be another process's"
        ),
        hint: "run the agent in the host's pid namespace: --pid=host with docker and podman, hostPID: true in a pod; \
               or mount the host's /proc and name it in process.proc_path"
            .to_owned(),
    })
}

/// The agent's own number as the kernel counts, out of the /proc that it sees itself in; 0 when the agent is in a namespace
/// of its own, where its number is that of somebody else on the host.
pub(super) fn own_pid(proc: &Path) -> u32 {
    match std::fs::read_link(proc.join("self/ns/pid")) {
        Ok(name) if name != Path::new(INITIAL) => 0,
        _ => std::process::id(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn proc_of(folder: &Path, pid: u32, name: &str) -> ProcFs {
        let namespaces = folder.join(pid.to_string()).join("ns");
        std::fs::create_dir_all(&namespaces).unwrap();
        symlink(name, namespaces.join("pid")).unwrap();
        ProcFs::new(folder)
    }

    #[test]
    fn proc_of_another_namespace_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        assert!(foreign(&ProcFs::new(folder.path())).is_none(), "nothing is known");
        // Only ourselves can be looked at.
        let proc = proc_of(folder.path(), std::process::id(), "pid:[4026532261]");
        let told = foreign(&proc).unwrap();
        assert!(told.reason.contains("pid:[4026532261]"), "{}", told.reason);
        assert!(told.hint.contains("hostPID"), "{}", told.hint);
        // Ours is another one, but /proc is the host's.
        let proc = proc_of(folder.path(), 1, INITIAL);
        assert!(foreign(&proc).is_none());
    }

    #[test]
    fn number_of_a_namespace_of_its_own_is_nobodys_on_the_host() {
        let own = std::process::id();
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(own_pid(folder.path()), own, "nothing is known");
        let namespaces = folder.path().join("self/ns");
        std::fs::create_dir_all(&namespaces).unwrap();
        symlink(INITIAL, namespaces.join("pid")).unwrap();
        assert_eq!(own_pid(folder.path()), own);
        std::fs::remove_file(namespaces.join("pid")).unwrap();
        symlink("pid:[4026532261]", namespaces.join("pid")).unwrap();
        assert_eq!(own_pid(folder.path()), 0);
    }

    /// A real namespace, where this process may make one: `unshare` needs CAP_SYS_ADMIN.
    #[test]
    fn kernel_names_a_namespace_of_its_own_differently() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: making a pid namespace needs root");
            return;
        }
        let out = std::process::Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "readlink", "/proc/1/ns/pid"])
            .output()
            .unwrap();
        let name = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(name.starts_with("pid:[") && name.trim() != INITIAL, "{name}");
    }
}
