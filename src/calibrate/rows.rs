//! Rows of activations of all tokens: in memory where there is room, else in a file.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flashflood_backends::new_files::shared_file_in_place_of;
use flashflood_backends::positioned::{read_exact_at, write_all_at};

use crate::file_error::FileError;

/// `[tokens, width]` in f32.
pub(super) struct Rows {
    width: usize,
    place: Place,
}

enum Place {
    Memory(Vec<f32>),
    File { file: File, path: PathBuf },
}

impl Rows {
    /// Zeros; `path` is for a file.
    pub(super) fn new(width: usize, tokens: usize, in_memory: bool, path: &Path) -> Result<Rows, FileError> {
        let place = match in_memory {
            true => Place::Memory(vec![0.0; width * tokens]),
            false => {
                let file = shared_file_in_place_of(path).map_err(FileError::io("create", path))?;
                file.set_len((width * tokens * 4) as u64).map_err(FileError::io("write", path))?;
                Place::File { file, path: path.to_owned() }
            }
        };
        Ok(Rows { width, place })
    }

    /// Those that [`save`](Self::save) has written to `path`.
    pub(super) fn open(width: usize, tokens: usize, in_memory: bool, path: &Path) -> Result<Rows, FileError> {
        let mut file = File::open(path).map_err(FileError::io("open", path))?;
        let (bytes, found) = (width * tokens * 4, file.metadata().map_err(FileError::io("read", path))?.len());
        if found != bytes as u64 {
            return Err(
                FileError::new(path, "", format!("{bytes} bytes"), found).hint("remove the folder and begin again")
            );
        }
        let place = match in_memory {
            false => Place::File { file, path: path.to_owned() },
            true => {
                let mut values = vec![0.0f32; width * tokens];
                file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(FileError::io("read", path))?;
                Place::Memory(values)
            }
        };
        Ok(Rows { width, place })
    }

    /// Rows from token `first` on.
    pub(super) fn read(&self, first: usize, rows: &mut [f32]) -> Result<(), FileError> {
        match &self.place {
            Place::Memory(values) => rows.copy_from_slice(&values[first * self.width..][..rows.len()]),
            Place::File { file, path } => {
                let offset = (first * self.width * 4) as u64;
                read_exact_at(file, bytemuck::cast_slice_mut(rows), offset).map_err(FileError::io("read", path))?;
            }
        }
        Ok(())
    }

    /// Overwrites rows from token `first` on.
    pub(super) fn write(&mut self, first: usize, rows: &[f32]) -> Result<(), FileError> {
        match &mut self.place {
            Place::Memory(values) => values[first * self.width..][..rows.len()].copy_from_slice(rows),
            Place::File { file, path } => {
                let offset = (first * self.width * 4) as u64;
                write_all_at(file, bytemuck::cast_slice(rows), offset).map_err(FileError::io("write", path))?;
            }
        }
        Ok(())
    }

    /// Adds a row to that of a token.
    pub(super) fn add(&mut self, token: usize, row: &[f32]) -> Result<(), FileError> {
        if let Place::Memory(values) = &mut self.place {
            values[token * self.width..].iter_mut().zip(row).for_each(|(x, y)| *x += y);
            return Ok(());
        }
        let mut sum = vec![0.0; row.len()];
        self.read(token, &mut sum)?;
        sum.iter_mut().zip(row).for_each(|(x, y)| *x += y);
        self.write(token, &sum)
    }

    /// Makes them what the file `path` holds, whole or not at all. They were made for `path` with `.part` behind it.
    pub(super) fn save(&mut self, path: &Path) -> Result<(), FileError> {
        let part = part(path);
        match &mut self.place {
            Place::Memory(values) => {
                let file = shared_file_in_place_of(&part).map_err(FileError::io("create", &part))?;
                let mut out = BufWriter::new(file);
                out.write_all(bytemuck::cast_slice(values)).map_err(FileError::io("write", &part))?;
                let file = out.into_inner().map_err(|e| FileError::io("write", &part)(e.into_error()))?;
                file.sync_all().map_err(FileError::io("write", &part))?;
            }
            Place::File { file, path: now } => {
                file.sync_all().map_err(FileError::io("write", &part))?;
                *now = path.to_owned();
            }
        }
        fs::rename(&part, path).map_err(FileError::io("rename to", path))
    }
}

/// The name under which a file is made.
pub(super) fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_file_holds_what_memory_holds() {
        let folder = tempfile::tempdir().unwrap();
        for in_memory in [true, false] {
            let path = folder.path().join(format!("rows-{in_memory}"));
            let mut rows = Rows::new(3, 4, in_memory, &part(&path)).unwrap();
            rows.write(1, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
            rows.add(2, &[0.5, 0.0, 0.25]).unwrap();
            rows.save(&path).unwrap();
            for again in [true, false] {
                let mut found = [9.0; 12];
                Rows::open(3, 4, again, &path).unwrap().read(0, &mut found).unwrap();
                assert_eq!(found, [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.5, 5.0, 6.25, 0.0, 0.0, 0.0]);
            }
            let error = Rows::open(3, 5, true, &path).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("expected 60 bytes, found 48"), "{error}");
        }
    }
}
