//! Answers to the kernel: what is in the directories and files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyXattr, Request,
};
use nix::unistd::{getegid, geteuid};
use nvvmm::checkpoint::blob::SavedVm;
use nvvmm::inspect::{InspectError, Memory, decoded};
use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, Error, MapKind, Pool, SnapshotEntry, SnapshotId, SnapshotKind, SnapshotReader,
};
use signal_hook::iterator::Handle;

use super::tree::{File, Node};

/// Cache time of a snapshot's content, which never changes.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// Snapshots come and go, and names are used again: the kernel asks each time.
const NOT_AT_ALL: Duration = Duration::ZERO;
/// Bytes that `st_blocks` counts.
const STAT_BLOCK_BYTES: u64 = 512;

/// The file system of a pool.
pub struct SnapshotFiles {
    pool: Arc<Pool>,
    mounted: SystemTime,
    shown: Mutex<HashMap<SnapshotId, Arc<Shown>>>,
    /// Closed when the kernel has no more to ask.
    until: Handle,
}

/// A snapshot that was looked at.
struct Shown {
    memory: Memory,
    /// Names of the disks, in the order of the snapshot, and what reads them.
    names: Vec<String>,
    disks: Vec<ShownDisk>,
    texts: OnceLock<Texts>,
}

/// A disk of a snapshot.
struct ShownDisk {
    reader: SnapshotReader,
    used_bytes: u64,
}

/// The files that are made of its state.
struct Texts {
    state: Vec<u8>,
    spec: Vec<u8>,
}

impl Shown {
    fn of(memory: Memory) -> Self {
        let maps = memory.reader().entry().maps;
        let mut shown = Self {
            names: Vec::new(),
            disks: Vec::new(),
            texts: OnceLock::new(),
            memory,
        };
        for map in &maps {
            let MapKind::Disk(name) = map.kind else {
                continue;
            };
            if let Some(reader) = shown.memory.reader().of_disk(name.as_str()) {
                shown.names.push(name.to_string());
                shown.disks.push(ShownDisk {
                    reader,
                    used_bytes: map.frames.saturating_mul(BLOCK_SIZE_BYTES),
                });
            }
        }
        shown
    }

    fn files(&self) -> impl Iterator<Item = File> + use<> {
        File::of_kind(self.kind(), self.disks.len())
    }

    fn disk(&self, file: File) -> Option<&ShownDisk> {
        match file {
            File::Disk(place) => self.disks.get(usize::from(place)),
            _ => None,
        }
    }

    fn kind(&self) -> SnapshotKind {
        self.memory.reader().entry().kind
    }

    fn text(&self, file: File) -> Result<&[u8], InspectError> {
        let texts = match self.texts.get() {
            Some(texts) => texts,
            None => {
                let made = self.make_texts()?;
                self.texts.get_or_init(|| made)
            }
        };
        Ok(match file {
            File::Spec => &texts.spec,
            _ => &texts.state,
        })
    }

    fn make_texts(&self) -> Result<Texts, InspectError> {
        let blob = self.memory.reader().state()?;
        let line = |mut text: Vec<u8>| {
            text.push(b'\n');
            text
        };
        let spec = match self.kind() {
            // One of disks only.
            SnapshotKind::Vm if blob.is_empty() => b"null".to_vec(),
            SnapshotKind::Vm => serde_json::to_vec_pretty(&SavedVm::decode(&blob)?.spec)?,
            SnapshotKind::Process => Vec::new(),
        };
        let state = serde_json::to_vec_pretty(&decoded::state(self.kind(), &blob)?)?;
        Ok(Texts {
            state: line(state),
            spec: line(spec),
        })
    }

    /// Length of a file, and of what it really takes.
    fn sizes(&self, file: File) -> Result<(u64, u64), InspectError> {
        if let Some(disk) = self.disk(file) {
            return Ok((disk.reader.size_bytes(), disk.used_bytes));
        }
        if file == File::Memory {
            let mapped = self.memory.reader().entry().frames_mapped;
            return Ok((self.memory.end(), mapped.saturating_mul(BLOCK_SIZE_BYTES)));
        }
        let length = self.text(file)?.len() as u64;
        Ok((length, length))
    }
}

impl SnapshotFiles {
    /// Makes the file system of a pool. Its end closes `until`, and so ends a wait for signals.
    pub fn of(pool: Arc<Pool>, until: Handle) -> Self {
        Self {
            pool,
            until,
            mounted: SystemTime::now(),
            shown: Mutex::default(),
        }
    }

    /// A snapshot, also one that has lost its name while somebody has it open.
    fn shown(&self, id: SnapshotId) -> Result<Arc<Shown>, InspectError> {
        let known = |shown: &HashMap<_, Arc<_>>| shown.get(&id).map(Arc::clone);
        if let Some(shown) = known(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(shown);
        }
        let shown = Arc::new(Shown::of(Memory::of(self.pool.reader_of(id)?)?));
        let there = self.pool.entries()?;
        let mut all = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // What has no name any more is not looked for again.
        all.retain(|id, _| there.iter().any(|entry| entry.id == *id));
        all.insert(id, Arc::clone(&shown));
        Ok(shown)
    }

    fn attributes(&self, node: Node) -> Result<FileAttr, InspectError> {
        let (mut kind, mut perm, mut sizes, mut at) =
            (FileType::Directory, 0o500, (0, 0), self.mounted);
        if let Node::Snapshot(id) | Node::File(id, _) = node {
            let shown = self.shown(id)?;
            at = UNIX_EPOCH + Duration::from_nanos(shown.memory.reader().entry().created_unix_ns);
            if let Node::File(_, file) = node {
                (kind, perm, sizes) = (FileType::RegularFile, 0o400, shown.sizes(file)?);
            }
        }
        Ok(FileAttr {
            ino: INodeNo(number(node)?),
            size: sizes.0,
            blocks: sizes.1.div_ceil(STAT_BLOCK_BYTES),
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            kind,
            perm,
            nlink: 1,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            rdev: 0,
            blksize: BLOCK_SIZE_BYTES as u32,
            flags: 0,
        })
    }

    /// The snapshots, but those that were received in part.
    fn snapshots(&self) -> Result<Vec<SnapshotEntry>, InspectError> {
        let mut entries = self.pool.entries()?;
        entries.retain(|entry| !entry.incomplete);
        Ok(entries)
    }

    fn found(&self, parent: Node, name: &OsStr) -> Result<Option<FileAttr>, InspectError> {
        let node = match parent {
            Node::Root => {
                let entries = self.snapshots()?;
                let entry = entries.iter().find(|entry| name == entry.name.as_str());
                entry.map(|entry| Node::Snapshot(entry.id))
            }
            Node::Snapshot(id) => {
                let shown = self.shown(id)?;
                let file = { shown.files() }.find(|file| *name == *file.name(&shown.names));
                file.map(|file| Node::File(id, file))
            }
            Node::File(..) => None,
        };
        node.map(|node| self.attributes(node)).transpose()
    }

    /// Entries of a directory, each with the offset behind it. Snapshots are in the order of
    /// their ids, so that one that comes or goes between two calls hides no other.
    fn listed(&self, directory: Node) -> Result<Vec<(u64, Node, String)>, InspectError> {
        let mut listed = vec![
            (1, directory, ".".to_owned()),
            (2, Node::Root, "..".to_owned()),
        ];
        match directory {
            Node::Root => listed.extend(self.snapshots()?.into_iter().map(|entry| {
                let behind = entry.id.get().saturating_add(2);
                (behind, Node::Snapshot(entry.id), entry.name)
            })),
            Node::Snapshot(id) => {
                let shown = self.shown(id)?;
                listed.extend(shown.files().map(|file| {
                    let name = file.name(&shown.names);
                    (file.place() + 2, Node::File(id, file), name)
                }));
            }
            Node::File(..) => {}
        }
        Ok(listed)
    }

    fn bytes(&self, node: Node, offset: u64, size: u32) -> Result<Vec<u8>, InspectError> {
        let Node::File(id, file) = node else {
            return Ok(Vec::new());
        };
        let shown = self.shown(id)?;
        let (length, _) = shown.sizes(file)?;
        let end = offset.saturating_add(u64::from(size)).min(length);
        let start = offset.min(end);
        let mut bytes = vec![0; (end - start) as usize];
        if let Some(disk) = shown.disk(file) {
            disk.reader.read(start, &mut bytes)?;
            return Ok(bytes);
        }
        if file != File::Memory {
            return Ok(shown.text(file)?[start as usize..end as usize].to_vec());
        }
        shown.memory.read(start, &mut bytes)?;
        Ok(bytes)
    }

    /// Offset of the next data or hole; none when there is no more.
    fn sought(&self, node: Node, offset: u64, whence: i32) -> Result<Option<u64>, InspectError> {
        let Node::File(id, file) = node else {
            return Ok(None);
        };
        let shown = self.shown(id)?;
        let (length, _) = shown.sizes(file)?;
        if offset >= length {
            return Ok(None);
        }
        if let Some(disk) = shown.disk(file) {
            return Ok(match whence {
                libc::SEEK_DATA => disk.reader.next_data(offset)?,
                _ => Some(disk.reader.next_hole(offset)?),
            });
        }
        match (whence, file) {
            (libc::SEEK_DATA, File::Memory) => shown.memory.next_data(offset),
            (libc::SEEK_HOLE, File::Memory) => Ok(Some(shown.memory.next_hole(offset)?)),
            (libc::SEEK_DATA, _) => Ok(Some(offset)),
            _ => Ok(Some(length)),
        }
    }
}

fn number(node: Node) -> Result<u64, InspectError> {
    let (Node::Snapshot(id) | Node::File(id, _)) = node else {
        return Ok(node.number().unwrap_or_default());
    };
    node.number().ok_or(InspectError::Id { id })
}

/// Error code for the program. A snapshot that is gone is not an error of the pool.
fn errno(error: &InspectError) -> Errno {
    match error {
        InspectError::Pool(Error::NotFound { .. }) => Errno::ESTALE,
        other => {
            tracing::warn!("{other}");
            Errno::EIO
        }
    }
}

/// Node of a number from the kernel, which only knows those that it was given.
fn node(ino: INodeNo) -> Result<Node, Errno> {
    Node::of(ino.0).ok_or(Errno::ESTALE)
}

impl Filesystem for SnapshotFiles {
    fn destroy(&mut self) {
        self.until.close();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match node(parent)
            .and_then(|parent| self.found(parent, name).map_err(|error| errno(&error)))
        {
            Ok(Some(attributes)) if attributes.kind == FileType::Directory => {
                reply.entry(&NOT_AT_ALL, &attributes, Generation(0));
            }
            Ok(Some(attributes)) => reply.entry(&FOR_EVER, &attributes, Generation(0)),
            Ok(None) => reply.error(Errno::ENOENT),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match node(ino).and_then(|node| self.attributes(node).map_err(|error| errno(&error))) {
            Ok(attributes) => reply.attr(&FOR_EVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Pages that the kernel has read before are what they were.
        match node(ino).and_then(|node| self.attributes(node).map_err(|error| errno(&error))) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match node(ino).and_then(|node| {
            self.bytes(node, offset, size)
                .map_err(|error| errno(&error))
        }) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let sought = node(ino).and_then(|node| {
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            self.sought(node, offset, whence)
                .map_err(|error| errno(&error))
        });
        match sought.map(|at| at.and_then(|at| i64::try_from(at).ok())) {
            Ok(Some(at)) => reply.offset(at),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed =
            match node(ino).and_then(|node| self.listed(node).map_err(|error| errno(&error))) {
                Ok(listed) => listed,
                Err(error) => return reply.error(error),
            };
        for (behind, node, name) in listed {
            let kind = match node {
                Node::File(..) => FileType::RegularFile,
                _ => FileType::Directory,
            };
            let Ok(number) = number(node) else { continue };
            if behind > offset && reply.add(INodeNo(number), behind, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    // What programs ask of any file, and there is nothing to say to.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
