//! How often the codes of an attribute are used, and in which blocks.

use crate::pack;

/// The use of a code: how many traces have it, and in which blocks, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    pub(super) blocks: u128,
    pub(super) count: u32,
}

/// Up to so many codes, a block is counted by itself.
const SMALL: usize = 256;

/// Adds a block's codes to their uses.
pub(super) fn add(codes: &[u16], block: usize, uses: &mut [Use]) {
    let bit = 1 << block;
    if uses.len() > SMALL {
        for code in codes {
            let own = &mut uses[usize::from(*code)];
            own.count += 1;
            own.blocks |= bit;
        }
        return;
    }
    let counts = pack::count_few::<SMALL>(codes.iter().map(|code| usize::from(*code)));
    for (own, count) in uses.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
        own.count += count;
        own.blocks |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_codes_and_many_are_counted_alike() {
        for codes in [1usize, 2, 17, SMALL, SMALL + 1, 5_000] {
            let mut uses = vec![Use::default(); codes];
            for block in [0, 3, 127] {
                let list: Vec<u16> =
                    (0..5_000usize).map(|at| (at * at * (block + 1) % codes) as u16).collect();
                add(&list, block, &mut uses);
            }
            for (code, own) in uses.iter().enumerate() {
                let (mut count, mut blocks) = (0, 0u128);
                for block in [0, 3, 127] {
                    let of_block =
                        (0..5_000).filter(|at| at * at * (block + 1) % codes == code).count();
                    count += of_block as u32;
                    blocks |= u128::from(of_block > 0) << block;
                }
                assert_eq!((own.count, own.blocks), (count, blocks), "{code} of {codes}");
            }
        }
    }
}
