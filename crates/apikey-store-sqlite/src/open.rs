//! Opening the database: the lock, the files, the schema. Everything here blocks.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use diesel::{SqliteConnection, result::ConnectionError};

use crate::{
    connections::{Connections, Role, connect, database_url},
    migrations::{MigrationFailure, migrate},
};

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another store of this one) has it open.
    #[error("{} is in use by another process: SQLite serves one at a time", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The schema is of a newer version of this program, which alone knows what may be done with it.
    #[error("{} was written by a newer version: its schema {version} is unknown to this one", path.display())]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// The first migration that this version does not know.
        version: String,
    },
    /// SQLite takes paths in UTF-8 alone.
    #[error("{} is not valid UTF-8", path.display())]
    NotUnicode {
        /// The database.
        path: PathBuf,
    },
    /// The directory, the lock or the database file cannot be made or read.
    #[error("{} cannot be opened", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite does not open it.
    #[error("{} cannot be opened by SQLite", path.display())]
    Connection {
        /// The database.
        path: PathBuf,
        /// Why.
        source: ConnectionError,
    },
    /// A migration failed; it left nothing behind.
    #[error("the schema of {} cannot be brought up to date", path.display())]
    Migration {
        /// The database.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A database that this process alone may open, with its schema up to date.
pub(crate) struct Prepared {
    /// The names of the migrations that were needed.
    pub(crate) applied: Vec<String>,
    path: PathBuf,
    url: Arc<str>,
    // In the order in which they must be dropped: the lock last.
    connection: SqliteConnection,
    lock: File,
}

impl Prepared {
    /// Opens the connections of a store.
    pub(crate) fn into_connections(self) -> Result<Connections, OpenError> {
        let Self { applied: _, path, url, connection, lock } = self;
        Connections::open(&url, connection, lock).map_err(|source| OpenError::Connection { path, source })
    }
}

/// Locks the database, makes what is missing of directory and file, and brings the schema up to date.
pub(crate) fn prepare(path: &Path) -> Result<Prepared, OpenError> {
    let path = resolve(path)?;
    let url = database_url(&path).ok_or_else(|| OpenError::NotUnicode { path: path.clone() })?;
    let lock = lock(&path)?;
    create(&path)?;
    let mut connection =
        connect(&url, Role::Write).map_err(|source| OpenError::Connection { path: path.clone(), source })?;
    let applied = migrate(&mut connection).map_err(|failure| match failure {
        MigrationFailure::Newer(version) => OpenError::NewerSchema { path: path.clone(), version },
        MigrationFailure::Failed(source) => OpenError::Migration { path: path.clone(), source },
    })?;
    if !applied.is_empty() {
        tracing::info!(database = %path.display(), migrations = ?applied, "the schema was brought up to date");
    }
    Ok(Prepared { applied, path, url, connection, lock })
}

/// The one path of the database, whatever links lead to it, so that it has one lock. Makes the directory where it is missing.
fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let failed = |source| OpenError::File { path: path.to_owned(), source };
    match path.canonicalize() {
        Ok(path) if path.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let absolute = std::path::absolute(path).map_err(failed)?;
    let (Some(directory), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory).map_err(failed)?;
    Ok(directory.canonicalize().map_err(failed)?.join(name))
}

/// A lock of the operating system on a file beside the database: it ends with the process, however that ends.
fn lock(database: &Path) -> Result<File, OpenError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = private().create(true).truncate(false).open(&path);
    let file = file.map_err(|source| OpenError::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: database.to_owned() }),
        Err(TryLockError::Error(source)) => Err(OpenError::File { path, source }),
    }
}

/// Makes the database file where it is missing, readable by its owner alone; SQLite gives its log the same mode. An existing
/// file is not touched: closing it would drop the locks that SQLite holds on it.
fn create(database: &Path) -> Result<(), OpenError> {
    match private().create_new(true).open(database) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(OpenError::File { path: database.to_owned(), source }),
    }
}

fn private() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
