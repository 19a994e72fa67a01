//! Manifests and lists that somebody made to do harm.

use std::path::Path;

use fleetmend_event::TimeMicros;
use serde_json::{Value, json};

use super::manifest::{Blob, FORMAT, Manifest, Shard};
use super::repository::Repository;
use super::*;

fn honest(repository: &Repository) -> Manifest {
    Manifest {
        format: FORMAT,
        repository: repository.id().to_owned(),
        sequence: 1,
        time: TimeMicros(1),
        finished: TimeMicros(2),
        store_epoch: "00".repeat(16),
        program: "0".to_owned(),
        previous: None,
        shards: Vec::new(),
        segments: Vec::new(),
        kept: Vec::new(),
        kept_whole: false,
        compacted_to: 0,
        databases: Vec::new(),
        files: Vec::new(),
        missing: Vec::new(),
        bytes_added: 0,
    }
}

/// What the repository says of a manifest that was changed by `forge`.
fn read_forged(folder: &Path, forge: impl FnOnce(&mut Value)) -> Result<Manifest, BackupError> {
    let repository = Repository::open_or_create(folder, None).unwrap();
    let mut value = serde_json::to_value(honest(&repository)).unwrap();
    forge(&mut value);
    repository
        .put_small("manifests/00000000000000000001", &value)
        .unwrap();
    repository.manifest(1).manifest
}

#[test]
fn hostile_manifest_is_refused_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    read_forged(folder.path(), |_| {}).unwrap();
    let blob = |bytes: u64| json!({"name": "ab".repeat(32), "bytes": bytes});
    const T: &str = "2026-01-01T00:00:00Z";
    let name = "ab".repeat(32);
    let forgeries: Vec<(&str, Value)> = vec![
        ("format", json!(2)),
        ("sequence", json!(7)),
        ("repository", json!("another")),
        ("previous", json!({"sequence": 1, "digest": "00"})),
        (
            "shards",
            json!([{"table": "t", "day": 1, "files": 1, "rows": 1, "bytes": 1, "newest": T, "list": {"name": "../../etc/passwd", "bytes": 1}}]),
        ),
        (
            "shards",
            json!([{"table": "t", "day": 1, "files": 1, "rows": 1, "bytes": 1, "newest": T, "list": blob(u64::MAX)}]),
        ),
        (
            "segments",
            json!([{"number": 1, "bytes": 5, "oldest": T, "newest": T, "chunks": [blob(6)]}]),
        ),
        (
            "segments",
            json!([{"number": 1, "bytes": 1_u64 << 40, "oldest": T, "newest": T, "chunks": [blob(1 << 40)]}]),
        ),
        (
            "kept",
            json!([{"number": 1, "bytes": 5, "oldest": T, "newest": T, "chunks": [blob(6)]}]),
        ),
        (
            "databases",
            json!([{"name": "catalogue", "bytes": 1_u64 << 40, "blocks": blob(1)}]),
        ),
        (
            "files",
            json!([{"path": "../../root/.ssh/authorized_keys", "mode": 384, "name": name, "bytes": 1}]),
        ),
        (
            "files",
            json!([{"path": "/etc/cron.d/x", "mode": 384, "name": name, "bytes": 1}]),
        ),
        (
            "files",
            json!([{"path": "a", "mode": 384, "name": "AB".repeat(32), "bytes": 1}]),
        ),
    ];
    for (field, value) in forgeries {
        let error = read_forged(folder.path(), |manifest| manifest[field] = value.clone()).unwrap_err();
        assert!(error.is_damage(), "{field} {value}: {error}");
    }
}

#[test]
fn path_that_leaves_its_folder_is_not_restored() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(folder.path(), None).unwrap();
    let lock = repository.lock().unwrap();
    let (content, _) = repository
        .put_bytes(&lock, b"content", seal::Squeeze::No)
        .unwrap();
    for path in ["../outside", "/tmp/outside", "a/../../outside", ""] {
        let list = serde_json::to_vec(&json!([{"path": path, "name": content.name, "bytes": content.bytes}]))
            .unwrap();
        let (list, _) = repository.put_bytes(&lock, &list, seal::Squeeze::Yes).unwrap();
        let shard = Shard {
            table: "process_events".to_owned(),
            day: 1,
            files: 1,
            rows: 1,
            bytes: 7,
            newest: TimeMicros(1),
            list,
        };
        let manifest = Manifest {
            shards: vec![shard],
            ..honest(&repository)
        };
        let error = fetch::parquet_of(&repository, &manifest).unwrap_err();
        assert!(error.is_damage(), "{path}: {error}");
    }
}

#[test]
fn list_that_names_a_file_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("repository")).unwrap();
    let repository = Repository::open_or_create(&folder.path().join("repository"), None).unwrap();
    let lock = repository.lock().unwrap();
    let of = |content: &[u8]| {
        let (blob, _) = repository.put_bytes(&lock, content, seal::Squeeze::No).unwrap();
        manifest::FileEntry {
            path: "metrics/1.parquet".to_owned(),
            blob,
        }
    };
    let target = folder.path().join("target");
    let fetched = fetch::fetch_all(&repository, &[of(b"one"), of(b"other")], &target, 8, &Unwatched);
    assert!(fetched.unwrap_err().is_damage());
    assert!(!target.exists());
}

#[test]
fn object_that_is_larger_than_the_manifest_says_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(folder.path(), None).unwrap();
    let lock = repository.lock().unwrap();
    let (content, _) = repository
        .put_bytes(&lock, &[7; 1 << 20], seal::Squeeze::Yes)
        .unwrap();
    let lying = Blob {
        bytes: 100,
        ..content
    };
    assert!(repository.read_bytes(&lying).unwrap_err().is_damage());
}

/// A repository of format 1, as it was written when that was new, is read.
#[test]
fn fixture_of_a_repository_of_format_1_is_read() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backup/fixture-1");
    let folder = tempfile::tempdir().unwrap();
    // Whoever reads leaves a lock file.
    copy(&fixture, folder.path());
    let repository = Repository::open(folder.path(), Some(BackupKey::new(&[3; 32]))).unwrap();
    let verified = verify(&repository, VerifyExtent::Everything, &Unwatched).unwrap();
    assert_eq!((verified.told, verified.backups), (Vec::new(), 2));
    let plan = plan(&repository, None).unwrap();
    let manifest = serde_json::to_value(&plan.manifest).unwrap();
    assert_eq!(manifest["sequence"], 2);
    assert_eq!(plan.manifest.missing, Vec::new());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
