//! Pieces in memory: those that have just come, or have just been read.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use afield_link::contents::Hash;

/// Most bytes of all pieces. The kernel has its own cache; this is for what it has not asked for yet.
const BYTES_MAX: usize = 24 << 20;

/// The pool. Its pieces are found by their hashes, so that none can be wrong.
#[derive(Debug, Default)]
pub struct Pool {
    pieces: HashMap<Hash, Arc<[u8]>>,
    /// Oldest first.
    order: VecDeque<Hash>,
    bytes: usize,
}

impl Pool {
    /// Adds a piece; the oldest ones go.
    pub fn add(&mut self, hash: Hash, piece: Arc<[u8]>) {
        let bytes = piece.len();
        if self.pieces.insert(hash, piece).is_some() {
            return;
        }
        self.order.push_back(hash);
        self.bytes += bytes;
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            let bytes = self.pieces.remove(&oldest).map_or(0, |piece| piece.len());
            self.bytes -= bytes;
        }
    }

    /// The piece with this hash.
    pub fn get(&self, hash: &Hash) -> Option<Arc<[u8]>> {
        self.pieces.get(hash).cloned()
    }

    /// The pieces with these hashes, if all of them are there.
    pub fn all(&self, hashes: &[(u64, Hash)]) -> Option<Vec<Arc<[u8]>>> {
        hashes.iter().map(|(_, hash)| self.get(hash)).collect()
    }
}
