//! Collections: packs that no manifest needs are condemned by one, and deleted by a later one.
//!
//! No clock is believed, and nobody waits for anybody. docs/inside/remote-store.md has the argument
//! why nothing is deleted that a push counts on. The order of the requests below is a part of it.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::known::condemned_lists;
use crate::layout::condemned::{CONDEMNED_MAX, Condemned};
use crate::layout::ids::{ObjectId, PackId, Series};
use crate::store::{CONDEMNED, PUSHES, Store};

/// Options of a collection.
#[derive(Debug, Clone, Copy, Default)]
pub struct GcOptions {
    /// A push that is known to be dead, and is ended first.
    pub end_push: Option<ObjectId>,
}

/// A push whose marker is in the store: it is under way, or has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushUnderWay {
    /// Its identity.
    pub id: ObjectId,
    /// Time since it began, by the store's clock and this host's. Nothing depends on it.
    pub age: Duration,
}

/// The result of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcReport {
    /// Snapshots whose manifests were read.
    pub snapshots_count: u64,
    /// Packs that were there, and their bytes.
    pub packs_count: u64,
    /// Bytes of all packs that were there.
    pub packs_bytes: u64,
    /// Packs that were deleted.
    pub deleted_count: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Packs that are condemned, and wait for a later collection.
    pub condemned_count: u64,
    /// Their bytes.
    pub condemned_bytes: u64,
    /// Pushes under way. Those that began before a pack was condemned keep it.
    pub pushes: Vec<PushUnderWay>,
}

impl Store {
    /// Deletes what earlier collections have condemned and nobody can count on any more, and
    /// condemns what no manifest needs.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a manifest that cannot be read: nothing is deleted then.
    /// [`Error::NoSuchPush`], [`Error::Denied`], [`Error::Failed`].
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        if let Some(push) = options.end_push {
            self.end_push(push)?;
        }
        // Lists before packs: what a list names and is not there any more is deleted. Packs before
        // pushes: who wrote a pack that is there is under way, or has committed, or was ended.
        // Pushes before manifests: who is not under way any more has its manifest there.
        let lists = condemned_lists(self)?;
        let packs = self.packs()?;
        let pushes = self.pushes()?;
        let (needed, snapshots_count) = self.needed_packs()?;
        let under_way: HashSet<ObjectId> = pushes.iter().map(|push| push.id).collect();
        let there: HashSet<PackId> = packs.iter().map(|(pack, _)| *pack).collect();

        let mut deleted = HashSet::new();
        for (id, list) in &lists {
            self.carry_out(*id, list, &under_way, &needed, &there, &mut deleted)?;
        }
        let known: HashSet<PackId> = lists
            .iter()
            .flat_map(|(_, list)| list.packs.iter().copied())
            .collect();
        let fresh = packs.iter().map(|(pack, _)| *pack).filter(|pack| {
            let is_of_nobody = !needed.contains(pack) && !under_way.contains(&pack.push);
            is_of_nobody && !known.contains(pack)
        });
        let fresh: Vec<PackId> = fresh.take(CONDEMNED_MAX as usize).collect();
        self.condemn(&fresh)?;

        let bytes_of = |chosen: &dyn Fn(&PackId) -> bool| {
            let chosen = packs.iter().filter(|(pack, _)| chosen(pack));
            chosen.fold((0, 0), |(count, all), (_, bytes)| (count + 1, all + bytes))
        };
        let fresh: HashSet<PackId> = fresh.into_iter().collect();
        let (packs_count, packs_bytes) = bytes_of(&|_| true);
        let (deleted_count, deleted_bytes) = bytes_of(&|pack| deleted.contains(pack));
        let (condemned_count, condemned_bytes) = bytes_of(&|pack| {
            let is_condemned = known.contains(pack) || fresh.contains(pack);
            is_condemned && !deleted.contains(pack) && !needed.contains(pack)
        });
        Ok(GcReport {
            snapshots_count,
            packs_count,
            packs_bytes,
            deleted_count,
            deleted_bytes,
            condemned_count,
            condemned_bytes,
            pushes,
        })
    }

    /// The pushes under way, and those that have died.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Failed`].
    pub fn pushes(&self) -> Result<Vec<PushUnderWay>> {
        let listed = self.objects.list(PUSHES)?.into_iter();
        let pushes = listed.filter_map(|listed| {
            Some(PushUnderWay {
                id: listed.name.parse().ok()?,
                age: listed.age,
            })
        });
        Ok(pushes.collect())
    }

    fn end_push(&self, push: ObjectId) -> Result<()> {
        let path = Store::push_path(push);
        match self.objects.has(&path)? {
            true => self.objects.delete(&path),
            false => Err(Error::NoSuchPush {
                push: push.to_string(),
            }),
        }
    }

    /// Ends the pushes of a series, which are dead.
    pub(crate) fn end_pushes_of(&self, series: Series) -> Result<()> {
        let pushes = self.pushes()?.into_iter().map(|push| push.id);
        let mut dead = pushes.filter(|push| series.has(*push));
        dead.try_for_each(|push| self.objects.delete(&Store::push_path(push)))
    }

    /// The packs that manifests name, and how many manifests there are.
    fn needed_packs(&self) -> Result<(HashSet<PackId>, u64)> {
        let (mut needed, mut count) = (HashSet::new(), 0);
        for object in self.manifest_objects()? {
            // It may be removed meanwhile.
            if let Some(manifest) = self.manifest_in(&object)? {
                needed.extend(manifest.packs);
                count += 1;
            }
        }
        Ok((needed, count))
    }

    /// Deletes the packs of a list, if each push that is under way has read the list.
    fn carry_out(
        &self,
        id: ObjectId,
        list: &Condemned,
        under_way: &HashSet<ObjectId>,
        needed: &HashSet<PackId>,
        there: &HashSet<PackId>,
        deleted: &mut HashSet<PackId>,
    ) -> Result<()> {
        let Some(began_before) = &list.under_way else {
            // The collection that wrote it has died.
            return self.witness(id, list);
        };
        if began_before.iter().any(|push| under_way.contains(push)) {
            return Ok(());
        }
        let mut are_all_gone = true;
        for pack in &list.packs {
            if needed.contains(pack) {
                // A push has counted on it that began before it was condemned. The list stays:
                // later pushes must not, as it is deleted once that snapshot is.
                are_all_gone = false;
            } else if there.contains(pack) {
                self.objects.delete(&Store::pack_path(*pack))?;
                deleted.insert(*pack);
            }
        }
        match are_all_gone {
            true => self.objects.delete(&list_path(id)),
            false => Ok(()),
        }
    }

    /// Publishes a list of condemned packs, and then which pushes may not have read it.
    fn condemn(&self, packs: &[PackId]) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let id = ObjectId::random()?;
        let list = Condemned {
            packs: packs.to_vec(),
            under_way: None,
        };
        self.objects
            .put(&list_path(id), list.encode(&self.keys, id)?)?;
        self.witness(id, &list)
    }

    /// Notes which pushes are under way now that a list can be read.
    fn witness(&self, id: ObjectId, list: &Condemned) -> Result<()> {
        let pushes = self.pushes()?;
        let list = Condemned {
            packs: list.packs.clone(),
            under_way: Some(pushes.iter().map(|push| push.id).collect()),
        };
        self.objects
            .put(&list_path(id), list.encode(&self.keys, id)?)
    }
}

fn list_path(id: ObjectId) -> String {
    format!("{CONDEMNED}/{id}")
}
