//! Files that others may have written: rules, a damaged spool, chunks of samples.

use std::fs;
use std::path::Path;

use agent_detect::sigma::Sigma;
use agent_spool::{Spool, SpoolConfig};
use collector_store::ChunkBytes;
use tempfile::TempDir;

/// Memory, so that the disk is not what is measured.
pub(crate) const MEMORY: &str = "/dev/shm";

pub(crate) fn folder() -> TempDir {
    TempDir::new_in(MEMORY).expect("a temporary folder")
}

/// A rule file stands alone: whatever is in it, it is listed.
pub(crate) fn rule(data: &[u8]) {
    let folder = folder();
    fs::write(folder.path().join("rule.yml"), data).expect("write the rule");
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    sigma.status();
}

/// A spool whose first segment holds these bytes: it opens, and opens again.
pub(crate) fn spool(data: &[u8]) {
    let folder = folder();
    let root = folder.path().join("spool");
    segment(&root, data);
    for _ in 0..2 {
        let config = SpoolConfig {
            folder: root.clone(),
            ..SpoolConfig::default()
        };
        Spool::open(config)
            .map(drop)
            .expect("damage is no reason not to open");
    }
}

/// Samples of a stored chunk: damage is an error, and what can be read is what would be written.
pub(crate) fn chunk(data: &[u8]) {
    if let Some((times, values)) = ChunkBytes::decode(data) {
        let again = ChunkBytes::encode(&times, &values).expect("encode what was decoded");
        let (same_times, same_values) = ChunkBytes::decode(&again).expect("decode what was encoded");
        assert_eq!(same_times, times);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&same_values), bits(&values));
    }
}

fn segment(root: &Path, data: &[u8]) {
    use std::os::unix::fs::DirBuilderExt as _;
    let epoch = root.join(format!("00000001-{}", crate::seeds::EPOCH));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&epoch).expect("make the folder of the epoch");
    fs::write(epoch.join("critical-00000000000000000001.frames"), data).expect("write the segment");
}
