//! Hashes that the hub knows its files by, and that blobs are named after.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What a file's contents must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Of a large file.
    Sha256(String),
    /// Of a small file, as git names it: sha1 of a header with the length, and the contents.
    GitBlob(String),
}

impl Expected {
    /// The hash in hexadecimal digits, in small letters: the blob's name.
    pub(super) fn digits(&self) -> &str {
        match self {
            Expected::Sha256(digits) | Expected::GitBlob(digits) => digits,
        }
    }

    /// Whether these are as many hexadecimal digits as the hash has, so that they can name a file.
    pub(super) fn is_whole(&self) -> bool {
        let length = match self {
            Expected::Sha256(_) => 64,
            Expected::GitBlob(_) => 40,
        };
        let small = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        self.digits().len() == length && self.digits().bytes().all(small)
    }

    /// A hash of nothing yet, of a file of `bytes` bytes.
    pub(super) fn start(&self, bytes: u64) -> Running {
        match self {
            Expected::Sha256(_) => Running::Sha256(Sha256::new()),
            Expected::GitBlob(_) => Running::GitBlob(Sha1::new_with_prefix(format!("blob {bytes}\0"))),
        }
    }
}

/// A hash of what has come so far.
pub(super) enum Running {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Running {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Running::Sha256(hash) => hash.update(bytes),
            Running::GitBlob(hash) => hash.update(bytes),
        }
    }

    /// In hexadecimal digits.
    pub(super) fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self {
            Running::Sha256(hash) => hex(&hash.finalize()),
            Running::GitBlob(hash) => hex(&hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_git_and_sha256sum_print_them() {
        let of = |expected: Expected, text: &str| {
            let mut running = expected.start(text.len() as u64);
            text.bytes().for_each(|b| running.update(&[b]));
            (running.finish() == expected.digits(), expected.is_whole())
        };
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(of(Expected::GitBlob(git.to_owned()), "hello\n"), (true, true));
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of(Expected::Sha256(sha256.to_owned()), "hello\n"), (true, true));
        assert_eq!(of(Expected::Sha256(sha256.to_owned()), "hello"), (false, true));
        for name in ["", "../../etc/passwd", &git.to_uppercase(), sha256] {
            assert!(!Expected::GitBlob(name.to_owned()).is_whole(), "{name}");
        }
    }
}
