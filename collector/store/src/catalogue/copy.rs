//! The catalogue's copy, and what becomes of a damaged catalogue.
//!
//! After every change of which files are live, and before anything that the change made needless is deleted, the whole
//! catalogue is written to `catalogue.copy.sqlite`, under another name, synced and renamed. So the copy is never older
//! than what lies on the disk allows: a catalogue that is damaged or gone is replaced by it, and at worst the last step
//! is done again. The damaged one is kept as `catalogue.damaged-<time>.sqlite`. A copy that cannot be written is
//! deleted: none is better than one that names files which are gone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use fleetmend_event::TimeMicros;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::error::CatalogueError;

fn copy_of(catalogue: &Path) -> PathBuf {
    catalogue.with_file_name("catalogue.copy.sqlite")
}

/// Whether there is a copy; a store of a former version has none.
pub(super) fn is_there(catalogue: &Path) -> bool {
    copy_of(catalogue).exists()
}

/// Puts the copy in the place of a catalogue that is damaged or gone; does nothing where the catalogue is whole, and
/// where there never was one.
pub(super) async fn repair(catalogue: &Path) -> Result<(), CatalogueError> {
    let fault = match fs::metadata(catalogue) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is gone".to_owned(),
        Err(error) => return Err(file("look at", catalogue)(error)),
        // SQLite takes an empty file for a new database.
        Ok(found) if found.len() == 0 && copy_of(catalogue).exists() => "is empty".to_owned(),
        Ok(_) => match fault_of(catalogue).await? {
            Some(fault) => fault,
            None => return Ok(()),
        },
    };
    let copy = copy_of(catalogue);
    let (is_gone, has_copy) = (!catalogue.exists(), copy.exists());
    if is_gone && !has_copy {
        return Ok(());
    }
    if !has_copy || fault_of(&copy).await?.is_some() {
        return Err(CatalogueError::Damaged {
            path: catalogue.to_owned(),
            fault,
        });
    }
    tracing::error!(path = %catalogue.display(), fault, "the catalogue is damaged; its copy takes its place");
    put_aside(catalogue).map_err(file("move", catalogue))?;
    let temporary = catalogue.with_extension("tmp");
    fs::copy(&copy, &temporary).map_err(file("copy", &copy))?;
    place(&temporary, catalogue).map_err(file("replace", catalogue))
}

/// What is wrong with a database, if anything. A file that cannot be read now is an error and no damage.
async fn fault_of(path: &Path) -> Result<Option<String>, CatalogueError> {
    let options = SqliteConnectOptions::new().filename(path);
    let looked = async {
        let mut connection = options.connect().await?;
        let said: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_all(&mut connection)
            .await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(said)
    };
    match looked.await {
        Ok(said) if said == ["ok"] => Ok(None),
        Ok(said) => Ok(Some(said.join("; "))),
        Err(sqlx::Error::Database(error)) if is_damage(error.code().as_deref()) => {
            Ok(Some(error.message().to_owned()))
        }
        Err(source) => Err(CatalogueError::Sql {
            action: "check",
            source,
        }),
    }
}

/// `SQLITE_CORRUPT` and its kinds, and `SQLITE_NOTADB`.
fn is_damage(code: Option<&str>) -> bool {
    let code = code.and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
}

/// Keeps the damaged catalogue for a person, its log with it: the log must not be applied to another file.
fn put_aside(catalogue: &Path) -> io::Result<()> {
    let name = format!("catalogue.damaged-{}.sqlite", TimeMicros::now().0);
    let to = catalogue.with_file_name(name);
    for end in ["", "-wal", "-shm"] {
        let with_end = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        match fs::rename(with_end(catalogue), with_end(&to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes the copy anew.
pub(super) async fn write(pool: &SqlitePool, catalogue: &Path) {
    let copy = copy_of(catalogue);
    if let Err(error) = written(pool, &copy).await {
        metrics::counter!(crate::metrics::MAINTENANCE_FAILURES, "step" => "catalogue_copy").increment(1);
        tracing::warn!(path = %copy.display(), %error, "cannot copy the catalogue; a stale copy is deleted");
        // It may be gone already.
        fs::remove_file(&copy).ok();
    }
}

async fn written(pool: &SqlitePool, copy: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let temporary = copy.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    sqlx::query("VACUUM INTO ?")
        .bind(temporary.to_string_lossy().into_owned())
        .execute(pool)
        .await?;
    let to = copy.to_owned();
    tokio::task::spawn_blocking(move || place(&temporary, &to)).await??;
    Ok(())
}

/// Syncs a file and gives it its name.
fn place(temporary: &Path, to: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    fs::rename(temporary, to)?;
    to.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CatalogueError + use<'a> {
    move |source| CatalogueError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
