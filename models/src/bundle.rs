//! Reading a bundle whole, with every digest compared.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use serde::de::DeserializeOwned;

use crate::manifest::MANIFEST_VERSION;
use crate::{BundleError, FeatureSchema, Golden, Manifest};

/// No file of a bundle is larger: the largest shipped one is 1 MB.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// SHA-256 in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes).as_ref())
}

/// A model whose files were all compared with its manifest.
#[derive(Debug, Clone)]
pub struct Bundle {
    manifest: Manifest,
    graph: Vec<u8>,
    schema: FeatureSchema,
    golden: Golden,
}

impl Bundle {
    /// Reads and verifies the bundle in `folder`.
    pub fn read(folder: &Path) -> Result<Self, BundleError> {
        Self::verify(|file| read_bounded(&folder.join(file)).map(Cow::Owned))
    }

    /// The host-anomaly model that came with this build.
    pub fn shipped() -> Result<Self, BundleError> {
        Self::verify(|file| match file {
            "manifest.json" => Ok(Cow::Borrowed(
                include_bytes!("../host-anomaly/manifest.json").as_slice(),
            )),
            "model.onnx" => Ok(Cow::Borrowed(
                include_bytes!("../host-anomaly/model.onnx").as_slice(),
            )),
            "features.json" => Ok(Cow::Borrowed(
                include_bytes!("../host-anomaly/features.json").as_slice(),
            )),
            "golden.json" => Ok(Cow::Borrowed(
                include_bytes!("../host-anomaly/golden.json").as_slice(),
            )),
            other => Err(BundleError::Read {
                path: PathBuf::from(other),
                source: std::io::ErrorKind::NotFound.into(),
            }),
        })
    }

    fn verify<'a>(open: impl Fn(&str) -> Result<Cow<'a, [u8]>, BundleError>) -> Result<Self, BundleError> {
        let manifest: Manifest = parse("manifest.json", &open("manifest.json")?)?;
        let refuse = |reason: String| BundleError::Refused {
            model: manifest.name.clone(),
            reason,
        };
        if manifest.manifest_version != MANIFEST_VERSION {
            return Err(refuse(format!(
                "manifest version {} is not {MANIFEST_VERSION}",
                manifest.manifest_version
            )));
        }
        let checked = |file: &str, wanted: &str| -> Result<Cow<'a, [u8]>, BundleError> {
            if file.is_empty() || file.contains(['/', '\\', '\0']) || file.starts_with('.') {
                return Err(refuse(format!("file name {file:?} leaves the bundle")));
            }
            let bytes = open(file)?;
            let found = sha256_hex(&bytes);
            if found != wanted {
                return Err(BundleError::Digest {
                    model: manifest.name.clone(),
                    file: file.to_owned(),
                    wanted: wanted.to_owned(),
                    found,
                });
            }
            Ok(bytes)
        };
        let graph = checked(&manifest.graph.file, &manifest.graph.sha256)?.into_owned();
        let schema: FeatureSchema = parse(
            &manifest.features.file,
            &checked(&manifest.features.file, &manifest.features.sha256)?,
        )?;
        if schema.features.len() != manifest.features.count {
            let (found, wanted) = (schema.features.len(), manifest.features.count);
            return Err(refuse(format!(
                "the schema has {found} features, the manifest says {wanted}"
            )));
        }
        let golden: Golden = parse(
            &manifest.golden.file,
            &checked(&manifest.golden.file, &manifest.golden.sha256)?,
        )?;
        Ok(Self {
            manifest,
            graph,
            schema,
            golden,
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The ONNX graph.
    pub fn graph(&self) -> &[u8] {
        &self.graph
    }

    /// The ordered features.
    pub fn schema(&self) -> &FeatureSchema {
        &self.schema
    }

    /// Digest of the schema, by which a host's learnt state is keyed.
    pub fn schema_sha256(&self) -> &str {
        &self.manifest.features.sha256
    }

    /// The golden cases.
    pub fn golden(&self) -> &Golden {
        &self.golden
    }
}

fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(bytes).map_err(|source| BundleError::Parse {
        file: file.to_owned(),
        source,
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, BundleError> {
    let failed = |source| BundleError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(BundleError::TooLarge {
            path: path.to_owned(),
            bytes,
            max: FILE_BYTES_MAX,
        });
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of_shipped() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/host-anomaly")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        folder
    }

    #[test]
    fn shipped_bundle_is_whole_and_bounded() {
        let bundle = Bundle::shipped().unwrap();
        assert_eq!(bundle.manifest().name, "host-anomaly");
        assert!(
            bundle.schema().features.len() <= 64,
            "the host keeps square sums of this many features"
        );
        assert!(!bundle.golden().cases.is_empty());
        assert_eq!(
            Bundle::read(copy_of_shipped().path()).unwrap().graph(),
            bundle.graph()
        );
    }

    #[test]
    fn one_flipped_bit_in_any_digested_file_is_refused_by_name() {
        for file in ["model.onnx", "features.json", "golden.json"] {
            let folder = copy_of_shipped();
            let path = folder.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let error = Bundle::read(folder.path()).unwrap_err();
            assert!(
                matches!(&error, BundleError::Digest { file: named, .. } if named == file),
                "{error}"
            );
            assert!(error.to_string().contains("not loaded"), "{error}");
        }
    }

    #[test]
    fn manifest_cannot_name_a_file_outside_its_folder() {
        let folder = copy_of_shipped();
        let path = folder.path().join("manifest.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("model.onnx", "../../etc/passwd")).unwrap();
        let error = Bundle::read(folder.path()).unwrap_err();
        assert!(matches!(error, BundleError::Refused { .. }), "{error}");
    }

    #[test]
    fn manifest_with_an_unknown_key_or_version_is_refused() {
        for (from, to) in [
            ("\"version\"", "\"verison\""),
            ("\"manifest_version\": 1", "\"manifest_version\": 9"),
        ] {
            let folder = copy_of_shipped();
            let path = folder.path().join("manifest.json");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from));
            std::fs::write(&path, text.replace(from, to)).unwrap();
            assert!(Bundle::read(folder.path()).is_err());
        }
    }

    #[test]
    fn missing_file_is_named() {
        let folder = copy_of_shipped();
        std::fs::remove_file(folder.path().join("model.onnx")).unwrap();
        let error = Bundle::read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("model.onnx"), "{error}");
    }
}
