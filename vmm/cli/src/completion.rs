//! Completion of commands, options, and names of VMs and snapshots, by the shell's Tab key.
//!
//! The script of a shell runs `nvvmm` again for each Tab, with the variable [`VARIABLE`] and the
//! words so far. Nothing is printed and nothing is made when the names cannot be found: a Tab is no
//! command.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter as _};
use clap_complete::env::{EnvCompleter, Shells};
use nvvmm::VmError;
use nvvmm::control::RuntimeDir;
use nvvmm_snapshot::{MapKind, Pool};

use super::args::{Arguments, PoolOption};
use super::names::running;
use super::{output, pool_path};

/// Variable that has a completion answered, for the shell that is its value.
const VARIABLE: &str = "NVVMM_COMPLETE";
/// Most names of a pool or of VMs that are offered.
const NAMES_MAX: usize = 1000;

/// The script by which `shell` completes words for nvvmm.
///
/// # Errors
/// The engine has no script for this shell.
pub fn script(shell: Shell) -> Result<String, VmError> {
    let failed = |why: String| VmError::failed(format!("there is no completion script: {why}"));
    let name = shell.to_string();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&name)
        .ok_or_else(|| failed(name.clone()))?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, "nvvmm", "nvvmm", "nvvmm", &mut script)
        .map_err(|e| failed(e.to_string()))?;
    let script = String::from_utf8(script).map_err(|e| failed(e.to_string()))?;
    Ok(match shell {
        Shell::Bash => whole_words(&script),
        Shell::Zsh => script + ZSH_FIRST,
        _ => script,
    })
}

/// Zsh loads an installed script at the first Tab, as a function of its file's name, and has it
/// answer that Tab, too.
const ZSH_FIRST: &str = r#"
if [[ "${funcstack[1]}" == _nvvmm ]]; then
    _clap_dynamic_completer_nvvmm "$@"
fi
"#;

/// The script for bash, with words that bash does not split at `@`, `:` and `=`. Bash does by
/// default, and names of checkpoints have an `@`, places of files a `:`.
fn whole_words(script: &str) -> String {
    script
        .replace(BASH_SPLIT, BASH_WHOLE)
        .replace(BASH_FAILED, BASH_TRIMMED)
}

/// The engine's way to get the words, up to the one that is completed.
const BASH_SPLIT: &str = r#"    local words=("${COMP_WORDS[@]}")
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        words[COMP_CWORD]="$2"
    fi
"#;

/// Parts that no space divides are joined again, as far as the cursor.
const BASH_WHOLE: &str = r#"    local line="${COMP_LINE:0:COMP_POINT}" words=() part i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        part="${COMP_WORDS[i]}"
        if [[ $i -gt 0 && "$line" != [[:space:]]* ]]; then
            [[ $i -lt COMP_CWORD ]] || part="$line"
            words[${#words[@]}-1]+="$part"
        else
            line="${line#"${line%%[![:space:]]*}"}"
            [[ $i -lt COMP_CWORD ]] || part="$line"
            words+=("$part")
        fi
        line="${line#"$part"}"
    done
    _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1))
    local whole="${words[_CLAP_COMPLETE_INDEX]}"
"#;

const BASH_FAILED: &str = r#"    if [[ $? != 0 ]]; then
        unset COMPREPLY
"#;

/// Bash replaces what is behind its last separator only.
const BASH_TRIMMED: &str = r#"    local status=$? mark head prefix=""
    for mark in @ : =; do
        head="${whole%"${whole##*"$mark"}"}"
        if [[ "$COMP_WORDBREAKS" == *"$mark"* && ${#head} -gt ${#prefix} ]]; then
            prefix="$head"
        fi
    done
    if [[ $status == 0 ]]; then
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
    if [[ $status != 0 ]]; then
        unset COMPREPLY
"#;

/// Answers a completion, if that is what this process was started for.
pub fn answer_if_asked() -> Option<ExitCode> {
    let shell = std::env::var_os(VARIABLE).filter(|shell| !shell.is_empty())?;
    let shells = Shells::builtins();
    let completer = shells.completer(shell.to_str()?)?;
    Some(match answer(completer) {
        Ok(()) => ExitCode::SUCCESS,
        // The script then offers nothing.
        Err(_) => ExitCode::FAILURE,
    })
}

fn answer(shell: &dyn EnvCompleter) -> Result<(), VmError> {
    let failed = |e: std::io::Error| VmError::io("complete a word", &e);
    let words: Vec<OsString> = words().collect();
    let is_begun = words.last().is_some_and(|word| !word.is_empty());
    let here = std::env::current_dir().ok();
    let mut answer = Vec::new();
    shell
        .write_complete(
            &mut Arguments::command(),
            words,
            here.as_deref(),
            &mut answer,
        )
        .map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    // Bash and zsh say what they want between the candidates.
    let between = std::env::var("_CLAP_IFS").unwrap_or_else(|_| "\n".to_owned());
    output::print_bytes(
        match is_begun {
            true => answer.into_owned(),
            false => without_options(&answer, &between),
        }
        .as_bytes(),
    )
}

/// Candidates for a word that was not begun: options only if there is nothing else.
fn without_options(answer: &str, between: &str) -> String {
    let all = || {
        answer
            .split(between)
            .filter(|candidate| !candidate.is_empty())
    };
    let others: Vec<&str> = all()
        .filter(|candidate| !candidate.starts_with('-'))
        .collect();
    match others.is_empty() {
        true => answer.to_owned(),
        false => others.join(between),
    }
}

/// The words of the command line that is completed.
fn words() -> impl Iterator<Item = OsString> {
    let arguments = std::env::args_os();
    arguments.skip_while(|word| word != "--").skip(1)
}

/// Names of the VMs that run, or are about to.
pub fn vms() -> Vec<CompletionCandidate> {
    candidates(of_user(running).unwrap_or_default())
}

/// Names of VMs that have ended.
pub fn past_vms() -> Vec<CompletionCandidate> {
    candidates(of_user(past).unwrap_or_default())
}

/// Names of VMs that run, and of those that have ended.
pub fn all_vms() -> Vec<CompletionCandidate> {
    let mut names = of_user(past).unwrap_or_default();
    names.extend(of_user(running).unwrap_or_default());
    candidates(names)
}

fn past(dir: &RuntimeDir) -> Result<Vec<String>, VmError> {
    let past = dir.past()?.into_iter();
    Ok(past.map(|life| life.start.vm).collect())
}

/// Names in the runtime directory of this user, if there is one.
fn of_user(names: impl Fn(&RuntimeDir) -> Result<Vec<String>, VmError>) -> Option<Vec<String>> {
    let dir = RuntimeDir::path_of_user();
    let dir = dir.is_dir().then(|| RuntimeDir::at(&dir).ok())??;
    names(&dir).ok()
}

/// Names of the snapshots in the pool that the command line or the environment names.
pub fn snapshots() -> Vec<CompletionCandidate> {
    let names = || -> Option<Vec<String>> {
        let entries = pool_of_words()?.entries().ok()?;
        Some(entries.into_iter().map(|entry| entry.name).collect())
    };
    candidates(names().unwrap_or_default())
}

/// Names of the disks in that pool.
pub fn disks() -> Vec<CompletionCandidate> {
    candidates(names_of_disks().unwrap_or_default())
}

/// Names of the disks in that pool, and of those that its snapshots have: `SNAPSHOT:DISK`.
pub fn disks_and_those_of_snapshots() -> Vec<CompletionCandidate> {
    let of_snapshots = || -> Option<Vec<String>> {
        let entries = pool_of_words()?.entries().ok()?.into_iter();
        let places = entries.flat_map(|entry| {
            let disks = entry.maps.into_iter();
            disks.filter_map(move |map| match map.kind {
                MapKind::Disk(disk) => Some(format!("{}:{disk}", entry.name)),
                _ => None,
            })
        });
        Some(places.collect())
    };
    let mut places = of_snapshots().unwrap_or_default();
    places.extend(names_of_disks().unwrap_or_default());
    candidates(places)
}

fn names_of_disks() -> Option<Vec<String>> {
    let disks = pool_of_words()?.disks().ok()?.into_iter();
    Some(disks.map(|disk| disk.name).collect())
}

fn pool_of_words() -> Option<Arc<Pool>> {
    let path = pool_path::found_if_any(&PoolOption::of(pool_in(words()))).ok()??;
    Pool::open(&path).ok()
}

/// The value of `--pool` among these words.
fn pool_in(words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let mut words = words;
    while let Some(word) = words.next() {
        if word == "--pool" {
            return words.next().map(PathBuf::from);
        }
        let value = word.to_str().and_then(|word| word.strip_prefix("--pool="));
        if let Some(value) = value {
            return Some(PathBuf::from(value));
        }
    }
    None
}

/// The newest names come last in both lists, and are the ones that are looked for.
fn candidates(names: Vec<String>) -> Vec<CompletionCandidate> {
    let skipped = names.len().saturating_sub(NAMES_MAX);
    let names = names.into_iter().skip(skipped);
    names.map(CompletionCandidate::new).collect()
}

/// Places of `nvvmm cp`: files of the host, and `VM:`, behind which the guest's path comes.
pub fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    let vms = vms().into_iter();
    let vms = vms.map(|vm| {
        let mut place = vm.get_value().to_owned();
        place.push(":");
        CompletionCandidate::new(place)
    });
    let typed = current.to_string_lossy();
    let vms = vms.filter(|vm| vm.get_value().to_string_lossy().starts_with(&*typed));
    vms.chain(PathCompleter::any().complete(current)).collect()
}

#[cfg(test)]
#[path = "completion_test.rs"]
mod completion_test;
