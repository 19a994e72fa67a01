//! What the family `file` tells.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use fleetmend_event::table::{FileEvent, FileEventKind, PathSource};

use super::*;

impl Rig {
    /// The first row of this kind about this path.
    fn file(&mut self, kind: FileEventKind, path: &Path) -> FileEvent {
        let path = path.to_str().unwrap();
        self.wait_for(&format!("{kind} of {path}"), |fact| match fact {
            Fact::FileEvent(row) if row.kind == kind && row.path == path => Some((**row).clone()),
            _ => None,
        })
    }
}

#[test]
fn acts_on_files_are_told_with_path_actor_and_outcome() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::File])) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let at = |name: &str| folder.join(name);
    fs::write(at("made"), "x").unwrap();
    let metadata = fs::metadata(at("made")).unwrap();
    fs::OpenOptions::new().append(true).open(at("made")).unwrap();
    fs::set_permissions(at("made"), fs::Permissions::from_mode(0o4755)).unwrap();
    chown(at("made"), Some(12_345), None).unwrap();
    fs::rename(at("made"), at("moved")).unwrap();
    fs::hard_link(at("moved"), at("linked")).unwrap();
    symlink("/etc/passwd", at("symbolic")).unwrap();
    let long = std::ffi::CString::new(at("moved").to_str().unwrap()).unwrap();
    nix::unistd::truncate(long.as_c_str(), 0).unwrap();
    fs::remove_file(at("linked")).unwrap();

    let own = std::process::id();
    let create = rig.file(FileEventKind::Create, &at("made"));
    assert_eq!(
        (create.pid, create.path_source),
        (own, Some(PathSource::Resolved))
    );
    assert_eq!(
        (create.inode, create.repeats, create.error),
        (Some(metadata.ino()), 1, None)
    );
    let device = (nix::sys::stat::major(metadata.dev()) << 32) | nix::sys::stat::minor(metadata.dev());
    assert_eq!(create.device, Some(device));
    assert_eq!(create.exe.as_deref(), std::env::current_exe().unwrap().to_str());
    assert_eq!(create.uid, nix::unistd::getuid().as_raw());
    let open = rig.file(FileEventKind::OpenWrite, &at("made"));
    assert!(
        open.flags.is_some_and(|flags| flags & 0o2000 != 0),
        "O_APPEND: {open:?}"
    );
    let chmod = rig.file(FileEventKind::Chmod, &at("made"));
    assert_eq!(
        (chmod.mode, chmod.path_source),
        (Some(0o4755), Some(PathSource::Argument))
    );
    let chown = rig.file(FileEventKind::Chown, &at("made"));
    assert_eq!((chown.owner_uid, chown.owner_gid), (Some(12_345), None));
    let rename = rig.file(FileEventKind::Rename, &at("made"));
    assert_eq!(rename.target.as_deref(), at("moved").to_str());
    let link = rig.file(FileEventKind::Link, &at("moved"));
    assert_eq!(link.target.as_deref(), at("linked").to_str());
    let symbolic = rig.file(FileEventKind::Symlink, Path::new("/etc/passwd"));
    assert_eq!(symbolic.target.as_deref(), at("symbolic").to_str());
    rig.file(FileEventKind::Truncate, &at("moved"));
    rig.file(FileEventKind::Unlink, &at("linked"));
}

#[test]
fn relative_names_and_descriptors_are_told_by_their_path() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::File])) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let script = "mkdir sub; : > sub/a; cd sub; mv ./a ../sub/b; rm b; : > c; chmod 600 c";
    let mut shell = Command::new("/bin/sh");
    let pid = run(shell.args(["-c", script]).current_dir(&folder));
    let create = rig.file(FileEventKind::Create, &folder.join("sub/a"));
    assert_eq!((create.pid, create.comm.as_str()), (pid, "sh"));
    let rename = rig.file(FileEventKind::Rename, &folder.join("sub/a"));
    assert_eq!(rename.target.as_deref(), folder.join("sub/b").to_str());
    assert_eq!((rename.comm.as_str(), rename.ppid), ("mv", Some(pid)));
    rig.file(FileEventKind::Unlink, &folder.join("sub/b"));
    rig.file(FileEventKind::Chmod, &folder.join("sub/c"));
    let held = fs::File::create(folder.join("held")).unwrap();
    held.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
    let chmod = rig.file(FileEventKind::Chmod, &folder.join("held"));
    assert_eq!(
        (chmod.mode, chmod.path_source),
        (Some(0o640), Some(PathSource::Resolved))
    );
}

#[test]
fn reads_virtual_files_and_repeats_are_not_told_again_and_refusals_are() {
    let mut config = only(&[Family::Process, Family::File]);
    config.files.repeat_window_s = 1;
    let Some(mut rig) = Rig::start(config) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (path, marker) = (folder.join("often"), folder.join("marker"));
    fs::write(&path, "x").unwrap();
    for _ in 0..50 {
        fs::OpenOptions::new().write(true).open(&path).unwrap();
    }
    fs::read(&path).unwrap();
    fs::read("/proc/self/status").unwrap();
    fs::write("/proc/self/comm", fs::read("/proc/self/comm").unwrap()).unwrap();
    fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    fs::remove_file(folder.join("never was")).unwrap_err();
    fs::write(&marker, "").unwrap();
    let is_marker = |fact: &Fact| matches!(fact, Fact::FileEvent(row) if Path::new(&row.path) == marker);
    let own = std::process::id();
    rig.silent(
        "a read, /proc, /dev/null and a missing file",
        is_marker,
        |fact| match fact {
            Fact::FileEvent(row) if row.pid == own => {
                row.kind == FileEventKind::OpenRead
                    || row.path.starts_with("/proc/")
                    || row.path.starts_with("/dev/null")
                    || row.path.ends_with("never was")
            }
            _ => false,
        },
    );
    let end = Instant::now() + DEADLINE;
    let told = |rig: &Rig| -> Vec<u64> {
        let mine = |fact: &Fact| match fact {
            Fact::FileEvent(row) if row.kind == FileEventKind::OpenWrite && Path::new(&row.path) == path => {
                Some(row.repeats)
            }
            _ => None,
        };
        rig.facts.iter().filter_map(mine).collect()
    };
    // Windows may pass while this runs: the rows together stand for every open, and are fewer.
    while told(&rig).iter().sum::<u64>() < 50 {
        rig.tick();
        rig.collect();
        assert!(Instant::now() < end, "repeats: {:?}", told(&rig));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        told(&rig).iter().sum::<u64>() == 50 && told(&rig).len() < 25,
        "{:?}",
        told(&rig)
    );
}

#[test]
fn another_mode_or_owner_or_name_of_a_long_path_is_no_repeat() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::File])) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let deep = (0..6).fold(folder.clone(), |path, _| path.join("d".repeat(100)));
    fs::create_dir_all(&deep).unwrap();
    for mode in [0o600, 0o4755] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode | 0o700)).unwrap();
    }
    for owner in [12_345, 0] {
        chown(&folder, Some(owner), None).unwrap();
    }
    let mut shell = Command::new("/bin/sh");
    run(shell
        .args(["-c", ": > one; : > two; rm one two"])
        .current_dir(&deep));
    rig.file(FileEventKind::Unlink, &deep.join("one"));
    rig.file(FileEventKind::Unlink, &deep.join("two"));
    let of = |kind: FileEventKind| -> Vec<&FileEvent> {
        let mut rows = Vec::new();
        for fact in &rig.facts {
            match fact {
                Fact::FileEvent(row) if row.kind == kind && Path::new(&row.path) == folder => {
                    rows.push(&**row)
                }
                _ => {}
            }
        }
        rows
    };
    let modes: Vec<Option<u32>> = of(FileEventKind::Chmod).iter().map(|row| row.mode).collect();
    assert_eq!(modes, [Some(0o700), Some(0o4755)]);
    let owners: Vec<Option<u32>> = of(FileEventKind::Chown).iter().map(|row| row.owner_uid).collect();
    assert_eq!(owners, [Some(12_345), Some(0)]);
}

#[test]
fn secrets_are_told_when_they_are_read_and_other_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (secret, other, marker) = (folder.join("id_x"), folder.join("other"), folder.join("marker"));
    fs::write(&secret, "x").unwrap();
    fs::write(&other, "x").unwrap();
    let mut config = only(&[Family::Process, Family::File]);
    config.files.secrets = vec![format!("{}/id_*", folder.display())];
    let Some(mut rig) = Rig::start(config) else {
        return;
    };
    fs::read(&other).unwrap();
    fs::read(&secret).unwrap();
    fs::write(&marker, "").unwrap();
    let read = rig.file(FileEventKind::OpenRead, &secret);
    assert_eq!(read.path_source, Some(PathSource::Resolved));
    let is_marker = |fact: &Fact| matches!(fact, Fact::FileEvent(row) if Path::new(&row.path) == marker);
    rig.silent(
        "a read of another file",
        is_marker,
        |fact| matches!(fact, Fact::FileEvent(row) if Path::new(&row.path) == other),
    );
}

/// Acts on watched files have a ring of their own, which is emptied before that of executions.
#[test]
fn act_names_the_program_that_was_executed_just_before() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (secret, other) = (folder.join("id_x"), folder.join("other"));
    fs::write(&secret, "x").unwrap();
    let mut config = only(&[Family::Process, Family::File]);
    config.files.secrets = vec![format!("{}/id_*", folder.display())];
    let Some(mut rig) = Rig::start(config) else {
        return;
    };
    let copy = "exec cp \"$0\" \"$1\"";
    run(Command::new("/bin/sh")
        .args(["-c", copy])
        .arg(&secret)
        .arg(&other));
    let read = rig.file(FileEventKind::OpenRead, &secret);
    let made = rig.file(FileEventKind::Create, &other);
    for row in [read, made] {
        let exe = row.exe.as_deref().unwrap_or_default();
        assert!(exe.ends_with("/cp"), "{row:?}");
        assert!(
            row.command_line.as_deref().unwrap_or_default().starts_with("cp "),
            "{row:?}"
        );
    }
}

/// Sets an extended attribute; says whether the file system took it.
#[expect(unsafe_code, reason = "setxattr has no safe wrapper")]
fn set_attribute(path: &Path, name: &std::ffi::CStr) -> bool {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: both texts are C strings and the value is one byte long, as it says.
    unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), c"x".as_ptr().cast(), 1, 0) == 0 }
}

#[test]
fn attributes_of_security_are_told_and_those_of_users_are_not() {
    let Some(mut rig) = Rig::start(only(&[Family::Process, Family::File])) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("file");
    fs::write(&path, "").unwrap();
    set_attribute(&path, c"user.fleetmend");
    assert!(
        set_attribute(&path, c"security.fleetmend"),
        "{}",
        std::io::Error::last_os_error()
    );
    let row = rig.file(FileEventKind::Attribute, &path);
    assert_eq!(row.attribute.as_deref(), Some("security.fleetmend"));
    let users = |fact: &Fact| matches!(fact, Fact::FileEvent(row) if row.attribute.as_deref() == Some("user.fleetmend"));
    assert!(!rig.facts.iter().any(users), "{:#?}", rig.facts);
}
