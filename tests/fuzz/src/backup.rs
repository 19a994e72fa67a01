//! A repository of backups that somebody else wrote: whatever is in it, it is read, verified and restored or refused,
//! and nothing is written but below the folder that was named.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use collector_store::backup::{
    BackupError, Repository, RestoreTarget, Unwatched, VerifyExtent, plan, restore, verify,
};
use fleetmend_event::TimeMicros;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

const ABOUT: &str = r#"{"format":1,"id":"fuzz","key_id":null}"#;
/// Bytes of a block of a database.
const BLOCK_BYTES: usize = 64 << 10;
/// The moment of the seed. The backup after it is a second later.
const MOMENT: TimeMicros = TimeMicros(1_767_225_600_000_000);

/// What a manifest says when it is honest.
pub(crate) const SEED: &str = r#"{"format":1,"repository":"fuzz","sequence":1,"time":"2026-01-01T00:00:00Z","finished":"2026-01-01T00:00:01Z","store_epoch":"00","program":"0","previous":null,"shards":[{"table":"metrics","day":1,"files":1,"rows":1,"bytes":1,"newest":"2026-01-01T00:00:00Z","list":{"name":"0000000000000000000000000000000000000000000000000000000000000000","bytes":1}}],"segments":[{"number":1,"bytes":1,"oldest":"2026-01-01T00:00:00Z","newest":"2026-01-01T00:00:00Z","chunks":[{"name":"0000000000000000000000000000000000000000000000000000000000000000","bytes":1}],"seen":[1,2,3]}],"kept":[],"kept_whole":true,"compacted_to":0,"databases":[{"name":"catalogue","bytes":1,"blocks":{"name":"0000000000000000000000000000000000000000000000000000000000000000","bytes":1}}],"files":[{"path":"authority/key","mode":384,"name":"0000000000000000000000000000000000000000000000000000000000000000","bytes":1}],"missing":[],"bytes_added":1}"#;
/// A list of Parquet files.
pub(crate) const LIST: &str = r#"[{"path":"metrics/1.parquet","name":"0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]"#;

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// A sealed file that is neither compressed nor encrypted.
fn sealed(content: &[u8]) -> Vec<u8> {
    let mut sealed = vec![b'F', b'M', b'B', 1, 0, 0, 0, 0];
    sealed.extend_from_slice(&(content.len() as u64).to_le_bytes());
    sealed.extend_from_slice(&[0; 32]);
    sealed.extend_from_slice(content);
    sealed
}

/// Writes an object; what names it.
fn put(repository: &Path, content: &[u8]) -> Value {
    let name = hex::encode(Sha256::digest(content));
    let folder = repository
        .join("objects")
        .join(name.get(..2).expect("a name has 64 digits"));
    fs::create_dir_all(&folder).expect("make a folder of objects");
    fs::write(folder.join(&name), sealed(content)).expect("write an object");
    json!({"name": name, "bytes": content.len()})
}

/// The manifest: sealed by us when it looks like one, so that the fuzzer need not guess its length, and else as it is.
pub(crate) fn manifest(data: &[u8]) {
    let file = if data.first() == Some(&b'{') {
        sealed(data)
    } else {
        data.to_vec()
    };
    read(|_| vec![file]);
}

/// One object, named in every place where one can be named.
pub(crate) fn object(data: &[u8]) {
    read(|repository| {
        let object = put(repository, data);
        let blocks: Vec<String> = data
            .chunks(BLOCK_BYTES)
            .map(|block| {
                let block = put(repository, block);
                block
                    .get("name")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect();
        let blocks = put(repository, &serde_json::to_vec(&blocks).expect("a list"));
        let (name, bytes) = (object.get("name"), data.len());
        let mut manifest: Value = serde_json::from_str(SEED).expect("the seed");
        let fields = manifest.as_object_mut().expect("the seed is an object");
        let segment =
            json!([{"number": 1, "bytes": bytes, "oldest": MOMENT, "newest": MOMENT, "chunks": [object]}]);
        let shard = json!([{"table": "metrics", "day": 1, "files": 1, "rows": 1, "bytes": 1, "newest": MOMENT,
            "list": object}]);
        // As a list it is refused before anything else is read; every other time it is none.
        let shards = if data.first() == Some(&b'[') {
            shard
        } else {
            json!([])
        };
        let database = |name: &str| json!({"name": name, "bytes": bytes, "blocks": blocks});
        let parts = [
            ("shards", shards),
            ("segments", segment),
            ("databases", json!([database("catalogue"), database("control")])),
            (
                "files",
                json!([{"path": "authority/key", "mode": 384, "name": name, "bytes": bytes}]),
            ),
        ];
        fields.extend(parts.map(|(field, value)| (field.to_owned(), value)));
        let mut next = manifest.clone();
        let fields = next.as_object_mut().expect("the seed is an object");
        let parts = [
            ("sequence", json!(2)),
            ("time", json!(TimeMicros(MOMENT.0 + 1_000_000))),
            ("previous", json!({"sequence": 1, "digest": "00"})),
        ];
        fields.extend(parts.map(|(field, value)| (field.to_owned(), value)));
        let of = |manifest: &Value| sealed(&serde_json::to_vec(manifest).expect("a manifest"));
        vec![of(&manifest), of(&next)]
    });
}

/// Makes a repository of the manifests, and does with it all that can be done.
fn read(make: impl FnOnce(&Path) -> Vec<Vec<u8>>) {
    let folder = crate::file::folder();
    let at = |name: &str| folder.path().join(name);
    for name in ["repository/manifests", "repository/objects", "repository/tmp"] {
        fs::create_dir_all(at(name)).expect("make the repository");
    }
    let repository = at("repository");
    fs::write(repository.join("repository.json"), ABOUT).expect("write what it is");
    for (manifest, sequence) in make(&repository).into_iter().zip(1_u64..) {
        let name = format!("manifests/{sequence:020}");
        fs::write(repository.join(name), manifest).expect("write a manifest");
    }
    let repository = Repository::open(&repository, None).expect("a repository");
    verify(&repository, VerifyExtent::Everything, &Unwatched).expect("damage is counted");
    // The last of them cuts segments.
    for to in [None, Some(MOMENT), Some(TimeMicros(MOMENT.0 + 1))] {
        let target = RestoreTarget {
            store: at("target/store"),
            databases: vec![("control".to_owned(), at("target/control.sqlite"))],
            files: Some(at("target/files")),
            displace: true,
        };
        let restored = plan(&repository, to)
            .and_then(|plan| restore(&repository, &plan, &target, runtime().handle(), &Unwatched));
        if let Err(BackupError::TargetInUse { path }) = restored {
            panic!("{} was not moved out of the way", path.display());
        }
    }
    for entry in fs::read_dir(folder.path()).expect("list the folder").flatten() {
        let name = entry.file_name();
        assert!(
            name == "repository" || name == "target",
            "{} was written",
            name.display()
        );
    }
}
