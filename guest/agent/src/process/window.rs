//! Windows in which the host shows images of processes: virtio-pmem with an EROFS on it, behind
//! virtio-mmio devices that are empty until then.
//!
//! The kernel counts the users of a window. While a process has memory mapped from it, it cannot be
//! unmounted. After the unmount the agent takes the driver off the device. This tells the host that
//! nobody uses the window any more.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nvvmm_process::WINDOWS;

use super::answers::refused;
use crate::stream::Failure;
use crate::sys;

const DEVICES: &str = "/sys/bus/platform/devices";
const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";
/// The ACPI name of virtio-mmio devices; a number follows.
const DEVICE_NAME: &str = "LNRO0005:";
/// Drivers that make a disk of the device, and directories that exist when the kernel has them.
const DRIVERS: [(&str, &str); 2] = [
    ("virtio_pmem", "/sys/bus/virtio/drivers/virtio_pmem"),
    ("nd_pmem", "/sys/bus/nd/drivers/nd_pmem"),
];
const FILE_SYSTEM: &str = "erofs";
const FILE: &str = "pages";
/// Time for the kernel to make a disk of the device: more than ten times what it takes in an
/// emulated machine, and less than the host waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// Time between two checks if a window is still used, when the first process is gone.
const IN_USE_POLL: Duration = Duration::from_secs(1);

/// A window that is mounted.
#[derive(Debug)]
pub struct Window {
    /// The device's name among those of its bus; also that of the directory where it is mounted.
    device: String,
}

impl Window {
    /// Mounts what the host shows behind device `number`.
    pub fn open(number: u8) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::io(&format!("window {number} cannot be opened"), &error);
        let device = find_device(Path::new(DEVICES), number)
            .map_err(failed)?
            .ok_or_else(|| refused(format!("there is no virtio-mmio device {number}")))?;
        load_drivers()?;
        let window = Self { device };
        window.mount().map_err(|error| {
            window.unbind();
            failed(error)
        })?;
        Ok(window)
    }

    fn mount(&self) -> io::Result<()> {
        fs::write(Path::new(DRIVER).join("bind"), &self.device)?;
        let disk = wait_for_disk(&Path::new(DEVICES).join(&self.device))?;
        fs::create_dir_all(self.place())?;
        let (disk, place) = (c_path(&disk)?, c_path(&self.place())?);
        let began = Instant::now();
        loop {
            match sys::mount_dax(&disk, &place) {
                // The kernel makes the disk's file a moment before the disk can be opened.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENXIO) && began.elapsed() < PATIENCE =>
                {
                    thread::sleep(POLL);
                }
                done => return done,
            }
        }
    }

    /// The image's pages.
    ///
    /// # Errors
    /// Fails if the image would be read through the page cache.
    pub fn pages(&self) -> Result<File, Failure> {
        let failed =
            |error: io::Error| Failure::io("the image in the window cannot be opened", &error);
        let file = File::open(self.place().join(FILE)).map_err(failed)?;
        if !sys::is_dax(&file).map_err(failed)? {
            return Err(refused("this kernel has no DAX for EROFS"));
        }
        Ok(file)
    }

    /// Waits until nothing uses the window, and releases it.
    pub fn release(self) {
        while self
            .try_unmount()
            .is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
        {
            thread::sleep(IN_USE_POLL);
        }
        self.unbind();
    }

    /// Releases the window at once if nothing is mapped from it: all pages were copied. Gives it
    /// back otherwise.
    pub fn release_unless_used(self) -> Option<Self> {
        match self.try_unmount() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Some(self),
            _ => {
                self.unbind();
                None
            }
        }
    }

    fn try_unmount(&self) -> io::Result<()> {
        sys::unmount(&c_path(&self.place())?)
    }

    fn unbind(&self) {
        let _ = fs::write(Path::new(DRIVER).join("unbind"), &self.device);
        let _ = fs::remove_dir(self.place());
    }

    fn place(&self) -> PathBuf {
        Path::new(WINDOWS).join(&self.device)
    }
}

/// Releases the windows of a former agent, each when nothing uses it any more.
pub fn release_former() {
    for place in fs::read_dir(WINDOWS).into_iter().flatten().flatten() {
        if let Ok(device) = place.file_name().into_string() {
            thread::spawn(|| Window { device }.release());
        }
    }
}

/// Makes the kernel load the drivers for a window. The error says what it lacks.
fn load_drivers() -> Result<(), Failure> {
    let lacks = |name| {
        refused(format!(
            "the guest's kernel has no {name}, which windows need"
        ))
    };
    for (name, seen) in DRIVERS {
        if !Path::new(seen).exists() {
            modprobe(name);
        }
        if !Path::new(seen).exists() {
            return Err(lacks(name));
        }
    }
    let has_file_system = || {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        known.lines().any(|line| line.trim() == FILE_SYSTEM)
    };
    if !has_file_system() {
        modprobe(FILE_SYSTEM);
    }
    if !has_file_system() {
        return Err(lacks(FILE_SYSTEM));
    }
    Ok(())
}

/// Loads a module of the kernel. Failures show afterwards, when the driver is missing.
fn modprobe(module: &str) {
    let _ = Command::new("modprobe")
        .args(["-q", module])
        .stderr(Stdio::null())
        .status();
}

/// The device with this number in the firmware's tables, by its name on the bus.
fn find_device(devices: &Path, number: u8) -> io::Result<Option<String>> {
    for device in fs::read_dir(devices)? {
        let device = device?;
        let Ok(name) = device.file_name().into_string() else {
            continue;
        };
        let uid = fs::read_to_string(device.path().join("firmware_node/uid")).unwrap_or_default();
        if name.starts_with(DEVICE_NAME) && uid.trim() == number.to_string() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The file of the disk that the kernel makes of a device.
fn wait_for_disk(device: &Path) -> io::Result<PathBuf> {
    let began = Instant::now();
    loop {
        let disk = find_disk(device)?.map(|name| Path::new("/dev").join(name));
        if let Some(disk) = disk.filter(|disk| disk.exists()) {
            return Ok(disk);
        }
        if began.elapsed() > PATIENCE {
            let missing = "the kernel makes no disk of it";
            return Err(io::Error::new(io::ErrorKind::TimedOut, missing));
        }
        thread::sleep(POLL);
    }
}

/// The name in a directory `block`, wherever that is below the device.
fn find_disk(directory: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Links lead out of the device.
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let found = if entry.file_name().as_bytes() == b"block" {
            let disks = fs::read_dir(entry.path())?;
            disks
                .flatten()
                .next()
                .map(|disk| PathBuf::from(disk.file_name()))
        } else {
            // A directory that disappears meanwhile has no disk.
            find_disk(&entry.path()).unwrap_or_default()
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
#[path = "window_test.rs"]
mod window_test;
