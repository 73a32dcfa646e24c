//! Kernels from packages of each layout, in a repository that is made up here.

use std::{fs, path::Path, process::Command};

use crate::place::{Place, ok, refused, root};

const VERSION: &str = "9.8.7+deb99-cloud-amd64";

/// A package and its files.
type Package = (&'static str, &'static [&'static str]);

/// Debian until 2025: everything is in the image's package.
const OLD_DEBIAN: &[Package] = &[(
    "linux-image",
    &["boot/vmlinuz-V", "lib/modules/V/kernel/module"],
)];
/// The same with the modules in /usr, as Debian 13 has them.
const DEBIAN: &[Package] = &[(
    "linux-image",
    &["boot/vmlinuz-V", "usr/lib/modules/V/kernel/module"],
)];
/// Debian from 2026 on: the image's package is empty.
const NEW_DEBIAN: &[Package] = &[
    ("linux-image", &["usr/share/doc/linux"]),
    ("linux-base", &["usr/lib/modules/V/modules.order"]),
    ("linux-binary", &["usr/lib/modules/V/vmlinuz"]),
    ("linux-modules", &["usr/lib/modules/V/kernel/module"]),
];
const UBUNTU: &[Package] = &[
    ("linux-image", &["boot/vmlinuz-V"]),
    ("linux-modules", &["lib/modules/V/kernel/module"]),
    ("linux-modules-extra", &["lib/modules/V/kernel/extra"]),
];
/// Some packages in /lib, some in /usr/lib.
const MIXED: &[Package] = &[
    ("linux-image", &["lib/modules/V/kernel/module"]),
    ("linux-binary", &["usr/lib/modules/V/vmlinuz"]),
];
const WITHOUT_KERNEL: &[Package] = &[("linux-image", &["lib/modules/V/kernel/module"])];
const WITHOUT_MODULES: &[Package] = &[("linux-image", &["boot/vmlinuz-V"])];

/// Makes the packages and the index of a repository.
fn make_repository(place: &Place, packages: &[Package]) {
    let mut index = String::new();
    fs::create_dir(place.at("repository")).unwrap();
    // One that is always there, and of another kernel.
    let other: Package = ("linux-binary-0", &["usr/lib/modules/0/vmlinuz"]);
    for (kind, files) in packages.iter().chain([&other]) {
        let name = format!("{kind}-{VERSION}");
        for file in *files {
            let file = file.replace('V', VERSION);
            place.write(&format!("{name}/{file}"), &format!("{kind} {file}"));
        }
        let control = format!(
            "Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: none <n@invalid>\n\
             Description: test\n"
        );
        place.write(&format!("{name}/DEBIAN/control"), &control);
        let deb = place.at("repository").join(format!("{name}_1_amd64.deb"));
        let mut build = Command::new("dpkg-deb");
        build
            .args(["-Znone", "--build"])
            .arg(place.at(&name))
            .arg(&deb);
        ok(build);
        let mut sum = Command::new("sha256sum");
        sum.arg(&deb);
        let sum = ok(sum);
        index += &format!(
            "{control}Filename: ./{name}_1_amd64.deb\nSize: {}\nSHA256: {}\n\n",
            fs::metadata(&deb).unwrap().len(),
            sum.split(' ').next().unwrap()
        );
    }
    place.write("repository/Packages", &index);
}

/// The function of scripts/lib/kernel.sh, with apt programs that know that repository only.
fn unpack(place: &Place) -> Command {
    for directory in ["apt/lists/partial", "apt/cache/archives/partial"] {
        fs::create_dir_all(place.at(directory)).unwrap();
    }
    let base = place.at("");
    let base = base.display();
    place.write(
        "apt/sources.list",
        &format!("deb [trusted=yes arch=amd64] file:{base}/repository ./\n"),
    );
    place.write(
        "apt/conf",
        &format!(
            "Dir::Etc::sourcelist \"{base}/apt/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::State::lists \"{base}/apt/lists\";\nDir::Cache \"{base}/apt/cache\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n"
        ),
    );
    let lib = root().join("scripts/lib");
    let script = format!(
        "set -euo pipefail; cd '{}'; source say.sh; source tree.sh; source packages.sh; \
         source kernel.sh; apt-get -qq update >&2; \
         unpack_kernel linux-image-{VERSION} '{base}/out'",
        lib.display()
    );
    let mut command = place.command("bash");
    command
        .args(["-c", &script])
        .env("APT_CONFIG", place.at("apt/conf"));
    command
}

fn has_apt() -> bool {
    let has = ["/usr/bin/apt-get", "/usr/bin/dpkg-deb", "/usr/sbin/depmod"];
    let has = has.iter().all(|program| Path::new(program).exists());
    if !has {
        println!("SKIPPED: this host has no apt-get, dpkg-deb or depmod");
    }
    has
}

#[test]
fn kernels_of_every_layout_of_packages_are_unpacked() {
    if !has_apt() {
        return;
    }
    for (name, packages) in [
        ("old Debian", OLD_DEBIAN),
        ("Debian", DEBIAN),
        ("new Debian", NEW_DEBIAN),
        ("Ubuntu", UBUNTU),
        ("mixed", MIXED),
    ] {
        let place = Place::with_packages_of_the_host();
        make_repository(&place, packages);
        ok(unpack(&place));
        let kernel = fs::read_to_string(place.at("out/boot").join(format!("vmlinuz-{VERSION}")));
        assert!(kernel.unwrap().contains("vmlinuz"), "{name}");
        let modules = place.at("out/lib/modules").join(VERSION);
        assert!(modules.join("kernel/module").exists(), "{name}");
        assert!(modules.join("modules.dep").exists(), "{name}");
        assert_eq!(
            modules.join("kernel/extra").exists(),
            name == "Ubuntu",
            "{name}"
        );
        let version = fs::read_to_string(place.at("out/version")).unwrap();
        assert_eq!(version.trim(), VERSION, "{name}");
    }
}

#[test]
fn packages_without_a_kernel_or_without_modules_are_refused_and_leave_nothing() {
    if !has_apt() {
        return;
    }
    for (packages, lack) in [
        (WITHOUT_KERNEL, "has no kernel for"),
        (WITHOUT_MODULES, "has no modules for"),
    ] {
        let place = Place::with_packages_of_the_host();
        make_repository(&place, packages);
        let message = refused(unpack(&place));
        assert!(message.contains(lack), "{message}");
        assert!(!place.at("out").exists());
    }
}

#[test]
#[ignore = "fetches 40 MB from Debian; the kernel of trixie-backports has the newest layout"]
fn a_kernel_of_debians_backports_is_unpacked() {
    let place = Place::with_packages_of_the_host();
    let script = "set -euo pipefail; cd \"$1\"; source say.sh; source tree.sh; source packages.sh; \
                  source kernel.sh; from_suite trixie-backports fetch_kernel cloud \"$2\"; \
                  unpack_bzimage \"$2/boot/vmlinuz-$(<\"$2/version\")\" \"$2/vmlinux\"; \
                  mkdir \"$2/tree\"; add_modules \"$2\" \"$2/tree\" virtio_mmio overlay ext4 2>&1; \
                  ls \"$2/tree/modules\"";
    let mut command = place.command("bash");
    command
        .args(["-c", script, "kernel"])
        .arg(root().join("scripts/lib"))
        .arg(place.at("out"));
    let modules = ok(command);
    assert!(
        modules.contains("virtio_mmio.ko") && modules.contains("overlay.ko"),
        "{modules}"
    );
}
