//! KVM ioctls and the shared run page, where kvm-ioctls offers nothing or only `unsafe`.

use std::io;
use std::mem::{offset_of, size_of};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{
    KVM_MEM_READONLY, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Xsave, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_device_attr, kvm_run,
    kvm_run__bindgen_ty_1__bindgen_ty_4, kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nvvmm_snapshot::{Resource, ask_for};
use vmm_sys_util::fam::FamStruct;
use vmm_sys_util::ioctl::{_IOC_READ, _IOC_WRITE, ioctl_expr, ioctl_with_ref};

use super::address_range::AddressRange;

const DEVICE_ATTR_BYTES: u32 = size_of::<kvm_device_attr>() as u32;

fn kvm_set_device_attr() -> libc::c_ulong {
    ioctl_expr(_IOC_WRITE, KVMIO, 0xe1, DEVICE_ATTR_BYTES)
}

fn kvm_get_device_attr() -> libc::c_ulong {
    ioctl_expr(_IOC_WRITE, KVMIO, 0xe2, DEVICE_ATTR_BYTES)
}

/// A second mapping of a vCPU's `kvm_run` page, through which any thread asks the vCPU to leave
/// `KVM_RUN`.
///
/// It is a mapping of its own, not a pointer into the one of [`VcpuFd`]: the thread that runs the
/// vCPU holds that one exclusively.
#[derive(Debug)]
pub struct RunPage {
    base: NonNull<u8>,
    size_bytes: NonZeroUsize,
}

// SAFETY: the mapping is shared memory that lives as long as the struct, and the only access is to
// one byte, as an atomic.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps the run page of `vcpu`.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn map(vcpu: &VcpuFd) -> io::Result<RunPage> {
        let size_bytes =
            NonZeroUsize::new(size_of::<kvm_run>()).ok_or(io::ErrorKind::InvalidInput)?;
        ask_for(Resource::Mapping)?;
        // SAFETY: the VcpuFd is open, so its descriptor is valid during this call.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let base = unsafe {
            mmap(
                None,
                size_bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                fd.as_fd(),
                0,
            )?
        };
        Ok(RunPage {
            base: base.cast(),
            size_bytes,
        })
    }

    /// Sets or clears `immediate_exit`: while it is set, `KVM_RUN` completes a pending I/O
    /// operation and returns `EINTR` without entering the guest (KVM API, section 5).
    pub fn set_immediate_exit(&self, exit: bool) {
        // SAFETY: the byte lies within the mapping and is aligned; nothing but atomic accesses to
        // it are made through this mapping, and the kernel reads it as a single byte.
        let byte = unsafe {
            AtomicU8::from_ptr(self.base.as_ptr().add(offset_of!(kvm_run, immediate_exit)))
        };
        byte.store(u8::from(exit), Ordering::SeqCst);
    }
}

impl RunPage {
    /// After `KVM_EXIT_IO`: size in bytes of one item of the access (1, 2 or 4); a string
    /// instruction may have moved several.
    pub fn io_item_bytes(&self) -> usize {
        let at = offset_of!(kvm_run, __bindgen_anon_1)
            + offset_of!(kvm_run__bindgen_ty_1__bindgen_ty_4, size);
        // SAFETY: the byte lies within the mapping; only the kernel writes it, and not while this
        // vCPU is out of KVM_RUN.
        usize::from(unsafe { self.base.as_ptr().add(at).read_volatile() }).max(1)
    }

    /// After `KVM_EXIT_INTERNAL_ERROR`: which one.
    pub fn internal_error(&self) -> u32 {
        let at = offset_of!(kvm_run, __bindgen_anon_1);
        // SAFETY: `suberror` is the first field of the exit's part of the page, aligned to 4 bytes
        // and within the mapping; only the kernel writes it, and not while this vCPU is out
        // of KVM_RUN.
        unsafe { self.base.as_ptr().add(at).cast::<u32>().read_volatile() }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: base and size are those of the mapping made in `map`, and no reference into it is
        // left. A failure would leave one page mapped, which harms nothing.
        let _ = unsafe { munmap(self.base.cast(), self.size_bytes.get()) };
    }
}

/// Gives the guest a range of `memory` as RAM at `gpa`, in memory slot `slot`.
///
/// The VM's owner keeps `memory` until no vCPU of the VM can run any more ([`crate::kvm::KvmVm`]
/// does).
///
/// # Errors
/// `InvalidInput` for a range that does not lie in `memory`; else what
/// `KVM_SET_USER_MEMORY_REGION` says.
pub fn set_memory_slot(
    vm: &VmFd,
    slot: u32,
    gpa: u64,
    memory: &AddressRange,
    offset_bytes: usize,
    size_bytes: usize,
    flags: u32,
) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: gpa,
        memory_size: size_bytes as u64,
        userspace_addr: memory.address(offset_bytes, size_bytes)? as u64,
    };
    // SAFETY: `address` checked the range to lie in the reservation, which stays mapped while
    // `memory` lives; all Rust code accesses it volatile, so the guest may write it at any time.
    unsafe { vm.set_user_memory_region(region)? };
    Ok(())
}

/// Shows the guest all of `content`, read-only, at `gpa`, in a memory slot that is free.
///
/// The VM's owner keeps `content` until the slot is removed or no vCPU of the VM can run any more
/// ([`crate::kvm::KvmVm`] does).
///
/// # Errors
/// What `KVM_SET_USER_MEMORY_REGION` says.
pub fn set_read_only_slot(
    vm: &VmFd,
    slot: u32,
    gpa: u64,
    content: &AddressRange,
) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: KVM_MEM_READONLY,
        guest_phys_addr: gpa,
        memory_size: content.size_bytes() as u64,
        userspace_addr: content.start() as u64,
    };
    // SAFETY: the range is a whole reservation, which stays mapped while `content` lives, and KVM
    // only reads it.
    unsafe { vm.set_user_memory_region(region)? };
    Ok(())
}

/// Removes a memory slot. When this returns the guest has no access to what was in it.
///
/// # Errors
/// What `KVM_SET_USER_MEMORY_REGION` says.
pub fn remove_slot(vm: &VmFd, slot: u32) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        ..Default::default()
    };
    // SAFETY: a slot of size 0 gives the guest no memory.
    unsafe { vm.set_user_memory_region(region)? };
    Ok(())
}

fn kvm_clear_dirty_log_number() -> libc::c_ulong {
    const BYTES: u32 = size_of::<kvm_clear_dirty_log>() as u32;
    ioctl_expr(_IOC_READ | _IOC_WRITE, KVMIO, 0xc0, BYTES)
}

/// Clears the frames of `bitmap` in the dirty log of `slot`, which has `frames` frames, and
/// write-protects them anew. The VM must have KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 switched on.
///
/// # Errors
/// `InvalidInput` when the bitmap is not that of so many frames; else what `KVM_CLEAR_DIRTY_LOG`
/// says.
pub fn clear_dirty_log(vm: &VmFd, slot: u32, frames: u64, bitmap: &mut [u64]) -> io::Result<()> {
    if bitmap.len() as u64 != frames.div_ceil(u64::from(u64::BITS)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (Some(first), Some(last)) = (
        bitmap.iter().position(|word| *word != 0),
        bitmap.iter().rposition(|word| *word != 0),
    ) else {
        return Ok(());
    };
    let first_page = first as u64 * u64::from(u64::BITS);
    // A multiple of 64, or up to the slot's end.
    let end_page = ((last as u64 + 1) * u64::from(u64::BITS)).min(frames);
    let clear = kvm_clear_dirty_log {
        slot,
        num_pages: u32::try_from(end_page - first_page).map_err(|_| io::ErrorKind::InvalidInput)?,
        first_page,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bitmap[first..=last].as_mut_ptr().cast(),
        },
    };
    // SAFETY: the kernel reads one bit for each of `num_pages` from `dirty_bitmap`: the words from
    // `first` to `last`.
    let ret = unsafe { ioctl_with_ref(vm, kvm_clear_dirty_log_number(), &clear) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn tsc_offset_attr(addr: u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr,
        flags: 0,
    }
}

/// Reads what KVM adds to the (scaled) host TSC to make this vCPU's TSC (KVM API,
/// `KVM_VCPU_TSC_OFFSET`, Linux 5.16).
///
/// # Errors
/// `ENXIO` where KVM does not have the attribute.
pub fn get_tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0u64;
    let attr = tsc_offset_attr(&raw mut offset as u64);
    // SAFETY: the kernel writes eight bytes at `addr`, a live local variable.
    let ret = unsafe { ioctl_with_ref(vcpu, kvm_get_device_attr(), &attr) };
    if ret == 0 {
        Ok(offset)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets what [`get_tsc_offset`] reads.
///
/// # Errors
/// `ENXIO` where KVM does not have the attribute.
pub fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> io::Result<()> {
    let attr = tsc_offset_attr(&raw const offset as u64);
    // SAFETY: the kernel reads eight bytes at `addr`, a live local variable.
    let ret = unsafe { ioctl_with_ref(vcpu, kvm_set_device_attr(), &attr) };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads the vCPU's extended state in XSAVE's standard (not compacted) form.
///
/// `size_bytes` is what `KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2)` gives for the VM, or 4096 where that
/// is less.
///
/// # Errors
/// What `KVM_GET_XSAVE` or `KVM_GET_XSAVE2` says.
pub fn get_xsave(vcpu: &VcpuFd, size_bytes: usize) -> io::Result<Vec<u8>> {
    if size_bytes <= size_of::<kvm_xsave>() {
        let xsave = vcpu.get_xsave()?;
        return Ok(xsave
            .region
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect());
    }
    let mut xsave = sized_xsave(size_bytes)?;
    // SAFETY: room was made for `size_bytes`, what KVM says it writes; this process never enables
    // more extended state (arch_prctl) after the VM exists.
    unsafe { vcpu.get_xsave2(&mut xsave)? };
    let fixed = xsave
        .as_fam_struct_ref()
        .xsave
        .region
        .iter()
        .flat_map(|word| word.to_le_bytes());
    Ok(fixed
        .chain(xsave.as_slice().iter().flat_map(|word| word.to_le_bytes()))
        .take(size_bytes)
        .collect())
}

/// Sets the vCPU's extended state from what [`get_xsave`] gave, whose length must be `size_bytes`
/// of this VM.
///
/// # Errors
/// `InvalidInput` for another length; else what `KVM_SET_XSAVE` says, for example that a component
/// is not offered to this guest.
pub fn set_xsave(vcpu: &VcpuFd, bytes: &[u8], size_bytes: usize) -> io::Result<()> {
    let fixed_bytes = size_of::<kvm_xsave>();
    if bytes.len() != size_bytes.max(fixed_bytes) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "extended state of another size than KVM's",
        ));
    }
    let mut xsave = sized_xsave(size_bytes.max(fixed_bytes))?;
    let words = bytes.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_le_bytes(word)
    });
    let (fixed, rest): (Vec<_>, Vec<_>) =
        words.enumerate().partition(|(at, _)| at * 4 < fixed_bytes);
    // SAFETY: only the contents change, not the length of the flexible array.
    let fam = unsafe { xsave.as_mut_fam_struct() };
    for (slot, (_, word)) in fam.xsave.region.iter_mut().zip(fixed) {
        *slot = word;
    }
    for (slot, (_, word)) in xsave.as_mut_slice().iter_mut().zip(rest) {
        *slot = word;
    }
    // SAFETY: the allocation is as large as what KVM reads (checked above).
    unsafe { vcpu.set_xsave2(&xsave)? };
    Ok(())
}

fn sized_xsave(size_bytes: usize) -> io::Result<Xsave> {
    let extra = size_bytes.saturating_sub(size_of::<kvm_xsave>());
    let entries = extra.div_ceil(size_of::<<kvm_bindings::kvm_xsave2 as FamStruct>::Entry>());
    Xsave::new(entries).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
}
