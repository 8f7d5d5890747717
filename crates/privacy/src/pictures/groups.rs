//! Groups of copies, of each of which one picture is kept.

/// Pictures of which one is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The one that is kept.
    pub kept: u32,
    /// The others, each with the number of the pair that it and the kept one are.
    pub dropped: Vec<(u32, usize)>,
}

/// Groups of pictures from pairs. `better` gives the pictures in the order in which they are kept rather than others;
/// each is there once. Every picture that is dropped is a pair with the one that is kept in its place: chains of pairs
/// do not lead to pictures that are no pair.
pub fn keep_one(better: &[u32], pairs: &[(u32, u32)]) -> Vec<Group> {
    let count = better
        .iter()
        .map(|&picture| picture as usize + 1)
        .max()
        .unwrap_or(0);
    let mut partners: Vec<Vec<(u32, usize)>> = vec![Vec::new(); count];
    for (number, &(a, b)) in pairs.iter().enumerate() {
        if (a as usize) < count && (b as usize) < count && a != b {
            partners[a as usize].push((b, number));
            partners[b as usize].push((a, number));
        }
    }
    let mut is_dropped = vec![false; count];
    let mut is_seen = vec![false; count];
    let mut groups = Vec::new();
    for &picture in better {
        if is_dropped[picture as usize] {
            continue;
        }
        is_seen[picture as usize] = true;
        let mut dropped: Vec<(u32, usize)> = Vec::new();
        for &(partner, number) in &partners[picture as usize] {
            // One that is kept already, or gone, stays what it is.
            if !is_seen[partner as usize] && !is_dropped[partner as usize] {
                is_dropped[partner as usize] = true;
                dropped.push((partner, number));
            }
        }
        if !dropped.is_empty() {
            dropped.sort_unstable();
            groups.push(Group {
                kept: picture,
                dropped,
            });
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_do_not_drop_what_is_no_copy_of_the_kept_one() {
        // 0 – 1 – 2: 1 goes for 0, 2 is no copy of 0 and stays.
        let groups = keep_one(&[0, 1, 2], &[(0, 1), (1, 2)]);
        assert_eq!(
            groups,
            [Group {
                kept: 0,
                dropped: vec![(1, 0)]
            }]
        );
        // The best one in the middle takes both.
        let groups = keep_one(&[1, 0, 2], &[(0, 1), (1, 2)]);
        assert_eq!(
            groups,
            [Group {
                kept: 1,
                dropped: vec![(0, 0), (2, 1)]
            }]
        );
        assert!(keep_one(&[], &[(0, 1)]).is_empty() && keep_one(&[0, 1], &[]).is_empty());
    }
}
