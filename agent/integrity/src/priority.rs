//! Takes a thread out of everybody's way: processor time that nobody else wants, and the disk likewise.
#![expect(
    unsafe_code,
    reason = "sched_setscheduler and ioprio_set have no safe wrapper"
)]

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h; 0 is the calling thread.
const WHO_PROCESS: libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT`.
const CLASS_IDLE: libc::c_int = 3 << 13;
/// The nicest there is.
const NICE: i32 = 19;

/// Lowers the calling thread's priority as far as the system lets it; says what it got, in words.
pub(crate) fn lower() -> &'static str {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` lives through the call, and 0 names the calling thread.
    let idle = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } == 0;
    let nice = idle || rustix::process::setpriority_process(None, NICE).is_ok();
    // SAFETY: the call takes three integers; 0 names the calling thread.
    let disk = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) } == 0;
    match (idle, nice, disk) {
        (true, _, true) => "idle class, disk too",
        (true, _, false) => "idle class",
        (false, true, true) => "nice 19, disk idle",
        (false, true, false) => "nice 19",
        (false, false, true) => "disk idle",
        (false, false, false) => "as all others",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn thread_gets_out_of_the_way_and_its_parent_does_not() {
        let got = std::thread::spawn(super::lower).join().unwrap();
        assert!(
            got.contains("idle") || got.contains("nice") || got == "as all others",
            "{got}"
        );
        let own = rustix::process::getpriority_process(None).unwrap();
        assert!(own < super::NICE, "{own}");
    }
}
