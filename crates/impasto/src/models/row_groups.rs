//! Caches of rows whose prompts differ in length.

use crate::nn::KvCache;

/// Consecutive rows with the same number of tokens in their caches.
#[derive(Debug)]
pub(super) struct CachedRows {
    pub(super) rows: usize,
    /// One a layer.
    pub(super) caches: Vec<KvCache>,
}

impl CachedRows {
    /// Tokens of each row.
    pub(super) fn length(&self) -> usize {
        self.caches.first().map_or(0, KvCache::len)
    }
}

/// Rows after their prompts. Those of prompts of one length share caches.
#[derive(Debug, Default)]
pub(super) struct RowGroups {
    pub(super) groups: Vec<CachedRows>,
}

impl RowGroups {
    /// Takes back the last tokens of every row.
    pub(super) fn rewind(&mut self, tokens: usize) {
        for cache in self.groups.iter_mut().flat_map(|group| &mut group.caches) {
            cache.rewind(tokens);
        }
    }

    /// Keeps these rows, in this order and as often as they are named.
    pub(super) fn select(&mut self, rows: &[usize]) {
        if let [only] = &mut self.groups[..] {
            for cache in &mut only.caches {
                cache.select_rows(rows);
            }
            only.rows = rows.len();
            return;
        }
        let places: Vec<(usize, usize)> = self
            .groups
            .iter()
            .enumerate()
            .flat_map(|(group, cached)| (0..cached.rows).map(move |row| (group, row)))
            .collect();
        let mut selected: Vec<(usize, Vec<usize>)> = Vec::new();
        for &row in rows {
            let (group, row) = places[row];
            match selected.last_mut() {
                Some((last, rows)) if *last == group => rows.push(row),
                _ => selected.push((group, vec![row])),
            }
        }
        let groups = selected.into_iter().map(|(group, rows)| {
            let mut caches = self.groups[group].caches.clone();
            for cache in &mut caches {
                cache.select_rows(&rows);
            }
            let rows = rows.len();
            CachedRows { rows, caches }
        });
        self.groups = groups.collect();
    }
}
