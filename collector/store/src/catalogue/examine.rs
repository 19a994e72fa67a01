//! Whether a catalogue can be used, and what becomes of one that cannot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fleetmend_event::TimeMicros;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::copy::{copy_of, file, place};
use crate::error::CatalogueError;
use crate::label::StoreId;

/// What there is of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It can be opened.
    Whole,
    /// There is none, and no copy of it.
    Absent,
    /// Neither it nor its copy can be used.
    Lost {
        /// What is wrong with it.
        fault: String,
    },
}

/// Looks at a catalogue and puts its copy in its place when it is damaged, gone, or of another store.
pub(super) async fn examine(catalogue: &Path, store: Option<StoreId>) -> Result<State, CatalogueError> {
    let Some(fault) = fault_of(catalogue, store).await? else {
        return Ok(State::Whole);
    };
    let copy = copy_of(catalogue);
    let is_there = fault != GONE && fault != EMPTY;
    match fault_of(&copy, store).await? {
        None => {}
        Some(of_copy) if of_copy == GONE && !is_there => return Ok(State::Absent),
        Some(_) => return Ok(State::Lost { fault }),
    }
    tracing::error!(path = %catalogue.display(), fault, "the catalogue is damaged; its copy takes its place");
    let temporary = catalogue.with_extension("tmp");
    let (from, to) = (copy.clone(), catalogue.to_owned());
    let replace = move || {
        fs::copy(&from, &temporary)?;
        rename_damaged(&to)?;
        place(&temporary, &to)
    };
    let replaced = tokio::task::spawn_blocking(replace).await;
    let replaced = replaced.map_err(io::Error::other).flatten();
    replaced.map_err(file("replace", catalogue))?;
    Ok(State::Whole)
}

const GONE: &str = "is gone";
/// SQLite takes an empty file for a new database.
const EMPTY: &str = "is empty";

/// What is wrong with a database, if anything. A file that cannot be read now is an error and no damage.
async fn fault_of(path: &Path, store: Option<StoreId>) -> Result<Option<String>, CatalogueError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(GONE.to_owned())),
        Err(error) => return Err(file("look at", path)(error)),
        Ok(found) if found.len() == 0 => return Ok(Some(EMPTY.to_owned())),
        Ok(_) => {}
    }
    let options = SqliteConnectOptions::new().filename(path);
    let looked = async {
        let mut connection = options.connect().await?;
        let said: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_all(&mut connection)
            .await?;
        let is_ours = is_of(&mut connection, store).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>((said, is_ours))
    };
    match looked.await {
        Ok((said, _)) if said != ["ok"] => Ok(Some(said.join("; "))),
        Ok((_, false)) => Ok(Some("is of another store".to_owned())),
        Ok(_) => Ok(None),
        Err(sqlx::Error::Database(error)) if is_damage(error.code().as_deref()) => {
            Ok(Some(error.message().to_owned()))
        }
        Err(source) => Err(CatalogueError::Sql {
            action: "check",
            source,
        }),
    }
}

/// Whether a catalogue is of this store, as far as it says.
async fn is_of(connection: &mut SqliteConnection, store: Option<StoreId>) -> Result<bool, sqlx::Error> {
    let Some(store) = store else { return Ok(true) };
    let read = sqlx::query_scalar("SELECT store_id FROM store_identity WHERE id = 1");
    match read.fetch_optional(connection).await {
        Ok(said) => {
            let said: Option<Option<Vec<u8>>> = said;
            Ok(said.flatten().is_none_or(|said| said == store))
        }
        // It was written before catalogues said so.
        Err(sqlx::Error::Database(error)) if !is_damage(error.code().as_deref()) => Ok(true),
        Err(error) => Err(error),
    }
}

/// `SQLITE_CORRUPT` and its kinds, and `SQLITE_NOTADB`.
fn is_damage(code: Option<&str>) -> bool {
    let code = code.and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
}

/// Keeps a catalogue that cannot be used, and its copy, for a person.
pub(super) fn put_aside(catalogue: &Path) -> io::Result<()> {
    rename_damaged(&copy_of(catalogue))?;
    rename_damaged(catalogue)
}

/// Renames a damaged database, its log with it: the log must not be applied to another file.
fn rename_damaged(path: &Path) -> io::Result<()> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let to = path.with_file_name(format!("{stem}.damaged-{}.sqlite", TimeMicros::now().0));
    for end in ["", "-wal", "-shm"] {
        let with_end = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        match fs::rename(with_end(path), with_end(&to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
