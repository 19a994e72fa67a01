//! Healing policies: signed where the fleet root is, and looked at anywhere. No collector takes part.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleetmend_identity::{Context, FleetRoot, Signed, TrustAnchors};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Output;
use crate::shown::text;

/// Largest policy that is read.
const POLICY_BYTES_MAX: u64 = 1_024 * 1_024;

pub(crate) fn sign(output: &Output, policy: &Path, root: &Path, to: Option<&Path>) -> Result<(), Failure> {
    let policy = read(policy)?;
    if !policy.is_object() {
        return Err(Failure::other("a policy is a JSON object"));
    }
    let root = open_root(root)?;
    let signed = root
        .sign(Context::Policy, &policy)
        .map_err(|error| Failure::other(chain(&error)))?;
    let bytes = signed.to_bytes().map_err(|error| Failure::other(chain(&error)))?;
    let Some(to) = to else {
        return output.line(&String::from_utf8_lossy(&bytes));
    };
    fs::write(to, &bytes)
        .map_err(|error| Failure::other(format!("cannot write {}: {error}", to.display())))?;
    output.line(&format!(
        "wrote {} ({} bytes), signed by {}",
        to.display(),
        bytes.len(),
        root.fingerprint()
    ))
}

pub(crate) fn show(output: &Output, path: &Path, root: Option<&Path>) -> Result<(), Failure> {
    let envelope = read(path)?;
    let payload = text(&envelope, "payload");
    let decoded = STANDARD
        .decode(payload)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let Some(policy) = decoded else {
        return Err(Failure::other(format!(
            "{} is not a signed policy",
            path.display()
        )));
    };
    let verified = match root {
        None => Value::Null,
        Some(root) => {
            let root = open_root(root)?;
            let anchors = TrustAnchors {
                roots: vec![root.public()],
                online: Vec::new(),
            };
            let bytes = serde_json::to_vec(&envelope).map_err(|error| Failure::other(error.to_string()))?;
            let signed =
                Signed::<Value>::from_bytes(&bytes).map_err(|error| Failure::other(chain(&error)))?;
            signed
                .verify(&anchors, Context::Policy)
                .map_err(|error| Failure::Denied(chain(&error)))?;
            Value::Bool(true)
        }
    };
    if output.is_json() {
        return output.json(&json!({
            "context": text(&envelope, "context"), "key": text(&envelope, "key"), "verified": verified, "policy": policy,
        }));
    }
    let word = if verified.is_null() {
        "not verified; give --root to do so"
    } else {
        "the signature holds"
    };
    output.line(&format!(
        "signed as a {} by {} ({word})",
        text(&envelope, "context"),
        text(&envelope, "key")
    ))?;
    output.line(&serde_json::to_string_pretty(&policy).map_err(|error| Failure::other(error.to_string()))?)
}

fn open_root(folder: &Path) -> Result<FleetRoot, Failure> {
    for name in ["root.key", "root.pem"] {
        let path = folder.join(name);
        fs::File::open(&path).map_err(|error| {
            Failure::other(format!(
                "cannot open {}: {error}. --root is the folder of the fleet root, which `fleetmend-collector init` makes: \
                 /var/lib/fleetmend-collector/root, unless it was moved or state_dir is another. Only its owner may read it",
                path.display()
            ))
        })?;
    }
    FleetRoot::open(folder)
        .map_err(|error| Failure::other(format!("{}: {}", folder.display(), chain(&error))))
}

fn read(path: &Path) -> Result<Value, Failure> {
    let wrong = |reason: String| Failure::other(format!("cannot read {}: {reason}", path.display()));
    let mut bytes = Vec::new();
    let got = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(POLICY_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(POLICY_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    got.map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > POLICY_BYTES_MAX {
        return Err(wrong("it is longer than 1 MiB".to_owned()));
    }
    serde_json::from_slice(&bytes).map_err(|error| wrong(format!("it is not JSON: {error}")))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
