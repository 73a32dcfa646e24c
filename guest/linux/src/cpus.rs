//! The guest's CPUs: which there are, work on each of them.

use crate::sys;
use std::io;
use std::thread;

/// Numbers of the CPUs that are online.
pub fn online() -> io::Result<Vec<usize>> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    parse_list(list.trim()).ok_or_else(|| io::Error::other(format!("not a list of CPUs: {list}")))
}

/// Parses the kernel's list format, such as `0-2,5`.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

/// Runs `work` on every online CPU at the same time and gives the results in the order of the CPUs.
pub fn on_each<T: Send>(
    work: impl Fn(usize) -> io::Result<T> + Sync,
) -> io::Result<Vec<(usize, T)>> {
    let work = &work;
    thread::scope(|scope| {
        let started: Vec<_> = online()?
            .into_iter()
            .map(|cpu| {
                let pinned = move || {
                    sys::pin_to_cpu(cpu)?;
                    work(cpu)
                };
                (cpu, scope.spawn(pinned))
            })
            .collect();
        started
            .into_iter()
            .map(|(cpu, thread)| match thread.join() {
                Ok(result) => result.map(|result| (cpu, result)),
                Err(_) => Err(io::Error::other(format!(
                    "the thread on CPU {cpu} ended badly"
                ))),
            })
            .collect()
    })
}

#[cfg(test)]
#[path = "cpus_test.rs"]
mod cpus_test;
