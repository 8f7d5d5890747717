//! The normaliser of SentencePiece models, which `tokenizers` runs and does not check: a damaged one makes it panic.

use crate::error::Reason;

/// The largest in bytes: several times the largest published one.
const LARGEST: usize = 4 << 20;

/// Refuses a map of characters in which the library could reach beyond an end. The map is the length of a trie, the trie
/// (a double array of 32-bit units, <https://github.com/s-yata/darts-clone>), and the texts that its leaves point into.
pub fn check(map: &[u8]) -> Result<(), Reason> {
    let bad = |what: &str| Err(Reason::from(format!("has a damaged normaliser: {what}")));
    let Some((length, rest)) = map.split_first_chunk::<4>() else {
        return bad("no length");
    };
    if map.len() > LARGEST {
        return bad("it is too large");
    }
    let length = u32::from_le_bytes(*length) as usize;
    let Some((trie, texts)) = rest.split_at_checked(length) else {
        return bad("its trie is longer than it");
    };
    let Ok(texts) = std::str::from_utf8(texts) else {
        return bad("its texts are not UTF-8");
    };
    if !length.is_multiple_of(4) || length == 0 {
        return bad("its trie is not of 32-bit units");
    }
    let (units, _) = trie.as_chunks::<4>();
    let unit = |at: usize| u32::from_le_bytes(units[at]) as usize;
    // Where the children of a unit start, before the label is mixed in.
    let offset = |unit: usize| (unit >> 10) << ((unit & (1 << 9)) >> 6);
    let label = |unit: usize| unit & ((1 << 31) | 0xff);
    let mut seen = vec![false; units.len()];
    let mut next = vec![offset(unit(0))];
    while let Some(base) = next.pop() {
        // Every byte is looked up.
        if base | 0xff >= units.len() {
            return bad("its trie leads beyond itself");
        }
        for byte in 1..=0xff {
            let child = base ^ byte;
            if label(unit(child)) != byte || std::mem::replace(&mut seen[child], true) {
                continue;
            }
            let below = child ^ offset(unit(child));
            if unit(child) >> 8 & 1 == 1 {
                let Some(&leaf) = units.get(below) else {
                    return bad("its trie leads beyond itself");
                };
                let at = u32::from_le_bytes(leaf) as usize & ((1 << 31) - 1);
                if !texts.is_char_boundary(at) {
                    return bad("a leaf points beyond its texts");
                }
            }
            next.push(below);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie of one letter, `a`, which becomes `text`.
    fn map(text: &str, leaf: u32) -> Vec<u8> {
        let mut units = vec![0u32; 512];
        // The root's children start at 0 ^ 256.
        units[0] = 256 << 10;
        let child = 256 ^ usize::from(b'a');
        // Its leaf is the unit 1 ^ child.
        units[child] = 1 << 10 | 1 << 8 | u32::from(b'a');
        units[child ^ 1] = leaf | 1 << 31;
        let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [
            &(trie.len() as u32).to_le_bytes()[..],
            &trie,
            text.as_bytes(),
        ]
        .concat()
    }

    #[test]
    fn maps_that_lead_beyond_their_ends_are_refused() {
        let good = map("xyz\0", 0);
        assert!(check(&good).is_ok());
        assert!(check(&map("xyz\0", 9)).is_err());
        assert!(check(&map("é\0", 1)).is_err());
        for end in [0, 3, 100, 2051] {
            assert!(check(&good[..end]).is_err(), "{end}");
        }
        let mut far = good.clone();
        far[4..8].copy_from_slice(&u32::to_le_bytes(4096 << 10));
        assert!(check(&far).is_err());
    }
}
