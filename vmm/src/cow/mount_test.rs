//! File systems that tests mount for themselves.

use std::{path::PathBuf, process::Command, sync::Mutex};

/// Pages that the kernel keeps for hugetlbfs.
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// A file system of a test's own, unmounted at its end.
pub(super) struct Mount {
    at: PathBuf,
    huge_pages: i64,
}

impl Mount {
    /// `None`, and said so, where that cannot be done.
    pub fn tmpfs(name: &str, options: &str) -> Option<Self> {
        Self::of_kind(name, "tmpfs", options, 0)
    }

    /// A hugetlbfs of `size_mib`, with as many pages added to those that the kernel keeps.
    pub fn hugetlbfs(name: &str, size_mib: u64) -> Option<Self> {
        let pages = (size_mib / 2) as i64;
        add_huge_pages(pages);
        let options = format!("pagesize=2M,size={size_mib}M");
        let mount = Self::of_kind(name, "hugetlbfs", &options, pages);
        if mount.is_none() {
            add_huge_pages(-pages);
        }
        mount
    }

    fn of_kind(name: &str, kind: &str, options: &str, huge_pages: i64) -> Option<Self> {
        let at = PathBuf::from(format!("/tmp/nvvmm-cow-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", kind, "-o", options, kind])
            .arg(&at)
            .status();
        if !mounted
            .as_ref()
            .is_ok_and(std::process::ExitStatus::success)
        {
            eprintln!("SKIPPED: cannot mount a {kind} with {options}: {mounted:?}");
            let _ = std::fs::remove_dir(&at);
            return None;
        }
        Some(Self { at, huge_pages })
    }

    pub fn path(&self) -> &std::path::Path {
        &self.at
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
        let _ = std::fs::remove_dir(&self.at);
        if self.huge_pages > 0 {
            add_huge_pages(-self.huge_pages);
        }
    }
}

fn add_huge_pages(count: i64) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let now: i64 = std::fs::read_to_string(HUGE_PAGES)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    // Whether it has worked is seen by the mount.
    let _ = std::fs::write(HUGE_PAGES, (now + count).max(0).to_string());
}
