//! Bytes of mapped files, read instead of touched: what is looked at once when a model opens, or goes to a device and is
//! not needed afterwards. A disk that fails is an error then; under a map it is a signal.

use bytes::Bytes;
use flashflood_backends::positioned::read_exact_at;
use flashflood_backends::{Origin, origin};
use rayon::prelude::*;

use super::matrix::{Matrix, MatrixBlock};
use crate::file_error::FileError;
use flashflood_formats::{MOST_STREAMS, WeightFormat, WeightRows};

/// Bytes that one thread reads at a time: copying out of the page cache takes one core longer than a memory bus.
const PIECE: usize = 4 << 20;

const HINT: &str = "the disk failed, or the file was changed while it was in use";

const REPLACED: &str = "open the model again; files that are in use must stay as they are";

/// Whether `bytes` are of a file that is mapped.
pub(crate) fn is_mapped(bytes: &[u8]) -> bool {
    origin(bytes).is_some()
}

/// `bytes` as they are, or copied into `buffer` where they are mapped.
///
/// # Errors
/// What the system says, with the file and the place in it.
pub(crate) fn read_mapped<'a>(bytes: &'a [u8], buffer: &'a mut Vec<u8>) -> Result<&'a [u8], FileError> {
    let Some(origin) = origin(bytes) else { return Ok(bytes) };
    // what is longer would be cleared only to be read over
    if buffer.len() < bytes.len() {
        buffer.resize(bytes.len(), 0);
    }
    let read = &mut buffer[..bytes.len()];
    fill(&origin, read)?;
    Ok(read)
}

fn fill(origin: &Origin, out: &mut [u8]) -> Result<(), FileError> {
    let (path, len) = (origin.path(), out.len());
    let wrong = |offset: u64, len: usize, error: std::io::Error| {
        // as `Origin::open` says of another file
        let hint = if error.kind() == std::io::ErrorKind::Other { REPLACED } else { HINT };
        FileError::io(format!("read {len} bytes at offset {offset}"), path)(error).hint(hint)
    };
    let file = origin.open().map_err(|error| wrong(origin.offset, len, error))?;
    let read = |(index, piece): (usize, &mut [u8])| {
        let offset = origin.offset + (index * PIECE) as u64;
        read_exact_at(&file, piece, offset).map_err(|error| wrong(offset, piece.len(), error))
    };
    match len <= PIECE {
        true => read((0, out)),
        false => out.par_chunks_mut(PIECE).enumerate().try_for_each(read),
    }
}

/// The same bytes, in memory.
///
/// # Errors
/// As [`read_mapped`].
pub(crate) fn in_memory(bytes: &Bytes) -> Result<Bytes, FileError> {
    let mut buffer = Vec::new();
    match origin(bytes) {
        None => Ok(bytes.clone()),
        Some(_) => {
            read_mapped(bytes, &mut buffer)?;
            Ok(Bytes::from(buffer))
        }
    }
}

impl Matrix {
    /// The same matrix, in memory: for a few rows of it at a time.
    ///
    /// # Errors
    /// What cannot be read of its files.
    pub(crate) fn in_memory(&self) -> Result<Matrix, FileError> {
        let read = |block: &MatrixBlock| {
            let mut streams: [Bytes; MOST_STREAMS] = Default::default();
            for (read, stream) in streams.iter_mut().zip(&block.streams) {
                *read = in_memory(stream)?;
            }
            Ok(MatrixBlock { rows: block.rows, streams })
        };
        let blocks = self.blocks.iter().map(read).collect::<Result<_, FileError>>()?;
        Ok(Matrix { name: self.name.clone(), rows: self.rows, cols: self.cols, format: self.format, blocks })
    }
}

/// Memory for the streams of a block.
#[derive(Default)]
pub(crate) struct StreamBuffers([Vec<u8>; MOST_STREAMS]);

impl StreamBuffers {
    /// The streams of `block` whose numbers may not be finite ([`WeightRows::first_not_finite`]): all but the codes of
    /// formats that have scales beside them, which stay mapped.
    ///
    /// # Errors
    /// As [`read_mapped`].
    pub(crate) fn numbers<'a>(
        &'a mut self,
        (format, cols): (WeightFormat, usize),
        block: &'a MatrixBlock,
    ) -> Result<WeightRows<'a>, FileError> {
        let mut streams: [&[u8]; MOST_STREAMS] = Default::default();
        let has_codes = matches!(format, WeightFormat::Affine(_) | WeightFormat::Scaled(_));
        for (i, ((read, stream), buffer)) in streams.iter_mut().zip(&block.streams).zip(&mut self.0).enumerate() {
            *read = if i == 0 && has_codes { stream } else { read_mapped(stream, buffer)? };
        }
        Ok(WeightRows { format, cols, streams })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::weights::file_bytes;

    #[test]
    fn mapped_bytes_are_read_and_others_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let whole: Vec<u8> = (0..3 * PIECE + 17).map(|n| ((n * n) >> 9) as u8).collect();
        std::fs::write(&path, &whole).unwrap();
        let bytes = file_bytes(&path, 8, |_| Vec::new()).unwrap();
        for range in [0..whole.len(), 5..2 * PIECE, 7..9, 3..3] {
            assert_eq!(in_memory(&bytes.slice(range.clone())).unwrap(), &whole[range]);
        }
        let mut buffer = Vec::new();
        assert_eq!(read_mapped(b"not mapped", &mut buffer).unwrap(), b"not mapped");
        assert_eq!(buffer.len(), 0);

        // what would be a signal to whoever touched it
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(PIECE as u64).unwrap();
        assert!(in_memory(&bytes.slice(..PIECE)).is_ok());
        let error = in_memory(&bytes.slice(1..2 * PIECE + 1)).unwrap_err().to_string();
        let expected = [path.to_str().unwrap(), "cannot read 4194304 bytes at offset 1:", "\nhint: "];
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }

    /// Between a model's headers and its weights the file gets shorter, as if its disk had failed.
    #[test]
    fn a_model_whose_file_is_cut_while_it_opens() {
        let folder = tempfile::tempdir().unwrap();
        let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe");
        std::fs::create_dir(folder.path().join("experts")).unwrap();
        for part in ["", "experts"] {
            for entry in std::fs::read_dir(from.join(part)).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_file() {
                    let to = folder.path().join(part).join(entry.file_name().unwrap());
                    std::fs::write(to, std::fs::read(entry).unwrap()).unwrap();
                }
            }
        }
        let source = crate::model::ModelSource::open(folder.path()).unwrap();
        let resident =
            std::fs::OpenOptions::new().write(true).open(folder.path().join("resident.safetensors")).unwrap();
        resident.set_len(4096).unwrap();
        let options = crate::EngineOptions { device: crate::Device::Cpu, verify: false, ..Default::default() };
        let error = crate::Engine::from_source(source, &options).map(drop).unwrap_err().to_string();
        let expected = ["resident.safetensors", "cannot read", "at offset", "\nhint: "];
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
}
