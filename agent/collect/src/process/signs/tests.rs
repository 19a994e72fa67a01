//! Signs of processes that really run.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::process::ProcessConfig;

fn scanner() -> Scanner {
    Scanner::new(Inventory::new(ProcessConfig::default()))
}

/// A process that waits until its input ends, once it has said that it is ready.
struct Waiting(Child);

impl Waiting {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(b"ready\n").unwrap();
        let mut said = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ready\n");
        Self(child)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn signs_of(scanner: &mut Scanner, process: &Waiting) -> Vec<MemoryEvent> {
    let mut rows = Vec::new();
    scanner.look_at(process.0.id(), &mut rows);
    rows
}

#[test]
fn program_whose_file_is_gone_is_told_once_and_one_that_was_replaced_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("copy-of-cat");
    fs::copy("/bin/cat", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let process = Waiting::start(&mut Command::new(&program));
    let mut scanner = scanner();
    assert_eq!(signs_of(&mut scanner, &process), [], "an ordinary program");

    // As an upgrade does it: another file takes the name.
    let newer = folder.path().join("newer");
    fs::copy("/bin/cat", &newer).unwrap();
    fs::rename(&newer, &program).unwrap();
    assert_eq!(signs_of(&mut scanner, &process), [], "replaced");

    fs::remove_file(&program).unwrap();
    let rows = signs_of(&mut scanner, &process);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (rows[0].kind, rows[0].source),
        (MemoryEventKind::FilelessExec, Source::Proc)
    );
    assert_eq!(
        (rows[0].pid, rows[0].comm.as_str()),
        (process.0.id(), "copy-of-cat")
    );
    let detail = rows[0].detail.as_deref().unwrap();
    assert!(detail.ends_with("copy-of-cat (deleted)"), "{detail}");
    assert_eq!(signs_of(&mut scanner, &process), [], "told already");
}

#[test]
fn executable_memory_without_a_file_is_found_in_a_map() {
    let find = |maps: &str| executable_without_file(maps.lines().map(str::to_owned));
    let innocent = "1000-2000 r-xp 00000000 08:01 77 /bin/true\n\
                    3000-4000 rw-p 00000000 00:00 0 [heap]\n\
                    5000-6000 r-xp 00000000 00:00 0 [vdso]\n";
    assert_eq!(find(innocent), None);
    let found = find(&format!(
        "{innocent}7000-9000 rwxp 00000000 00:00 0 \na000-b000 r-xp 00000000 00:01 9 /memfd:x (deleted)\nnonsense\n"
    ))
    .unwrap();
    assert_eq!(
        (found.address, found.length, found.protection),
        (Some(0x7000), Some(0x3000), Some(7))
    );
    assert!(found.detail.starts_with("2 executable mappings"), "{found:?}");
}

#[test]
fn rounds_come_to_every_process() {
    let process = Waiting::start(&mut Command::new("/bin/cat"));
    let mut scanner = scanner();
    scanner.begin_round();
    assert!(scanner.waiting.contains(&process.0.id()));
    while !scanner.waiting.is_empty() {
        scanner.look(100);
    }
    scanner.look(0);
    assert!(scanner.waiting.contains(&process.0.id()), "the next round");
}
