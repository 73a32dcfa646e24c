//! Identity and privileges of a thread. It keeps all privileges until the last step.

use super::stubs::StubThread;
use crate::error::Error;
use crate::image::Credentials;

const SECBIT_KEEP_CAPS: u32 = 1 << 4;
const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
const CAPABILITIES: u64 = 64;
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Sets the credentials of a thread.
pub fn set(thread: &StubThread, credentials: &Credentials) -> Result<(), Error> {
    let ids = &credentials.ids;
    // With these, a change of user removes no capability.
    let keep = SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP;
    thread.prctl("keep capabilities", libc::PR_SET_SECUREBITS, keep.into())?;
    let groups: Vec<u8> = ids
        .more_groups
        .iter()
        .flat_map(|group| group.to_le_bytes())
        .collect();
    let address = thread.stub.put(&groups)?;
    thread.call(
        "set groups",
        libc::SYS_setgroups,
        &[ids.more_groups.len() as u64, address],
    )?;
    let [real, effective, saved, file_system] = ids.groups.map(u64::from);
    thread.call(
        "set the group",
        libc::SYS_setresgid,
        &[real, effective, saved],
    )?;
    thread.call(
        "set the group for files",
        libc::SYS_setfsgid,
        &[file_system],
    )?;
    let [real, effective, saved, file_system] = ids.users.map(u64::from);
    thread.call(
        "set the user",
        libc::SYS_setresuid,
        &[real, effective, saved],
    )?;
    thread.call("set the user for files", libc::SYS_setfsuid, &[file_system])?;
    set_capabilities(thread, credentials)?;
    if ids.no_new_privileges {
        thread.prctl("forgo new privileges", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    }
    Ok(())
}

fn set_capabilities(thread: &StubThread, credentials: &Credentials) -> Result<(), Error> {
    let [inheritable, permitted, effective, bounding, ambient] = credentials.ids.capabilities;
    for capability in (0..CAPABILITIES).filter(|capability| bounding & (1 << capability) == 0) {
        // EINVAL: this kernel has no such capability.
        let arguments = [libc::PR_CAPBSET_DROP as u64, capability, 0, 0, 0];
        let dropped = thread.remote.try_call(libc::SYS_prctl, &arguments)?;
        if dropped.is_err_and(|error| error.raw_os_error() != Some(libc::EINVAL)) {
            return Err(Error::BadImage("a capability could not be dropped"));
        }
    }
    // Before the last step, which may remove the privilege for this.
    thread.prctl(
        "set the secure bits",
        libc::PR_SET_SECUREBITS,
        credentials.secure_bits.into(),
    )?;
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    // struct __user_cap_header_struct, then two of __user_cap_data_struct.
    let words = [
        CAPABILITY_VERSION,
        0,
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    let address = thread.stub.put(&words.map(u32::to_le_bytes).concat())?;
    thread.call(
        "set capabilities",
        libc::SYS_capset,
        &[address, address + 8],
    )?;
    for capability in (0..CAPABILITIES).filter(|capability| ambient & (1 << capability) != 0) {
        let arguments = [
            libc::PR_CAP_AMBIENT as u64,
            libc::PR_CAP_AMBIENT_RAISE as u64,
            capability,
            0,
            0,
        ];
        thread.call("raise an ambient capability", libc::SYS_prctl, &arguments)?;
    }
    Ok(())
}
