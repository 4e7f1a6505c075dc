//! Sessions in memory: the conversations that took turns on an engine which computes one at a time. A program asks for
//! titles and follow-ups between the turns of a conversation; without this each would throw the other's state away.

use std::fmt;
use std::sync::Arc;

use super::Identity;
use super::file::{Header, SessionReader};

/// The states of several conversations, the least recently used of which make room. [`Session::keep_in`] and
/// [`Session::take_from`] are for conversations that take turns on one engine.
///
/// [`Session::keep_in`]: crate::Session::keep_in
/// [`Session::take_from`]: crate::Session::take_from
pub struct SessionMemory {
    kept: Vec<Kept>,
    /// Bytes that they may take together.
    space: u64,
    /// Counts uses.
    clock: u64,
}

struct Kept {
    header: Header,
    /// The sections, as a session file has them.
    sections: Arc<Vec<u8>>,
    used: u64,
}

impl SessionMemory {
    /// For at most `space` bytes.
    pub fn new(space: u64) -> Self {
        SessionMemory { kept: Vec::new(), space, clock: 0 }
    }

    /// Whether a session with this header fits at all.
    pub(crate) fn has_room_for(&self, header: &Header) -> bool {
        header.file_bytes() <= self.space
    }

    /// Keeps a session; those that it goes on from are replaced.
    pub(crate) fn keep(&mut self, header: Header, sections: Vec<u8>) {
        self.clock += 1;
        self.kept
            .retain(|kept| kept.header.identity != header.identity || !header.tokens.starts_with(&kept.header.tokens));
        self.kept.push(Kept { header, sections: Arc::new(sections), used: self.clock });
        while self.bytes() > self.space {
            let oldest = self.kept.iter().enumerate().min_by_key(|(_, kept)| kept.used).map(|(at, _)| at);
            let Some(oldest) = oldest else { break };
            self.kept.swap_remove(oldest);
        }
    }

    fn bytes(&self) -> u64 {
        self.kept.iter().map(|kept| kept.sections.len() as u64).sum()
    }

    /// The session of the model `identity` that has the state of most of `tokens`, more than `least` of them: that many,
    /// and what reads it.
    pub(crate) fn best(&mut self, identity: &Identity, tokens: &[u32], least: usize) -> Option<(usize, SessionReader)> {
        self.clock += 1;
        let of_model = self.kept.iter_mut().filter(|kept| kept.header.identity == *identity);
        let usable = of_model.map(|kept| (kept.header.usable(tokens), kept)).filter(|(usable, _)| *usable > least);
        let (usable, kept) = usable.max_by_key(|(usable, kept)| (*usable, kept.used))?;
        kept.used = self.clock;
        Some((usable, SessionReader::of_memory(kept.header.clone(), kept.sections.clone())))
    }
}

/// Bytes that a session in memory keeps as well.
pub(super) struct SharedBytes(pub(super) Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SessionMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionMemory").field("kept", &self.kept.len()).field("bytes", &self.bytes()).finish()
    }
}
