//! Small JSON files of the state folder, replaced whole: a reader sees the old one or the new one.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A state file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct StateFileError {
    path: String,
    source: io::Error,
}

/// The file's content, none when there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateFileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(path, error.into()))
}

/// Writes the file beside, syncs it, and renames it into place.
pub fn write<T: Serialize>(path: &Path, content: &T) -> Result<(), StateFileError> {
    replace(path, content).map_err(|error| failed(path, error))
}

fn replace<T: Serialize>(path: &Path, content: &T) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec_pretty(content)?)?;
    file.sync_data()?;
    std::fs::rename(&beside, path)
}

fn failed(path: &Path, source: io::Error) -> StateFileError {
    StateFileError { path: path.display().to_string(), source }
}
