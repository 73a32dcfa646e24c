//! Numbers of things that are mostly neighbours.

use std::collections::BTreeMap;

/// Numbers by place: neighbours whose numbers are neighbours are one entry.
#[derive(Debug, Default)]
pub struct Ranges {
    /// By the first place: how many, and the number of the first one.
    entries: BTreeMap<u64, (u64, u64)>,
}

impl Ranges {
    /// The number at a place, and for how many places from there on the numbers go on. Without a
    /// number: for how many places there is none.
    pub fn find(&self, at: u64) -> (Option<u64>, u64) {
        if self.end() <= at {
            return (None, u64::MAX - at);
        }
        if let Some((start, (count, number))) = self.entries.range(..=at).next_back()
            && at < start + count
        {
            return (Some(number + (at - start)), start + count - at);
        }
        let next = self.entries.range(at..).next();
        (None, next.map_or(u64::MAX, |(start, _)| *start) - at)
    }

    /// Numbers places anew, or for the first time.
    pub fn set(&mut self, at: u64, count: u64, number: u64) {
        let end = at + count;
        // Mostly places come in their order.
        if let Some(mut last) = self.entries.last_entry()
            && *last.key() + last.get().0 == at
            && last.get().1 + last.get().0 == number
        {
            last.get_mut().0 += count;
            return;
        }
        if self.end() <= at {
            self.entries.insert(at, (count, number));
            return;
        }
        while let Some((start, (old, first))) = self.last_before(end)
            && start + old > at
        {
            self.entries.remove(&start);
            if start < at {
                self.entries.insert(start, (at - start, first));
            }
            if start + old > end {
                let rest = (start + old - end, first + (end - start));
                self.entries.insert(end, rest);
            }
        }
        match self.last_before(end) {
            Some((start, (old, first))) if start + old == at && first + old == number => {
                self.entries.insert(start, (old + count, first));
            }
            _ => {
                self.entries.insert(at, (count, number));
            }
        }
    }

    /// The numbers of places from `start` to before `end`: place, count, and number of the first.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let from = self.last_before(start + 1).map_or(start, |(at, _)| at);
        let entries = self.entries.range(from..end.max(from));
        entries.filter_map(move |(at, (count, number))| {
            let (first, last) = ((*at).max(start), (at + count).min(end));
            (first < last).then(|| (first, last - first, number + (first - at)))
        })
    }

    /// The place behind the last one.
    fn end(&self) -> u64 {
        let last = self.entries.last_key_value();
        last.map_or(0, |(start, (count, _))| start + count)
    }

    fn last_before(&self, end: u64) -> Option<(u64, (u64, u64))> {
        let last = self.entries.range(..end).next_back();
        last.map(|(start, entry)| (*start, *entry))
    }
}

#[cfg(test)]
#[path = "ranges_test.rs"]
mod ranges_test;
