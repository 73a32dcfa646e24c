//! Process groups whose leader has ended, and was waited for: the number is in use as long as the
//! group has members, or is the foreground of a terminal.

use std::collections::HashSet;

use crate::error::Pid;
use crate::image::Image;

/// The leader of a group that had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoneLeader {
    /// Its number, and that of the group.
    pub pid: Pid,
    /// Its session.
    pub session: Pid,
    /// Index of the leader of its session in the image's processes.
    pub parent: u32,
}

/// The leaders of groups of the image's sessions that had ended.
pub fn gone_leaders(image: &Image) -> Vec<GoneLeader> {
    let running = image.processes.iter().map(|process| process.pid);
    let ended = image.ended.iter().map(|child| child.pid);
    let mut known: HashSet<Pid> = running.chain(ended).collect();
    let running = image.processes.iter();
    let running = running.map(|process| (process.group, process.session));
    let ended = image.ended.iter().map(|child| (child.group, child.session));
    let terminals = image.terminals.iter();
    let terminals = terminals.map(|terminal| (terminal.foreground, terminal.session));
    let mut found = Vec::new();
    for (pid, session) in running.chain(ended).chain(terminals) {
        let parent = image
            .processes
            .iter()
            .position(|process| (process.pid, process.session) == (session, session));
        if let Some(parent) = parent
            && pid > 0
            && known.insert(pid)
        {
            let parent = parent as u32;
            found.push(GoneLeader {
                pid,
                session,
                parent,
            });
        }
    }
    found
}
