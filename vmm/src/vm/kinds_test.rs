//! Each variant of each error that a user can meet has a kind, and so an exit code.
//!
//! A new variant does not compile without a line here.

use std::io;

use nvvmm_devices::virtio::{BlockError, TransportError};
use nvvmm_devices::{BusError, LifecycleError};
use nvvmm_protocol::FailedBecause;
use nvvmm_snapshot::{
    BaseId, ChunkIndex, ContentRoot, Durability, DurabilityLimit, Error as PoolError, LockHolder,
    SnapshotId,
};

use super::error::{cow_error, machine_error, memory_error, take_error};
use super::process::{agent_error, process_error};
use crate::arch::boot::BootError;
use crate::checkpoint::{TakeError, blob::BlobError};
use crate::cow::{CowError, Lack};
use crate::error::{ErrorKind, VmError};
use crate::inspect::InspectError;
use crate::inspect::core::CoreError;
use crate::kvm::KvmError;
use crate::machine::MachineError;
use crate::memory::MemoryError;
use crate::net::NetError;
use crate::process::{AgentError, ProcessError};
use crate::spec::files::FileError;
use crate::sys::uffd::UffdError;

/// Holds each error of an enum against the kind that its variant must have. Each line is a variant,
/// an example, and the kind of the example.
macro_rules! kinds {
    ($of:ty, $shown:expr, $($variant:pat => $example:expr, $kind:ident;)+) => {{
        let kind_of = |error: &$of| match error {
            $($variant => ErrorKind::$kind,)+
        };
        $(
            let example: $of = $example;
            let wanted = kind_of(&example);
            assert_eq!(wanted, ErrorKind::$kind, "the example of another variant: {example:?}");
            let error: VmError = $shown(example);
            assert_eq!(error.kind, wanted, "{error}");
        )+
    }};
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn text() -> String {
    "text".to_owned()
}

fn path() -> std::path::PathBuf {
    "/p".into()
}

#[test]
fn errors_of_the_pool() {
    use PoolError as E;
    let id = || BaseId::Content(ContentRoot::from_bytes([1; 32]).expect("not zeros"));
    let limit = DurabilityLimit {
        strongest: Durability::Process,
        reason: text(),
    };
    let (needed_bytes, free_bytes, reserve_bytes, limit_bytes) = (4096, 0, 0, 0);
    kinds! { E, VmError::from,
        E::NotAPool { .. } => E::NotAPool { path: path(), why: text() }, PoolDamaged;
        E::Version { .. } => E::Version { found: 9, expected: 1 }, PoolDamaged;
        E::Damaged { .. } => E::Damaged { what: text() }, PoolDamaged;
        E::PoolFull { .. } => E::PoolFull { needed: 3, free: 1 }, PoolFull;
        E::NameTaken { .. } => E::NameTaken { name: text() }, Refused;
        E::NotFound { .. } => E::NotFound { name: text(), pool: path(), near: vec![] }, NotFound;
        E::Busy { .. } => E::Busy { name: text(), holder: text() }, Refused;
        E::DiskNameTaken { .. } => E::DiskNameTaken { name: text() }, Refused;
        E::NoDisk { .. } => E::NoDisk { name: text(), pool: path(), near: vec![] }, NotFound;
        E::DiskInUse { .. } => E::DiskInUse { name: text(), holder: text() }, Refused;
        E::InvalidDisk { .. } => E::InvalidDisk { name: text(), what: text() }, Usage;
        E::NoDisksYet => E::NoDisksYet, Refused;
        E::Incomplete { .. } => E::Incomplete { name: text() }, Refused;
        E::InvalidName { .. } => E::InvalidName { name: text() }, Usage;
        E::TooManyHolders { .. } => E::TooManyHolders { count: 1 }, Refused;
        E::TooManyPins { .. } => E::TooManyPins { count: 1 }, Refused;
        E::TooManySnapshots { .. } => E::TooManySnapshots { count: 1 }, Refused;
        E::NotPinned { .. } => E::NotPinned { id: 1 }, Failed;
        E::InvalidSnapshot { .. } => E::InvalidSnapshot { what: text() }, Failed;
        E::NoDevice { .. } => E::NoDevice { path: path() }, NotFound;
        E::NoDirectory { .. } => E::NoDirectory { path: path() }, NotFound;
        E::NoPlace { .. } => E::NoPlace { path: path(), what: text() }, Usage;
        E::Unlinked { .. } => E::Unlinked { path: path() }, Refused;
        E::Exists { .. } => E::Exists { path: path() }, Refused;
        E::HoldsPool { .. } => E::HoldsPool { path: path() }, Refused;
        E::InUse { .. } => E::InUse { path: path() }, Refused;
        E::PoolLocked { .. } =>
            E::PoolLocked { holder: LockHolder::default(), hopeless: true }, Refused;
        E::InvalidSize { .. } => E::InvalidSize { size_bytes: 1, why: text() }, Usage;
        E::FixedSize { .. } => E::FixedSize { path: path() }, Refused;
        E::NoSpaceOnMedium { .. } =>
            E::NoSpaceOnMedium { medium: "tmpfs", needed_bytes, available_bytes: 0 }, PoolFull;
        E::NotDurable { .. } => E::NotDurable { asked: Durability::Power, limit }, Refused;
        E::MediumFull { .. } =>
            E::MediumFull { medium: "tmpfs", needed_bytes, available_bytes: 0 }, PoolFull;
        E::BeingReceived { .. } => E::BeingReceived { name: text(), pid: 1 }, Refused;
        E::NotAStream => E::NotAStream, Refused;
        E::StreamVersion { .. } => E::StreamVersion { found: 9, expected: 1 }, Refused;
        E::StreamNotWritten { .. } => E::StreamNotWritten { source: os(libc::ENOSPC) }, Failed;
        E::StreamCut => E::StreamCut, Failed;
        E::StreamDamaged { .. } => E::StreamDamaged { what: text() }, Refused;
        E::StreamSealed => E::StreamSealed, Refused;
        E::StreamNotSealed => E::StreamNotSealed, Refused;
        E::WrongKey => E::WrongKey, Refused;
        E::NoBase { .. } =>
            E::NoBase { name: text(), base: text(), id: id(), pool: path() }, NotFound;
        E::WrongBase { .. } =>
            E::WrongBase { name: text(), base: text(), id: id(), onto: text() }, Refused;
        E::BaseUnproven { .. } => E::BaseUnproven { name: text(), base: text() }, Refused;
        E::NoRoom { .. } =>
            E::NoRoom { place: "the pool", needed_bytes, free_bytes, reserve_bytes }, PoolFull;
        E::OverLimit { .. } => E::OverLimit { needed_bytes, limit_bytes }, Refused;
        E::Interrupted => E::Interrupted, Failed;
        E::Io { .. } => E::Io { op: text(), source: os(libc::EACCES) }, Denied;
    }
}

#[test]
fn errors_of_boot_files_and_kernels() {
    use BootError as E;
    use FileError as F;
    let what = "the kernel";
    kinds! { F, VmError::from,
        F::Read { .. } => F::Read { what, path: path(), source: os(libc::EACCES) }, Denied;
        F::NotRegular { .. } => F::NotRegular { what, path: path(), kind: "a directory" }, Usage;
        F::Empty { .. } => F::Empty { what, path: path() }, Usage;
        F::NoKernel => F::NoKernel, Refused;
    }
    kinds! { E, |error| machine_error(MachineError::Boot(error)),
        E::File(_) =>
            E::File(F::Read { what, path: path(), source: os(libc::ENOENT) }), NotFound;
        E::NotAKernel { .. } => E::NotAKernel { path: path(), why: text() }, Usage;
        E::DoesNotFit { .. } =>
            E::DoesNotFit { what: text(), size_bytes: 1, why: text() }, Usage;
        E::CmdlineTooLong { .. } => E::CmdlineTooLong { length: 2, length_max: 1 }, Usage;
        E::CmdlineCharacters => E::CmdlineCharacters, Usage;
        E::LinuxOnly(_) => E::LinuxOnly("a command line"), Usage;
        E::TooManyVcpus { .. } => E::TooManyVcpus { vcpus: 9, vcpus_max: 8 }, Usage;
        E::Memory { .. } => E::Memory {
            what: "text",
            gpa: 0,
            source: vm_memory::GuestMemoryError::InvalidBackendAddress,
        }, Failed;
    }
}

#[test]
fn errors_of_networks() {
    use MachineError as M;
    use NetError as N;
    let op = "text";
    kinds! { N, |error| machine_error(M::Net(error)),
        N::NoPasst => N::NoPasst, HostLacks;
        N::Passt(_) => N::Passt(text()), HostLacks;
        N::Port { .. } => N::Port {
            port: text(), protocol: "tcp", source: os(libc::EADDRINUSE)
        }, Refused;
        N::NotListening { .. } => N::NotListening { port: text(), protocol: "tcp" }, Refused;
        N::Tap { .. } => N::Tap { name: text(), source: os(libc::EACCES) }, Denied;
        N::Descriptor { .. } => N::Descriptor { fd: 3, why: text() }, Usage;
        N::Namespace { .. } => N::Namespace { name: text(), source: os(libc::ENOENT) }, NotFound;
        N::Host { .. } => N::Host { op, source: os(libc::EIO) }, Failed;
    }
}

#[test]
fn errors_of_machines_kvm_and_devices() {
    use BlockError as B;
    use KvmError as K;
    use LifecycleError as L;
    use MachineError as M;
    let (vcpu, index, value, op) = (0, 1, 2, "text");
    kinds! { K, |error| machine_error(M::Kvm(error)),
        K::Open { .. } => K::Open { remedy: "text", source: os(libc::EACCES) }, HostLacks;
        K::Lacks(_) => K::Lacks("text"), HostLacks;
        K::Incompatible(_) => K::Incompatible(text()), HostLacks;
        K::Vm { .. } => K::Vm { op, source: os(libc::EIO) }, Failed;
        K::Vcpu { .. } => K::Vcpu { vcpu, op, source: os(libc::EIO) }, Failed;
        K::Msr { .. } => K::Msr { vcpu, index, value }, HostLacks;
        K::UnknownMsr { .. } => K::UnknownMsr { vcpu, index, value }, HostLacks;
        K::Mismatch(_) => K::Mismatch(text()), Failed;
    }
    kinds! { B, |error| machine_error(M::Disk(error)),
        B::Io { .. } => B::Io { path: path(), op, source: os(libc::ENOENT) }, NotFound;
        B::NotADisk { .. } => B::NotADisk { path: path() }, Usage;
        B::Size { .. } => B::Size { path: path(), size_bytes: 1 }, Usage;
        B::Qcow2 { .. } => B::Qcow2 { path: path() }, Usage;
        B::InUse { .. } => B::InUse { path: path() }, Refused;
        B::NotWritable { .. } =>
            B::NotWritable { path: path(), source: os(libc::EROFS) }, Denied;
    }
    let (kind, instance) = (text(), text());
    let names = || (kind.clone(), instance.clone());
    kinds! { L, |error| machine_error(M::Device(error)),
        L::WrongDevice { .. } => L::WrongDevice {
            kind: text(),
            instance: text(),
            found_kind: text(),
            found_instance: text(),
        }, Failed;
        L::UnknownVersion { .. } => {
            let (kind, instance) = names();
            L::UnknownVersion { kind, instance, found: 9, known: 1 }
        }, PoolDamaged;
        L::Malformed { .. } => {
            let (kind, instance) = names();
            let source = postcard::Error::DeserializeUnexpectedEnd;
            L::Malformed { kind, version: 1, instance, source }
        }, PoolDamaged;
        L::LeftOver { .. } => {
            let (kind, instance) = names();
            L::LeftOver { kind, version: 1, instance, left_over_bytes: 1 }
        }, PoolDamaged;
        L::Rejected { .. } => {
            let (kind, instance) = names();
            L::Rejected { kind, instance, reason: text() }
        }, Failed;
        L::NotPaused { .. } => {
            let (kind, instance) = names();
            L::NotPaused { kind, instance }
        }, Failed;
        L::Io { .. } => {
            let (kind, instance) = names();
            L::Io { kind, instance, op, source: os(libc::EIO) }
        }, Failed;
    }
    kinds! { M, machine_error,
        M::Kvm(_) => M::Kvm(K::Lacks("text")), HostLacks;
        M::Boot(_) => M::Boot(BootError::CmdlineCharacters), Usage;
        M::Dax { .. } => M::Dax { disk: text(), reason: text() }, Refused;
        M::PoolDisk(_) => M::PoolDisk(PoolError::NoDisksYet), Refused;
        M::Device(_) => M::Device(L::NotPaused { kind: text(), instance: text() }), Failed;
        M::Bus(_) => M::Bus(BusError::BadRange { name: text(), base: 0, len: 0 }), Failed;
        M::Transport(_) => M::Transport(TransportError::QueueSize(3)), Failed;
        M::Net(_) => M::Net(NetError::NoPasst), HostLacks;
        M::Disk(_) => M::Disk(B::InUse { path: path() }), Refused;
        M::Spec(_) => M::Spec(text()), Usage;
        M::NoWindow(_) => M::NoWindow("text"), Refused;
        M::OtherDevices(_) => M::OtherDevices(text()), Refused;
        M::State(_) => M::State("text"), Failed;
        M::Host { .. } => M::Host { op, source: os(libc::EMFILE) }, Failed;
    }
}

#[test]
fn errors_of_guest_memory_and_snapshots() {
    use BlobError as B;
    use CowError as C;
    use TakeError as T;
    use UffdError as U;
    let op = "text";
    kinds! { Lack, |lack| cow_error(C::NoSpace(lack)),
        Lack::Blocks => Lack::Blocks, PoolFull;
        Lack::Medium => Lack::Medium, PoolFull;
        Lack::Kernel => Lack::Kernel, HostLacks;
        Lack::Store => Lack::Store, Refused;
    }
    kinds! { U, |error| cow_error(C::Uffd(error)),
        U::NoPermission => U::NoPermission, HostLacks;
        U::KernelTooOld => U::KernelTooOld, HostLacks;
        U::Os { .. } => U::Os { op, source: os(libc::EIO) }, Failed;
    }
    kinds! { C, cow_error,
        C::NoSpace(_) => C::NoSpace(Lack::Blocks), PoolFull;
        C::Arriving => C::Arriving, Refused;
        C::Locked(_) => C::Locked(PoolError::InUse { path: path() }), Refused;
        C::Uffd(_) => C::Uffd(U::NoPermission), HostLacks;
        C::NotWhole { .. } => C::NotWhole { index: ChunkIndex::FIRST }, Refused;
        C::TooManyMappings { .. } => C::TooManyMappings { needed: 2, limit: 1 }, Refused;
        C::Pool(_) => C::Pool(PoolError::Damaged { what: text() }), PoolDamaged;
        C::Os { .. } => C::Os { op, source: os(libc::EIO) }, Failed;
    }
    kinds! { MemoryError, memory_error,
        MemoryError::Size { .. } => MemoryError::Size { size_bytes: 1 }, Usage;
        MemoryError::Reserve { .. } =>
            MemoryError::Reserve { size_bytes: 1, source: os(libc::ENOMEM) }, HostLacks;
    }
    kinds! { B, VmError::from,
        B::NotState => B::NotState, PoolDamaged;
        B::Version { .. } => B::Version { found: 9, expected: 1 }, PoolDamaged;
        B::Damaged(_) => B::Damaged(text()), PoolDamaged;
        B::OtherArchitecture(_) => B::OtherArchitecture(text()), HostLacks;
        B::UnknownSection { .. } => B::UnknownSection { id: 1, version: 1 }, PoolDamaged;
    }
    let needed = T::NoRoom {
        needed: 2,
        free: 1,
        needed_paused: 1,
    };
    kinds! { T, take_error,
        T::Pool(_) => T::Pool(PoolError::NameTaken { name: text() }), Refused;
        T::NoRoom { .. } => needed, PoolFull;
        T::NoRoomAhead(_) => T::NoRoomAhead(Lack::Medium), PoolFull;
        T::NoRoomPaused(_) => T::NoRoomPaused(Lack::Kernel), HostLacks;
        T::CallerGone => T::CallerGone, Refused;
        T::Machine(_) => T::Machine(MachineError::State("text")), Failed;
        T::Cow(_) => T::Cow(C::NoSpace(Lack::Blocks)), PoolFull;
        T::Blob(_) => T::Blob(B::NotState), Failed;
    }
}

#[test]
fn errors_of_processes_and_of_looking_into_snapshots() {
    use AgentError as A;
    use CoreError as C;
    use InspectError as I;
    use ProcessError as P;
    kinds! { P, process_error,
        P::Pool(_) => P::Pool(PoolError::TooManyPins { count: 1 }), Refused;
        P::Cow(_) => P::Cow(CowError::NoSpace(Lack::Blocks)), PoolFull;
        P::Blob(_) => P::Blob(BlobError::NotState), PoolDamaged;
        P::Invalid(_) => P::Invalid(text()), Refused;
        P::Memory(_) => P::Memory(vm_memory::GuestMemoryError::InvalidBackendAddress), Failed;
        P::Overtaken => P::Overtaken, Refused;
    }
    let said = |because| A::Said {
        because,
        message: text(),
    };
    kinds! { FailedBecause, |because| agent_error(said(because), "text"),
        FailedBecause::NotFound => FailedBecause::NotFound, NotFound;
        FailedBecause::Refused => FailedBecause::Refused, Refused;
        FailedBecause::Failed => FailedBecause::Failed, Failed;
    }
    kinds! { A, |error| agent_error(error, "text"),
        A::Stream(_) => A::Stream(nvvmm_protocol::FrameError::Ended), Refused;
        A::Silent => A::Silent, Refused;
        A::OutOfTurn => A::OutOfTurn, Refused;
        A::Said { .. } => said(FailedBecause::NotFound), NotFound;
        A::Ours(_) => A::Ours(P::Overtaken), Refused;
    }
    let not_json = serde_json::from_str::<u8>("text").expect_err("no number");
    let id = SnapshotId::new(1).expect("not zero");
    kinds! { I, VmError::from,
        I::Pool(_) => I::Pool(PoolError::Damaged { what: text() }), PoolDamaged;
        I::State(_) => I::State(BlobError::NotState), PoolDamaged;
        I::Json(_) => I::Json(not_json), Failed;
        I::Size { .. } => I::Size { memory_bytes: 1 }, PoolDamaged;
        I::Id { .. } => I::Id { id }, PoolDamaged;
    }
    kinds! { C, VmError::from,
        C::Look(_) => C::Look(I::Size { memory_bytes: 1 }), PoolDamaged;
        C::NoVm(_) => C::NoVm(text()), Refused;
        C::Write(_) => C::Write(os(libc::EACCES)), Denied;
    }
}
