use super::*;

struct Nobody;

impl Ancestry for Nobody {
    fn chain(&self, _: u32, _: u64) -> Vec<Ancestor> {
        Vec::new()
    }
}

fn own_actor() -> Actor {
    let pid = std::process::id();
    let (comm, ppid, start) = stat_of(pid).unwrap();
    Actor {
        pid,
        start_boot_ns: start + 5,
        ppid: Some(ppid),
        comm,
        exe: Some(std::env::current_exe().unwrap().display().to_string()),
        ..Actor::default()
    }
}

fn touch(time: i64, identity: Option<(u64, u64)>, named: bool, shares_root: Option<bool>) -> Touch {
    let mut writer = (*Registry::new(Box::new(Nobody), Vec::new()).writer(&own_actor())).clone();
    writer.shares_root = shares_root;
    Touch {
        time: TimeMicros(time),
        act: "open_write",
        writer: Arc::new(writer),
        identity,
        named,
        proven: false,
        coincides: false,
        source: Source::Ebpf,
    }
}

#[test]
fn act_by_name_of_a_process_that_ended_is_believed_by_its_kin_and_its_moment() {
    let believed = |in_container, shares_root, kin, coincides| {
        let mut touch = touch(0, None, true, shares_root);
        touch.coincides = coincides;
        let writer = Arc::make_mut(&mut touch.writer);
        (writer.in_container, writer.kin_shares_root) = (in_container, kin);
        touch.is_of(Some((1, 10)), Some((1, 10)))
    };
    assert!(believed(false, None, Some(true), true));
    assert!(!believed(false, None, Some(true), false), "at another moment");
    assert!(!believed(true, None, Some(true), true), "of a container");
    assert!(!believed(false, None, Some(false), true), "of another root");
    assert!(!believed(false, None, None, true), "of nobody");
    assert!(
        !believed(false, Some(false), Some(true), true),
        "its own root is another"
    );
}

#[test]
fn moment_of_an_act_is_that_of_the_file_or_of_the_folder_it_is_gone_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "one").unwrap();
    let changed = path.metadata().unwrap();
    let moment = changed.ctime() * 1_000_000 + changed.ctime_nsec() / 1_000;
    assert!(coincides(&path, TimeMicros(moment + 20_000)) && coincides(&path, TimeMicros(moment - 20_000)));
    assert!(
        !coincides(&path, TimeMicros(moment + 900_000)) && !coincides(&path, TimeMicros(moment - 900_000))
    );
    std::fs::remove_file(&path).unwrap();
    let changed = folder.path().metadata().unwrap();
    let moment = changed.mtime() * 1_000_000 + changed.mtime_nsec() / 1_000;
    assert!(coincides(&path, TimeMicros(moment + 20_000)) && !coincides(&path, TimeMicros(moment + 900_000)));
}

#[test]
fn event_of_a_file_with_the_same_path_elsewhere_is_not_believed() {
    let (ours, theirs) = (Some((1, 10)), Some((1, 11)));
    assert!(
        !touch(0, theirs, true, Some(true)).is_of(ours, ours),
        "the inode tells, whoever it is"
    );
    assert!(touch(0, ours, true, None).is_of(ours, None), "removed since");
    assert!(touch(0, theirs, true, None).is_of(ours, theirs), "renamed over");
    assert!(touch(0, ours, false, None).is_of(None, ours), "by another name");
    assert!(
        !touch(0, ours, false, None).is_of(ours, theirs),
        "an inode that was given to another file"
    );
    assert!(touch(0, None, true, Some(true)).is_of(ours, ours));
    assert!(
        !touch(0, None, true, Some(false)).is_of(ours, ours),
        "in another root"
    );
    assert!(
        !touch(0, None, true, None).is_of(ours, ours),
        "ended: nobody knows in which root"
    );
    assert!(!touch(0, None, false, Some(true)).is_of(ours, ours));
}

#[test]
fn last_who_began_before_the_change_made_it() {
    let [early, late, after] = [1_000_000, 2_000_000, 9_000_000].map(|time| touch(time, None, true, None));
    let all = [&early, &late, &after];
    let chosen = |changed_ns| last_before(&all, changed_ns).unwrap().time.0;
    assert_eq!(chosen(Some(2_000_500_000)), 2_000_000);
    assert_eq!(chosen(Some(1_960_000_000)), 2_000_000, "the file's clock lags");
    assert_eq!(chosen(Some(1_500_000_000)), 1_000_000);
    assert_eq!(chosen(None), 9_000_000);
    assert_eq!(chosen(Some(1)), 9_000_000, "the clock was set");
    assert!(last_before(&[], None).is_none());
}

#[test]
fn chain_goes_up_to_the_first_process_and_knows_a_manager_by_its_inode() {
    let own = std::env::current_exe().unwrap();
    let writer = Registry::new(Box::new(Nobody), vec![own.clone()]).writer(&own_actor());
    assert_eq!(writer.chain[0].pid, std::process::id());
    assert!(writer.chain.len() >= 2, "{writer:?}");
    assert_eq!(
        (writer.manager, writer.shares_root),
        (Some(std::process::id()), Some(true))
    );
    assert!(writer.chain_text().contains(" < "));

    // The same path, and another file: a program that only has the name.
    let folder = tempfile::tempdir().unwrap();
    let impostor = folder.path().join("dpkg");
    std::fs::write(&impostor, "not this program").unwrap();
    let actor = Actor {
        exe: Some(impostor.display().to_string()),
        ..own_actor()
    };
    let writer = Registry::new(Box::new(Nobody), vec![impostor]).writer(&actor);
    assert_eq!((writer.manager, writer.called_manager), (None, true));
}

#[test]
fn process_that_ended_proves_nothing() {
    let actor = Actor {
        start_boot_ns: 1,
        ..own_actor()
    };
    let writer = Registry::new(Box::new(Nobody), vec![std::env::current_exe().unwrap()]).writer(&actor);
    assert_eq!((writer.manager, writer.shares_root), (None, None));
}

/// A process that has ended, below this one.
struct Ended(PathBuf);

impl Ancestry for Ended {
    fn chain(&self, pid: u32, start_boot_ns: u64) -> Vec<Ancestor> {
        let own = own_actor();
        vec![
            Ancestor {
                pid,
                start_boot_ns,
                comm: "dpkg".to_owned(),
                exe: Some(self.0.display().to_string()),
                ppid: own.pid,
            },
            Ancestor {
                pid: own.pid,
                start_boot_ns: own.start_boot_ns,
                comm: own.comm,
                exe: own.exe,
                ppid: 0,
            },
        ]
    }
}

#[test]
fn manager_that_ended_before_anybody_looked_is_known_by_its_path_on_the_host_only() {
    let manager = PathBuf::from("/usr/bin/dpkg");
    let mut actor = Actor {
        // Above every process id.
        pid: 1 << 23,
        exe: Some(manager.display().to_string()),
        ..own_actor()
    };
    let of = |actor: &Actor| {
        let ancestry = Box::new(Ended(manager.clone()));
        Registry::new(ancestry, vec![manager.clone()])
            .writer(actor)
            .manager
    };
    assert_eq!(of(&actor), Some(1 << 23));
    actor.container_id = Some("c".to_owned());
    assert_eq!(of(&actor), None);
}
