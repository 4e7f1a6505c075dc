//! Experts of one layer read from a model's files, whatever they are stored as.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use flashflood_backends::positioned::read_exact_at;

use super::layout::{ExpertFile, ExpertLayout};
use crate::file_error::FileError;

/// The files that hold the experts of one MoE layer: only these are open at a time, as a snapshot may have hundreds.
pub(crate) struct ExpertImages<'a> {
    experts: &'a ExpertLayout,
    /// Among the MoE layers.
    n: usize,
    /// Of the model, for messages.
    layer: usize,
    files: HashMap<u32, File>,
}

impl<'a> ExpertImages<'a> {
    /// Opens the files of MoE layer `n`, which is layer `layer` of the model.
    pub(crate) fn open(experts: &'a ExpertLayout, n: usize, layer: usize) -> Result<Self, FileError> {
        let mut files = HashMap::new();
        for expert in 0..experts.layers[n].experts {
            for file in experts.files_of(n, expert) {
                if let ExpertFile::Path(path) = &experts.files[file as usize]
                    && !files.contains_key(&file)
                {
                    files.insert(file, File::open(path).map_err(FileError::io("open", path))?);
                }
            }
        }
        Ok(ExpertImages { experts, n, layer, files })
    }

    /// Reads an expert into the image of its slot.
    pub(crate) fn read(&self, expert: usize, image: &mut [u8]) -> Result<(), FileError> {
        let read = |file: u32, offset: u64, out: &mut [u8]| {
            let len = out.len();
            self.read_slice(file, offset, out).map_err(|source| {
                let path = match &self.experts.files[file as usize] {
                    ExpertFile::Path(path) => path,
                    ExpertFile::Memory { name, .. } => Path::new(name),
                };
                let what = format!("read {len} bytes at offset {offset} (layer {}, expert {expert})", self.layer);
                FileError::io(what, path)(source)
            })
        };
        for (file, offset, len, at) in self.experts.slices(self.n, expert) {
            read(file, offset, &mut image[at..at + len])?;
        }
        self.experts.read_rewritten((self.n, expert), image, &mut Vec::new(), &mut |slices, scratch| {
            slices.iter().try_for_each(|(file, offset, len, at)| read(*file, *offset, &mut scratch[*at..at + len]))
        })
    }

    fn read_slice(&self, file: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &self.experts.files[file as usize] {
            ExpertFile::Path(_) => read_exact_at(&self.files[&file], out, offset),
            ExpertFile::Memory { bytes, .. } => {
                let from = usize::try_from(offset).ok().and_then(|from| bytes.get(from..)?.get(..out.len()));
                out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}
