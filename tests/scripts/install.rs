//! scripts/install.sh and scripts/package.sh, with a stand-in for cargo.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::place::{Place, ok, refused, root};

/// Puts programs where cargo would: each is a script.
const CARGO: &str = r#"
echo "cargo $*" >>"$HOME/built"
put() {
  mkdir -p "$(dirname "$1")"
  printf '%s\n' '#!/bin/bash' "$2" >"$1"
  chmod 755 "$1"
}
case " $* " in
  *" -p nvvmm-cli "*) put "$CARGO_TARGET_DIR/release/nvvmm" '
      case $1 in
        man) echo page >"$3/nvvmm.1"; echo page >"$3/nvvmm-run.1" ;;
        completions) echo "words of $2" ;;
        --version) echo nvvmm 0.0 ;;
      esac' ;;
  *" -p nvvmm-agent "*)
    put "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/guest/nvvmm-agent" 'echo agent' ;;
  *) put "$CARGO_TARGET_DIR/release/nvvmm-bare-metal" 'echo bare metal' ;;
esac
"#;

/// All that is installed, below the prefix.
const INSTALLED: [&str; 13] = [
    "bin/nvvmm",
    "lib/nvvmm/hooks/restored.d/10-machine-id",
    "lib/nvvmm/hooks/restored.d/20-hostname",
    "lib/nvvmm/hooks/restored.d/30-ssh-host-keys",
    "lib/nvvmm/hooks/restored.d/80-renew-dhcp",
    "lib/nvvmm/hooks/snapshot.d/50-freeze",
    "lib/nvvmm/nvvmm-agent",
    "lib/nvvmm/nvvmm-bare-metal",
    "share/bash-completion/completions/nvvmm",
    "share/fish/vendor_completions.d/nvvmm.fish",
    "share/man/man1/nvvmm-run.1",
    "share/man/man1/nvvmm.1",
    "share/zsh/site-functions/_nvvmm",
];

fn place() -> Place {
    let place = Place::new();
    place.stand_in("cargo", CARGO);
    // The programs are scripts.
    place.stand_in("strip", "true");
    place.stand_in(
        "objdump",
        "echo '0 GLIBC_2.4 x'; echo '0 GLIBC_2.34 x'; echo '0 GLIBC_2.9 x'",
    );
    place
}

/// Files below a directory, without the directory's name, sorted.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(each) = directories.pop() {
        for entry in fs::read_dir(each).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let path = path.strip_prefix(directory).unwrap();
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn an_installation_has_the_guests_programs_and_is_removed_again() {
    let place = place();
    let prefix = place.at("home/.local");
    let install = |options: &[&str]| {
        let mut script = place.script("install.sh");
        script
            .args(["--devices", "no", "--prefix", prefix.to_str().unwrap()])
            .args(options);
        ok(script);
    };
    install(&[]);
    assert_eq!(files(&prefix), INSTALLED);
    let run = ok(Command::new(prefix.join("lib/nvvmm/nvvmm-agent")));
    assert_eq!(run, "agent\n");
    place.write("home/.local/lib/nvvmm/of-the-user", "");
    install(&["--uninstall"]);
    assert_eq!(files(&prefix), ["lib/nvvmm/of-the-user"]);
    fs::remove_file(prefix.join("lib/nvvmm/of-the-user")).unwrap();
    install(&["--uninstall"]);
    assert!(!prefix.join("lib/nvvmm").exists());
}

/// Files of both packages: those of the installation, with man pages compressed, and more.
fn packaged(prefix: &str, documents: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = { INSTALLED.iter() }
        .map(|file| match file.ends_with(".1") {
            true => format!("{prefix}{file}.gz"),
            false => format!("{prefix}{file}"),
        })
        .collect();
    for more in [
        "lib/systemd/system/nvvmm@.service",
        "lib/udev/rules.d/60-nvvmm.rules",
    ] {
        all.push(format!("{prefix}{more}"));
    }
    all.extend(
        documents
            .iter()
            .map(|file| format!("{prefix}share/doc/nvvmm/{file}")),
    );
    all.sort();
    all
}

fn make(place: &Place, options: &[&str]) -> Command {
    let mut script = place.script("package.sh");
    script
        .args(["--output", place.at("out").to_str().unwrap()])
        .args(options);
    script
}

/// The file in `out` with that ending.
fn made(place: &Place, ending: &str) -> PathBuf {
    let name = files(&place.at("out"))
        .into_iter()
        .find(|name| name.ends_with(ending))
        .unwrap();
    place.at("out").join(name)
}

#[test]
fn packages_have_all_that_is_installed_and_their_checksums_are_true() {
    if !Path::new("/usr/bin/dpkg-deb").exists() {
        println!("SKIPPED: this host has no dpkg-deb");
        return;
    }
    let place = place();
    ok(make(&place, &[]));
    let mut sums = Command::new("sha256sum");
    sums.current_dir(place.at("out"))
        .args(["--strict", "--check", "SHA256SUMS"]);
    let checked = ok(sums);
    assert_eq!(checked.matches(": OK").count(), 2, "{checked}");
    is_a_good_deb(&place);
    is_a_good_archive(&place);

    // Nothing is replaced without being asked for, and the same sources give the same files.
    let before = fs::read(made(&place, "SHA256SUMS")).unwrap();
    assert!(refused(make(&place, &[])).contains("--force replaces it"));
    ok(make(&place, &["--force"]));
    assert_eq!(fs::read(made(&place, "SHA256SUMS")).unwrap(), before);
}

fn is_a_good_deb(place: &Place) {
    let deb = made(place, ".deb");
    let field = |name: &str| {
        let mut show = Command::new("dpkg-deb");
        show.arg("--field").arg(&deb).arg(name);
        ok(show).trim().to_owned()
    };
    assert_eq!(
        (&field("Package")[..], &field("Architecture")[..]),
        ("nvvmm", "amd64")
    );
    assert!(
        field("Depends").contains("libc6 (>= 2.34)"),
        "{}",
        field("Depends")
    );
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--raw-extract").arg(&deb).arg(place.at("deb"));
    ok(unpack);
    let mut expected = packaged("usr/", &["changelog.gz", "copyright"]);
    expected.extend(["control", "md5sums", "postinst"].map(|file| format!("DEBIAN/{file}")));
    expected.sort();
    assert_eq!(files(&place.at("deb")), expected);
    let mut sums = Command::new("md5sum");
    sums.current_dir(place.at("deb"))
        .args(["--strict", "--check", "DEBIAN/md5sums"]);
    ok(sums);
    let unit = fs::read_to_string(place.at("deb/usr/lib/systemd/system/nvvmm@.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/nvvmm run"), "{unit}");
    let mut owners = Command::new("dpkg-deb");
    owners.arg("--contents").arg(&deb);
    assert!(ok(owners).lines().all(|line| line.contains(" root/root ")));
}

fn is_a_good_archive(place: &Place) {
    fs::create_dir(place.at("tar")).unwrap();
    let mut unpack = Command::new("tar");
    unpack
        .arg("-C")
        .arg(place.at("tar"))
        .args(["--strip-components=1", "-xf"])
        .arg(made(place, ".tar.xz"));
    ok(unpack);
    let expected = packaged("", &["CHANGELOG.md", "LICENSE", "README.md"]);
    assert_eq!(files(&place.at("tar")), expected);
    let unit = fs::read_to_string(place.at("tar/lib/systemd/system/nvvmm@.service")).unwrap();
    assert!(
        unit.contains("ExecStart=/usr/local/bin/nvvmm run"),
        "{unit}"
    );
}

#[test]
#[ignore = "builds everything with optimisations"]
fn the_real_package_has_programs_that_run() {
    let place = Place::with_packages_of_the_host();
    let mut script = Command::new(root().join("scripts/package.sh"));
    script.arg("--output").arg(place.at("out"));
    ok(script);
    let mut unpack = Command::new("dpkg-deb");
    unpack
        .arg("--extract")
        .arg(made(&place, ".deb"))
        .arg(place.at("deb"));
    ok(unpack);
    let mut version = Command::new(place.at("deb/usr/bin/nvvmm"));
    version.arg("--version");
    assert!(ok(version).starts_with("nvvmm "));
    for program in ["nvvmm-agent", "nvvmm-bare-metal"] {
        let mut linked = Command::new("readelf");
        linked
            .arg("--program-headers")
            .arg(place.at("deb/usr/lib/nvvmm").join(program));
        assert!(!ok(linked).contains("INTERP"), "{program} is not static");
    }
    let mut page = Command::new("zcat");
    page.arg(place.at("deb/usr/share/man/man1/nvvmm-run.1.gz"));
    assert!(ok(page).contains("nvvmm run"));
}
