//! The Merkle tree of RFC 6962: SHA-256, leaves prefixed with 0, nodes with 1.
//!
//! A [`Frontier`] grows a tree leaf by leaf and knows its root at any size. Inclusion and
//! consistency proofs follow RFC 6962 section 2.1 and are checked as in RFC 9162 section 2.1.3.

use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash of a leaf.
#[must_use]
pub fn leaf_hash(data: &[u8]) -> Hash {
    leaf_hash_of(&[data])
}

/// The hash of a leaf whose data come in pieces.
#[must_use]
pub fn leaf_hash_of(pieces: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize().into()
}

/// The hash of an inner node.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut block = [0; 65];
    block[0] = 1;
    block[1..33].copy_from_slice(left);
    block[33..].copy_from_slice(right);
    Sha256::digest(block).into()
}

/// The right edge of a growing tree: one hash for each bit set in its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of the complete subtrees, largest first.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Leaves in the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash. Amortised one node hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        let mut size = self.size;
        while size & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                node = node_hash(&left, &node);
            }
            size >>= 1;
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The root; of the empty tree the SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => Sha256::digest([]).into(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }

    /// Encodes the size (big-endian) and the peaks.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 32 * self.peaks.len());
        out.extend_from_slice(&self.size.to_be_bytes());
        for peak in &self.peaks {
            out.extend_from_slice(peak);
        }
        out
    }

    /// Decodes what [`Frontier::encode`] wrote; `None` where the length does not fit the size.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let size = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let peaks: Vec<Hash> =
            bytes[8..].chunks_exact(32).filter_map(|hash| hash.try_into().ok()).collect();
        let whole = bytes.len() == 8 + 32 * peaks.len();
        (whole && peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }
}
