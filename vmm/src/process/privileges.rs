//! Privileges that the processes of an image would have.
//!
//! An image names the users, groups and capabilities of its processes, and the agent gives them
//! just these. It also names the files that they have open, and the agent, which is root, opens
//! those for them. The host looks into an image that came from elsewhere before the guest sees any
//! of it, with the same decoder as the agent.

use std::path::PathBuf;
use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use nvvmm_process::image::{
    Credentials, HeldKind, Image, Mapped, OpenFile, SocketState, Special, What,
};

/// Devices that any process can open, and that have no state.
const HARMLESS_DEVICES: [&[u8]; 5] = [
    b"/dev/null",
    b"/dev/zero",
    b"/dev/full",
    b"/dev/random",
    b"/dev/urandom",
];

/// Names the first privilege that a process of `image` would have, if there is any: the user or
/// the group 0, a capability, a file that is open, or one that it can write through its memory.
///
/// # Errors
/// The bytes are no image, or one of a version that this program does not read.
pub fn first_privilege(image: &[u8]) -> Result<Option<String>, nvvmm_process::Error> {
    let image = Image::decode(image)?;
    let found = image.processes.iter().find_map(|process| {
        let mut threads = process.threads.iter();
        let what = threads.find_map(|thread| privilege_of(&thread.credentials))?;
        Some(format!("process {} of it would have {what}", process.pid))
    });
    let found = found.or_else(|| pair_of_root(&image));
    let found = found.or_else(|| held_as_root(&image));
    let found = found.or_else(|| image.files.iter().find_map(socket_of_root));
    let found = found.or_else(|| root_directory(&image));
    Ok(found.or_else(|| file_opened_as_root(&image)))
}

/// A pair of sockets names its maker to whoever it is given to.
fn pair_of_root(image: &Image) -> Option<String> {
    let is_of_root = |&(_, user, group): &(i32, u32, u32)| user == 0 || group == 0;
    let mut makers = image.pairs.iter().map(|pair| pair.maker);
    makers.find(is_of_root).map(|(pid, ..)| {
        format!("a pair of sockets of it would say that root has made it (process {pid})")
    })
}

/// Memory and files whose content is in the image: what the agent makes of them as root, and an
/// ordinary user could not make.
fn held_as_root(image: &Image) -> Option<String> {
    const SET_ID: u32 = 0o6000;
    image.held.iter().find_map(|file| match &file.kind {
        _ if file.mode & SET_ID != 0 => {
            Some("a file of it would run as another user (set-user-ID)".to_owned())
        }
        HeldKind::Deleted { directory } => Some(format!(
            "a file of it would be made in {}, by the agent as root",
            String::from_utf8_lossy(directory)
        )),
        HeldKind::Segment { id, .. } => Some(format!(
            "the segment {id} of System V memory would be made or taken by the agent as root"
        )),
        HeldKind::Anonymous | HeldKind::Memory { .. } => None,
    })
}

/// A socket that an ordinary user could not make: the agent makes it as root.
fn socket_of_root(file: &OpenFile) -> Option<String> {
    const FIRST_PORT: u16 = 1024;
    let What::Socket(socket) = &file.what else {
        return None;
    };
    if let Some(path) = socket.path() {
        return Some(format!(
            "a socket of it would be made at {}, by the agent as root",
            path.display()
        ));
    }
    let port = socket.port().filter(|port| (1..FIRST_PORT).contains(port));
    if let Some(port) = port {
        return Some(format!("a socket of it would have the port {port}"));
    }
    let of_root = matches!(socket.state, SocketState::Listening { listener: (_, user, group), .. }
        if socket.is_unix() && (user == 0 || group == 0));
    if of_root {
        return Some("a socket of it would say that root listens".to_owned());
    }
    let is_special = socket.needs_privileges() || !socket.groups.is_empty();
    is_special.then(|| "a socket of it would have options that only root can set".to_owned())
}

/// A root directory that a process could not choose for itself.
fn root_directory(image: &Image) -> Option<String> {
    let mut confined = image.confined.iter();
    let other = confined.find(|confined| confined.root != b"/")?;
    Some(format!(
        "a process of it would have the root directory {}",
        String::from_utf8_lossy(&other.root)
    ))
}

/// The first file that the agent would open or watch for the processes, and that they might not be
/// able to open themselves. Files that are mapped privately must be those of the capture, to their
/// length and time, and cannot be written: an ordinary program has its libraries so.
fn file_opened_as_root(image: &Image) -> Option<String> {
    let open = image.files.iter().find_map(|file| match &file.what {
        What::File { path, .. } => Some(path),
        What::NamedPipe { path, .. } => Some(path),
        What::Device { path, .. } => (!HARMLESS_DEVICES.contains(&&path[..])).then_some(path),
        What::Special(Special::Watches(watches)) => {
            watches.watches.first().map(|watch| &watch.path)
        }
        What::PipeEnd { .. }
        | What::Stdio { .. }
        | What::Special(_)
        | What::PollSet { .. }
        | What::SocketEnd { .. }
        | What::Socket(_)
        | What::Held { .. }
        | What::Terminal { .. }
        | What::ProcessFile { .. } => None,
    });
    let mut processes = image.processes.iter();
    let path = open.or_else(|| {
        processes.find_map(|process| {
            let mut mappings = process.mappings.iter();
            mappings.find_map(|mapping| match mapping.what {
                Mapped::SharedFile { file, .. } => {
                    { process.mapped_files.get(file as usize) }.map(|file| &file.path)
                }
                _ => None,
            })
        })
    })?;
    let path = PathBuf::from(OsString::from_vec(path.clone()));
    Some(format!(
        "its processes would have {}, which the agent opens for them as root",
        path.display()
    ))
}

/// The bounding set is none: it gives nothing by itself.
fn privilege_of(credentials: &Credentials) -> Option<String> {
    let ids = &credentials.ids;
    let [inheritable, permitted, effective, _bounding, ambient] = ids.capabilities;
    let capabilities = inheritable | permitted | effective | ambient;
    if ids.users.contains(&0) {
        Some("the user 0 (root)".to_owned())
    } else if ids.groups.contains(&0) || ids.more_groups.contains(&0) {
        Some("the group 0 (root)".to_owned())
    } else if capabilities != 0 {
        Some(format!("capabilities ({capabilities:#x})"))
    } else {
        None
    }
}

#[cfg(test)]
#[path = "privileges_test.rs"]
mod privileges_test;
