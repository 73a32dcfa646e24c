//! Runs the blocks of documents in an nvvmm installation of their own.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use nvvmm_tests::Outcome;

use crate::{
    markdown::{Block, Document, Marker, Step, root},
    session::{Answer, Session},
    transcript,
};

/// Variable that has output written to the documents: `1` where it differs, `all` also where only
/// numbers differ, `full` also in place of output that the document shortens. Any value has a
/// document go on after a command that failed.
const UPDATE: &str = "NVVMM_DOCUMENTS_UPDATE";
/// Places as documents show them.
const SHOWN_RUNTIME: &str = "/run/nvvmm";
const SHOWN_POOL: &str = "/dev/shm/nvvmm-root.pool";
/// A pool that documents make and delete.
const SHOWN_SECOND_POOL: &str = "/dev/shm/nvvmm-book.pool";
/// Room for three Linux guests.
const POOL_SIZE: &str = "1G";
/// Room for three guests with Debian.
const QUICKSTART_POOL_SIZE: &str = "2G";

/// Directories and a pool that nothing else uses. Dropping it ends its VMs.
struct Place {
    base: tempfile::TempDir,
    pool: PathBuf,
    second_pool: PathBuf,
}

impl Place {
    fn new(number: usize) -> Self {
        let base = tempfile::tempdir().unwrap();
        for directory in ["run", "work", "bin", "home"] {
            fs::create_dir(base.path().join(directory)).unwrap();
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(base.path().join(directory), private).unwrap();
        }
        // The source tree, without what commands may want to write beside it.
        for entry in fs::read_dir(root()).unwrap().flatten() {
            if ![".git", "target"]
                .map(Into::into)
                .contains(&entry.file_name())
            {
                symlink(
                    entry.path(),
                    base.path().join("work").join(entry.file_name()),
                )
                .unwrap();
            }
        }
        // As long as the paths that are shown, or columns would have other widths.
        let number = (std::process::id() as usize * 16 + number) & 0xffff;
        Self {
            base,
            pool: format!("/dev/shm/nvvmm-{number:04x}.pool").into(),
            second_pool: format!("/dev/shm/nvvm2-{number:04x}.pool").into(),
        }
    }

    fn at(&self, directory: &str) -> PathBuf {
        self.base.path().join(directory)
    }

    /// A program with the environment of the commands.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(self.at("work"))
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("NVVMM_RUNTIME_DIR", self.at("run"))
            .env("NVVMM_POOL", &self.pool)
            .env("COLUMNS", "100")
            .env_remove("NVVMM_LOG");
        command
    }

    /// Runs a command of the program, which must succeed; the pool's shown path means its real one.
    fn nvvmm(&self, arguments: &[&str]) {
        let mut command = self.command(self.at("bin/nvvmm"));
        for argument in arguments {
            match *argument {
                SHOWN_POOL => command.arg(&self.pool),
                other => command.arg(other),
            };
        }
        Outcome::of(command).ok();
    }

    fn bash(&self) -> Command {
        let mut command = self.command("bash");
        command.args(["--noprofile", "--norc"]);
        command
    }

    /// A document's command with the real path of the second pool.
    fn real(&self, command: &str) -> String {
        command.replace(SHOWN_SECOND_POOL, &self.second_pool.display().to_string())
    }

    /// Output as documents show it.
    fn shown(&self, output: &[String]) -> Vec<String> {
        let places = [
            (self.at("run"), SHOWN_RUNTIME),
            (self.pool.clone(), SHOWN_POOL),
            (self.second_pool.clone(), SHOWN_SECOND_POOL),
            (self.at("home"), "/root"),
        ];
        let show = |line: &String| {
            places.iter().fold(line.clone(), |line, (real, shown)| {
                line.replace(&real.display().to_string(), shown)
            })
        };
        output.iter().map(show).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let nvvmm = self.at("bin/nvvmm");
        for entry in fs::read_dir(self.at("run")).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_socket = path
                .extension()
                .is_some_and(|extension| extension == "sock");
            if let Some(name) = path.file_stem().filter(|_| is_socket) {
                let mut stop = self.command(&nvvmm);
                let _ = stop.arg("stop").arg(name).arg("--force").output();
            }
        }
        let _ = fs::remove_file(&self.pool);
        let _ = fs::remove_file(&self.second_pool);
    }
}

/// Runs all blocks of one kind in the documents whose paths are `chosen`, one after the other, with
/// `nvvmm` being that program. The VMs of each document must leave a pool in order.
pub fn run_all(marker: &Marker, nvvmm: &Path, chosen: impl Fn(&str) -> bool) {
    let mut failures = Vec::new();
    let mut count = 0;
    for (number, document) in Document::all().iter().enumerate() {
        let blocks = document.blocks_of(marker);
        if blocks.is_empty() || !chosen(&document.path) {
            continue;
        }
        let place = Place::new(number);
        symlink(nvvmm, place.at("bin/nvvmm")).unwrap();
        place.nvvmm(&["pool", "create", SHOWN_POOL, "--size", POOL_SIZE]);
        count += run_blocks(document, &blocks, &place, place.bash(), &mut failures);
        place.nvvmm(&["pool", "check"]);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count > 0, "no document has a command to run");
}

/// Runs the beginning of the quickstart in the empty directory `base`: a clone of this source tree,
/// an installation, an image. Root installs below `base`, others in a home directory there.
pub fn prepare_quickstart(readme: &Document, base: &Path) {
    let place = Place::new(0);
    let mut bash = place.bash();
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    for (variable, directory) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        if std::env::var_os(variable).is_none() {
            bash.env(variable, home.join(directory));
        }
    }
    if nix::unistd::geteuid().is_root() {
        bash.env("DESTDIR", base.join("installed"));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = [
        base.join("installed/usr/local/bin"),
        base.join("home/.local/bin"),
    ];
    let [root, user] = programs.map(|directory| directory.display().to_string());
    fs::create_dir(base.join("home")).unwrap();
    bash.current_dir(base)
        .env("HOME", base.join("home"))
        .env("PATH", format!("{root}:{user}:{path}"))
        .env_remove("NVVMM_POOL")
        .env_remove("NVVMM_RUNTIME_DIR")
        // The clone comes from here.
        .env("GIT_CONFIG_COUNT", "1")
        .env(
            "GIT_CONFIG_KEY_0",
            format!("url.{}.insteadOf", self::root().display()),
        )
        .env("GIT_CONFIG_VALUE_0", "https://github.com/nvvmm/nvvmm");
    let mut failures = Vec::new();
    let blocks = readme.blocks_of(&Marker::Quickstart);
    assert!(run_blocks(readme, &blocks, &place, bash, &mut failures) > 0);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs the rest of the quickstart in the clone, with the program that was installed there.
pub fn run_quickstart(readme: &Document, base: &Path) {
    let place = Place::new(0);
    let installed = ["installed/usr/local/bin/nvvmm", "home/.local/bin/nvvmm"];
    let installed = installed.map(|path| base.join(path));
    let nvvmm = installed.iter().find(|path| path.exists());
    symlink(nvvmm.expect("nvvmm is installed"), place.at("bin/nvvmm")).unwrap();
    place.nvvmm(&["pool", "create", SHOWN_POOL, "--size", QUICKSTART_POOL_SIZE]);
    let mut bash = place.bash();
    bash.current_dir(base.join("nvvmm"));
    let mut failures = Vec::new();
    let blocks = readme.blocks_of(&Marker::Linux);
    assert!(run_blocks(readme, &blocks, &place, bash, &mut failures) > 0);
    place.nvvmm(&["pool", "check"]);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs blocks in a home directory of their own, with nothing installed.
pub fn run_installation() {
    let mut failures = Vec::new();
    for (number, document) in Document::all().iter().enumerate() {
        let blocks = document.blocks_of(&Marker::Install);
        if blocks.is_empty() {
            continue;
        }
        let place = Place::new(number);
        let mut bash = place.bash();
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        for (variable, directory) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(variable).is_none() {
                bash.env(variable, home.join(directory));
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", place.at("home/.local/bin").display());
        // What is built is kept in the tree.
        bash.current_dir(root())
            .env("HOME", place.at("home"))
            .env("PATH", path);
        run_blocks(document, &blocks, &place, bash, &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs blocks in one shell, and returns the number of their commands.
fn run_blocks(
    document: &Document,
    blocks: &[Block],
    place: &Place,
    bash: Command,
    failures: &mut Vec<String>,
) -> usize {
    let update = std::env::var(UPDATE).unwrap_or_default();
    let mut session = Session::start(bash);
    let mut edits = Vec::new();
    let steps: Vec<&Step> = blocks.iter().flat_map(|block| &block.steps).collect();
    for step in &steps {
        let spot = format!("{}:{}: {}", document.path, step.line, step.command);
        println!("{spot}");
        let command = place.real(&step.command);
        let Answer { output, code } = match command.starts_with("nvvmm console ") {
            true => session.talk(&command, &step.output),
            false => session.run(&command),
        };
        let output = place.shown(&output);
        if code != 0 {
            failures.push(format!("{spot}\nended with {code}:\n{}", output.join("\n")));
            // Later commands build on it.
            if update.is_empty() {
                break;
            }
            continue;
        }
        let is_alike = transcript::is_alike(&step.output, &output);
        let is_updated = match &update[..] {
            "1" => !is_alike,
            "all" => !is_alike || !transcript::is_shortened(&step.output),
            "full" => true,
            _ => false,
        };
        if is_updated {
            edits.push((step.output_at..step.output_at + step.output.len(), output));
        } else if !is_alike {
            let (shown, output) = (step.output.join("\n"), output.join("\n"));
            failures.push(format!("{spot}\n-- shown:\n{shown}\n-- real:\n{output}"));
        }
    }
    if !edits.is_empty() {
        document.write(&edits);
    }
    steps.len()
}
