use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::de::{Context, Reader, Stop};
use crate::error::ConfigFaults;
use crate::fault::{Fault, Location};
use crate::merge::merge;
use crate::source::Faults;
use crate::tree::{Entry, Node, Place, Value, join};
use crate::{toml_file, yaml_file};

/// A file of ours has a few kilobytes; one of this size is something else.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Attempts to find one more fault of type; nobody reads more.
const FAULTS_MAX: usize = 100;

const MISSING: &str = "is missing";

/// What types alone cannot say.
pub trait Validate {
    /// Reports everything that is wrong. What could not be read has its default meanwhile, or some value of its
    /// type, and what is reported of it is left out.
    fn validate(&self, faults: &mut Faults<'_>);
}

/// Reads the main file, the files `*.toml`, `*.yaml` and `*.yml` of the drop-in folder in the order of their
/// names, and the variables `<prefix>_…` of the environment.
///
/// A main file that is given has to exist; the folder need not.
///
/// # Errors
/// All faults at once.
pub fn load<T>(main: Option<&Path>, drop_in: Option<&Path>, env_prefix: &str) -> Result<T, ConfigFaults>
where
    T: DeserializeOwned + Validate,
{
    load_from(
        main,
        drop_in,
        env_prefix,
        std::env::vars_os().filter_map(|(name, value)| {
            // What is not Unicode cannot be one of ours, whose names are all ASCII.
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }),
    )
}

/// [`load`] with another environment.
///
/// # Errors
/// All faults at once.
pub fn load_from<T>(
    main: Option<&Path>,
    drop_in: Option<&Path>,
    env_prefix: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigFaults>
where
    T: DeserializeOwned + Validate,
{
    let mut faults = Vec::new();
    let mut tree = Node::empty();
    let main = main.map(Path::to_owned);
    for path in main.into_iter().chain(drop_ins(drop_in, &mut faults)) {
        if let Some(node) = read(path, &mut faults) {
            merge(&mut tree, node);
        }
    }
    let variables: BTreeMap<String, String> = variables.into_iter().collect();
    for (name, value) in variables {
        if let Some(keys) = keys_of(&name, env_prefix) {
            merge(&mut tree, overlay(&keys, &name, value));
        }
    }
    tree.label("");

    let broken = std::mem::take(&mut faults);
    let mut typed = type_up::<T>(&mut tree.clone());
    faults.append(&mut typed.faults);
    let partial = !broken.is_empty() || typed.config.is_none() || !typed.mended.is_empty();
    if let Some(config) = typed.config {
        let mut semantic = Faults::new(&tree);
        config.validate(&mut semantic);
        let mut found = semantic.into_found();
        found.retain(|fault| !typed.mended.iter().any(|key| speaks_of(fault, key)));
        faults.append(&mut found);
        if faults.is_empty() && broken.is_empty() {
            return Ok(config);
        }
    }
    if !broken.is_empty() {
        // What a file that cannot be read says, or leaves out, is not known.
        faults
            .retain(|fault| fault.message != MISSING && !broken.iter().any(|other| same_file(fault, other)));
        faults.extend(broken);
    }
    faults.sort();
    faults.dedup();
    Err(ConfigFaults { faults, partial })
}

/// Whether a fault of validation may come of a value that stands in for what is written at `key`: it lies there
/// or below, or names its last part, as in "must be shorter than interval_s".
fn speaks_of(fault: &Fault, key: &str) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
    let name = key.rsplit('.').next().unwrap_or(key);
    let mut words = fault
        .message
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    fault.key.strip_prefix(key).is_some_and(below) || words.any(|word| word == name)
}

fn same_file(one: &Fault, other: &Fault) -> bool {
    match (&one.location, &other.location) {
        (Location::File { path: one, .. }, Location::File { path: other, .. }) => one == other,
        _ => false,
    }
}

fn drop_ins(folder: Option<&Path>, faults: &mut Vec<Fault>) -> Vec<PathBuf> {
    let Some(folder) = folder else { return Vec::new() };
    let listed = std::fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<PathBuf>>>()
    });
    match listed {
        Ok(mut paths) => {
            let ours = |path: &PathBuf| {
                let hidden = path
                    .file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                !hidden && matches!(extension(path), "toml" | "yaml" | "yml")
            };
            paths.retain(ours);
            paths.sort();
            paths
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            faults.push(unreadable(folder, &error));
            Vec::new()
        }
    }
}

fn extension(path: &Path) -> &str {
    path.extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or("")
}

fn read(path: PathBuf, faults: &mut Vec<Fault>) -> Option<Node> {
    let text = match read_bounded(&path) {
        Ok(text) => text,
        Err(error) => {
            faults.push(unreadable(&path, &error));
            return None;
        }
    };
    let yaml = matches!(extension(&path), "yaml" | "yml");
    let path = Arc::new(path);
    let node = if yaml {
        yaml_file::read(&text, &path, faults)
    } else {
        toml_file::read(&text, &path, faults)
    };
    match node.value {
        Value::Table(_) => Some(node),
        // A YAML file of comments only.
        Value::Null => None,
        _ => {
            let message = "found a single value, wanted keys".to_owned();
            faults.push(Fault {
                location: node.place.locate(),
                key: String::new(),
                message,
            });
            None
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it has {length} bytes; {FILE_BYTES_MAX} are allowed"
        )));
    }
    std::fs::read_to_string(path)
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let location = Location::File {
        path: Arc::new(path.to_owned()),
        line: 0,
        column: 0,
    };
    Fault {
        location,
        key: String::new(),
        message: format!("cannot be read: {error}"),
    }
}

/// The keys a variable sets: none unless it starts with the prefix and holds `__`.
fn keys_of(name: &str, prefix: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(prefix)?.strip_prefix('_')?;
    if !rest.contains("__") && !rest.starts_with('_') {
        return None;
    }
    let keys: Vec<String> = rest
        .trim_start_matches('_')
        .split("__")
        .filter(|key| !key.is_empty())
        .map(str::to_lowercase)
        .collect();
    (!keys.is_empty()).then_some(keys)
}

fn overlay(keys: &[String], name: &str, value: String) -> Node {
    let place = Place::Known(Location::Variable(name.to_owned()));
    let mut node = Node::new(Value::Loose(value), place.clone());
    for key in keys.iter().rev() {
        let entry = Entry {
            key: place.clone(),
            node,
        };
        node = Node::new(
            Value::Table(BTreeMap::from([(key.clone(), entry)])),
            place.clone(),
        );
    }
    node
}

/// What came of reading a tree.
struct Typed<T> {
    /// None when it cannot be had, whatever is mended.
    config: Option<T>,
    faults: Vec<Fault>,
    /// Keys whose value is another than what is written: the default where there is one.
    mended: Vec<String>,
}

/// How a tree was mended.
#[derive(Default)]
struct Mends {
    faults: Vec<Fault>,
    /// Keys that were taken out, or stand for nothing anybody wrote.
    keys: Vec<String>,
    /// Keys for which no value could be made up.
    given_up: Vec<String>,
}

/// Reads the tree into `T`; each attempt that fails reports one fault and mends the tree for the next.
fn type_up<T: DeserializeOwned>(tree: &mut Node) -> Typed<T> {
    let mut mends = Mends::default();
    let mut config = None;
    for _attempt in 0..FAULTS_MAX {
        let context = Context::default();
        let outcome = T::deserialize(Reader {
            node: tree,
            context: &context,
        });
        let unknown = context.unknown.into_inner();
        for fault in unknown {
            if !mends.faults.contains(&fault) {
                mends.faults.push(fault);
            }
        }
        match outcome {
            Ok(typed) => {
                config = Some(typed);
                break;
            }
            Err(stop) => {
                if !mend(tree, stop, &mut mends) {
                    break;
                }
            }
        }
    }
    Typed {
        // Without an item of a list the others have other places: what is said of them would be wrong.
        config: config.filter(|_| !mends.given_up.iter().any(|key| key.ends_with(']'))),
        faults: mends.faults,
        mended: mends.keys,
    }
}

/// False when nothing more can be found out.
fn mend(tree: &mut Node, stop: Stop, mends: &mut Mends) -> bool {
    let at = stop.at.unwrap_or_default();
    let Some(node) = tree.find_mut(&at) else {
        return false;
    };
    if let (Some(field), Value::Table(entries)) = (stop.missing, &mut node.value) {
        let key = join(&at, field);
        if !mends.given_up.contains(&key) {
            // What was taken out for a fault is not missing, though nothing takes its place by itself.
            if !mends.keys.contains(&key) {
                mends.faults.push(Fault {
                    location: node.place.locate(),
                    key: key.clone(),
                    message: MISSING.to_owned(),
                });
                mends.keys.push(key.clone());
            }
            let mut conjured = Node::new(Value::Conjured, node.place.clone());
            conjured.label(&key);
            entries.insert(
                field.to_owned(),
                Entry {
                    key: node.place.clone(),
                    node: conjured,
                },
            );
            return true;
        }
    } else if !matches!(node.value, Value::Conjured) {
        mends.faults.push(Fault {
            location: node.place.locate(),
            key: at.clone(),
            message: stop.message,
        });
        node.value = Value::Conjured;
        mends.keys.push(at.clone());
        // The default of a key, where it has one, says more in validation than a value out of nothing.
        return !at.is_empty() && (at.ends_with(']') || tree.remove(&at));
    }
    // No value could be conjured: do without the key, and without its section should that need it.
    mends.given_up.push(at.clone());
    !at.is_empty() && tree.remove(&at)
}
