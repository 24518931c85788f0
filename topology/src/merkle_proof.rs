//! Proofs over the Merkle tree of RFC 6962: this leaf is in the tree, this tree grew from that one.
//!
//! Source: RFC 6962 section 2.1 to make them, RFC 9162 section 2.1.3.2 and 2.1.4.2 to check them.

use crate::merkle::{Frontier, Hash, node_hash};

/// The root over `leaves` (their hashes).
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root()
}

/// The path from leaf `index` to the root, leaf side first; `None` where there is no such leaf.
#[must_use]
pub fn inclusion(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut part, mut at, mut path) = (leaves, index, Vec::new());
    while part.len() > 1 {
        let (left, right) = part.split_at(split(part.len()));
        if at < left.len() {
            path.push(root(right));
            part = left;
        } else {
            path.push(root(left));
            at -= left.len();
            part = right;
        }
    }
    path.reverse();
    Some(path)
}

/// The proof that the tree over `leaves` grew from the one over its first `size`; `None` where
/// `size` is 0 or too large.
#[must_use]
pub fn consistency(leaves: &[Hash], size: usize) -> Option<Vec<Hash>> {
    if size == 0 || size > leaves.len() {
        return None;
    }
    let (mut part, mut at, mut known, mut path) = (leaves, size, true, Vec::new());
    while at < part.len() {
        let (left, right) = part.split_at(split(part.len()));
        if at <= left.len() {
            path.push(root(right));
            part = left;
        } else {
            path.push(root(left));
            at -= left.len();
            part = right;
            known = false;
        }
    }
    // The old tree itself need not be told; any other subtree begins the path.
    if !known {
        path.push(root(part));
    }
    path.reverse();
    Some(path)
}

/// Whether `path` leads from leaf `index` to `root` in a tree of `size` leaves.
#[must_use]
pub fn includes(root: &Hash, size: u64, index: u64, leaf: &Hash, path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut node) = (index, size - 1, *leaf);
    for step in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            node = node_hash(step, &node);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            node = node_hash(&node, step);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && node == *root
}

/// Whether `path` shows that the tree of `new_size` with `new_root` grew from that of `old_size`
/// with `old_root`. The empty tree is a beginning of every tree.
#[must_use]
pub fn grew(
    (old_size, old_root): (u64, &Hash),
    (new_size, new_root): (u64, &Hash),
    path: &[Hash],
) -> bool {
    if old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return path.is_empty() && old_root == new_root;
    }
    if old_size == 0 {
        return path.is_empty();
    }
    let whole = old_size.is_power_of_two();
    let mut steps = path.iter();
    let first = if whole { Some(old_root) } else { steps.next() };
    let Some(first) = first else { return false };
    let (mut at, mut last) = (old_size - 1, new_size - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old = node_hash(step, &old);
            new = node_hash(step, &new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, step);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old == *old_root && new == *new_root
}

/// The largest power of two below `length`, which is at least 2.
fn split(length: usize) -> usize {
    length.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};

    use super::*;
    use crate::merkle::leaf_hash;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|index| leaf_hash(format!("trace-{index}").as_bytes())).collect()
    }

    fn base64(text: &str) -> Hash {
        BASE64.decode(text.as_bytes()).expect("base64").try_into().expect("32 bytes")
    }

    #[test]
    fn roots_are_those_of_the_vectors() {
        for (size, expected) in [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "2372d1aadb009b9f11bd2a74ba21b42462432fad321e9f4317cc2dc054c46cc1"),
            (2, "b2f94d594fd4a41167f2742346365b68ecdd24a32cf2d9ed6c06f831bba56df4"),
            (3, "3d94c5ef8eae94dcbb492df9a9c400a83bee8bd7f06e9c37f2f28f01b82d2267"),
            (4, "fa61b202f8480edb5c8ef50db94228fce332b81d37d87c9dd17718d3c09c9aa8"),
        ] {
            assert_eq!(HEXLOWER.encode(&root(&leaves(size))), expected);
        }
        assert_eq!(root(&leaves(7)), base64("Dyw+zehM78wWnbGM5Rkoq3OdkY2KxwdbmBnLVXj2UZk="));
    }

    /// Roots of the eight leaves that certificate-transparency's own test suite uses.
    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let hashes: Vec<Hash> = inputs
            .iter()
            .map(|hex| leaf_hash(&HEXLOWER.decode(hex.as_bytes()).expect("hex")))
            .collect();
        for (size, expected) in [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(HEXLOWER.encode(&root(&hashes[..size])), expected);
        }
    }

    #[test]
    fn proofs_are_those_of_the_vectors() {
        let inclusion_path = [
            "aq50I9Kbtga7f0O7T7h8u4vkxwxnzHZnqIn62T/aIqw=",
            "svlNWU/UpBFn8nQjRjZbaOzdJKMs8tntbAb4MbulbfQ=",
            "WLY9cX+hbUanIXboKLTD7NXM7gualXmSD8sBCCQ9LM4=",
        ]
        .map(base64);
        let mut consistency_path = vec![base64("Vm8k/DTw3Obl8WLA+ZLBqRV25uyoX30MxCRnxed2NGs=")];
        consistency_path.extend(inclusion_path);
        assert_eq!(inclusion(&leaves(7), 2).as_deref(), Some(&inclusion_path[..]));
        assert_eq!(consistency(&leaves(7), 3), Some(consistency_path));
    }

    #[test]
    fn every_proof_holds_and_no_other() {
        for size in 1..34 {
            let tree = leaves(size);
            let (whole, count) = (root(&tree), size as u64);
            for index in 0..size {
                let path = inclusion(&tree, index).expect("a leaf");
                let at = index as u64;
                assert!(includes(&whole, count, at, &tree[index], &path));
                assert!(!includes(&whole, count, at, &leaf_hash(b"other"), &path));
                assert!(
                    !includes(&whole, count, (at + 1) % count, &tree[index], &path) || size == 1
                );
                let longer: Vec<Hash> = path.iter().copied().chain([whole]).collect();
                assert!(!includes(&whole, count, at, &tree[index], &longer));
            }
            for old in 1..=size {
                let path = consistency(&tree, old).expect("a size");
                let (old_size, old_root) = (old as u64, root(&tree[..old]));
                assert!(grew((old_size, &old_root), (count, &whole), &path));
                assert!(!grew((old_size, &leaf_hash(b"x")), (count, &whole), &path));
                if old < size {
                    assert!(!grew((old_size, &old_root), (count, &leaf_hash(b"x")), &path));
                }
            }
        }
        assert!(inclusion(&leaves(3), 3).is_none() && consistency(&leaves(3), 4).is_none());
    }
}
