//! Images of qcow2, made byte by byte as docs/interop/qcow2.rst of QEMU has the format.

use std::collections::BTreeMap;

/// Content of a cluster.
#[derive(Clone)]
enum Cluster {
    Data(Vec<u8>),
    Compressed(Vec<u8>),
    Zero,
}

/// An image that is about to be made.
#[derive(Clone)]
pub struct Image {
    pub size: u64,
    pub version: u32,
    pub cluster_bits: u32,
    clusters: BTreeMap<u64, Cluster>,
}

/// Places in an image that was made.
pub struct Made {
    pub bytes: Vec<u8>,
    pub l1: usize,
    pub first_l2: usize,
}

impl Image {
    pub fn new(size: u64) -> Self {
        Self {
            size,
            version: 3,
            cluster_bits: 16,
            clusters: BTreeMap::new(),
        }
    }

    fn cluster(&self) -> usize {
        1 << self.cluster_bits
    }

    /// A cluster with data.
    pub fn data(mut self, index: u64, salt: u8) -> Self {
        let bytes = noise(self.cluster(), salt);
        self.clusters.insert(index, Cluster::Data(bytes));
        self
    }

    /// A cluster that is compressed.
    pub fn compressed(mut self, index: u64, salt: u8) -> Self {
        let mut bytes = noise(self.cluster(), salt);
        // Half of it can be made shorter.
        let half = bytes.len() / 2;
        bytes[half..].fill(salt);
        self.clusters.insert(index, Cluster::Compressed(bytes));
        self
    }

    /// A cluster that is there and reads as zeros.
    pub fn zero(mut self, index: u64) -> Self {
        self.clusters.insert(index, Cluster::Zero);
        self
    }

    /// Bytes of the disk.
    pub fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.size as usize];
        for (index, cluster) in &self.clusters {
            if let Cluster::Data(bytes) | Cluster::Compressed(bytes) = cluster {
                let at = *index as usize * self.cluster();
                let end = content.len().min(at + bytes.len());
                content[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
        content
    }

    /// The bytes of the file: header, table of references, their block, L1 table, then L2 tables
    /// and clusters.
    pub fn make(&self) -> Made {
        let cluster = self.cluster();
        let per_table = cluster as u64 / 8;
        let l1_entries = self.size.div_ceil(cluster as u64 * per_table);
        assert!(l1_entries <= per_table, "one cluster for the L1 table");
        let mut file = vec![0; 4 * cluster];
        let l1 = 3 * cluster;
        let mut l2_of = BTreeMap::new();
        for (index, content) in &self.clusters {
            let table = *l2_of.entry(index / per_table).or_insert_with(|| {
                let at = file.len();
                file.resize(at + cluster, 0);
                at
            });
            let at = file.len() as u64;
            let entry = match content {
                Cluster::Zero => 1,
                Cluster::Data(bytes) => {
                    file.extend(bytes);
                    1 << 63 | at
                }
                Cluster::Compressed(bytes) => {
                    let packed = miniz_oxide::deflate::compress_to_vec(bytes, 6);
                    assert!(packed.len() < cluster);
                    // Not at the beginning of a sector.
                    file.resize(file.len() + 100, 0);
                    file.extend(&packed);
                    file.resize(file.len().next_multiple_of(cluster), 0);
                    let sectors = (at + 100 + packed.len() as u64 - 1) / 512 - at / 512;
                    1 << 62 | sectors << (62 - (self.cluster_bits - 8)) | (at + 100)
                }
            };
            let place = table + (index % per_table) as usize * 8;
            file[place..place + 8].copy_from_slice(&entry.to_be_bytes());
        }
        for (index, table) in &l2_of {
            let place = l1 + *index as usize * 8;
            let entry = 1 << 63 | *table as u64;
            file[place..place + 8].copy_from_slice(&entry.to_be_bytes());
        }
        self.put_header(&mut file, l1_entries);
        let first_l2 = l2_of.values().next().copied().unwrap_or(0);
        Made {
            bytes: file,
            l1,
            first_l2,
        }
    }

    fn put_header(&self, file: &mut [u8], l1_entries: u64) {
        let cluster = self.cluster() as u64;
        let mut header = Vec::new();
        header.extend(b"QFI\xfb");
        header.extend(self.version.to_be_bytes());
        header.extend([0; 12]);
        header.extend(self.cluster_bits.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend([0; 4]);
        header.extend((l1_entries as u32).to_be_bytes());
        header.extend((3 * cluster).to_be_bytes());
        header.extend(cluster.to_be_bytes());
        header.extend(1u32.to_be_bytes());
        header.extend([0; 12]);
        if self.version >= 3 {
            header.extend([0; 24]);
            header.extend(4u32.to_be_bytes());
            header.extend(104u32.to_be_bytes());
        }
        file[..header.len()].copy_from_slice(&header);
        let at = cluster as usize;
        file[at..at + 8].copy_from_slice(&(2 * cluster).to_be_bytes());
        // Each cluster of the file has one reference.
        for index in 0..file.len() / at {
            file[2 * at + index * 2 + 1] = 1;
        }
    }
}

/// Bytes without order, which are not the same for two salts.
pub fn noise(len: usize, salt: u8) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::from(salt) << 32 | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}
