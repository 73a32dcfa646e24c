use std::fs;

use super::*;

fn persistent(domain: Option<&str>) -> Below {
    Below::Persistent {
        region: "region3".to_owned(),
        domain: domain.map(str::to_owned),
    }
}

/// The ordinary cases of what can be under a medium.
fn belows(medium: Medium) -> Vec<Below> {
    match medium {
        Medium::Tmpfs | Medium::Hugetlbfs => vec![Below::HostMemory(medium.name().to_owned())],
        Medium::Fsdax | Medium::Devdax => {
            vec![persistent(Some("memory_controller")), persistent(None)]
        }
        Medium::File => vec![Below::Other],
    }
}

/// The contract as a table in Markdown.
fn table() -> String {
    let mishaps = [
        ("a VM process ends", Durability::Process),
        ("`kill -9`", Durability::Process),
        ("host crash, restart", Durability::Host),
        ("power cut", Durability::Power),
    ];
    let mut text = String::from("| pool on |");
    mishaps
        .iter()
        .for_each(|(what, _)| text.push_str(&format!(" {what} |")));
    text.push_str(" strongest `--durability` |\n|---|---|---|---|---|---|\n");
    for medium in Medium::ALL {
        let limits: Vec<DurabilityLimit> = belows(medium)
            .iter()
            .map(|below| limit(medium, below))
            .collect();
        text.push_str(&format!("| {medium} |"));
        for (_, survives) in mishaps {
            let keeping: Vec<&DurabilityLimit> = limits
                .iter()
                .filter(|limit| limit.strongest >= survives)
                .collect();
            let outcome = match (keeping.len(), medium, survives) {
                (0, ..) => "lost".to_owned(),
                (_, Medium::File, Durability::Power) => format!("kept {}", keeping[0].reason),
                (count, ..) if count == limits.len() => "kept".to_owned(),
                _ => "kept if the platform has a persistence domain".to_owned(),
            };
            text.push_str(&format!(" {outcome} |"));
        }
        let strongest: Vec<String> = limits
            .iter()
            .map(|limit| format!("`{}`", limit.strongest))
            .collect();
        text.push_str(&format!(" {} |\n", strongest.join(", else ")));
    }
    text
}

#[test]
fn the_documents_show_the_contract_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for document in ["docs/using/what-survives.md", "docs/inside/media.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let copies = text.matches(&table()).count();
        assert_eq!(copies, 1, "{document} has not this table:\n{}", table());
    }
}

#[test]
fn no_pool_promises_more_than_what_is_under_it_can() {
    for medium in [Medium::Fsdax, Medium::Devdax, Medium::File] {
        let strongest = |below| limit(medium, &below).strongest;
        assert_eq!(
            strongest(Below::HostMemory("ramfs".to_owned())),
            Durability::Process
        );
        assert_eq!(strongest(persistent(None)), Durability::Host);
        assert_eq!(strongest(persistent(Some("unknown"))), Durability::Host);
        assert_eq!(strongest(persistent(Some("cpu_cache"))), Durability::Power);
    }
    // Not the ordinary cases: a DAX device that is soft-reserved memory, a DAX file system on
    // something virtual.
    assert_eq!(
        limit(Medium::Devdax, &Below::Other).strongest,
        Durability::Process
    );
    assert_eq!(
        limit(Medium::Fsdax, &Below::Other).strongest,
        Durability::Host
    );
}

#[test]
fn durabilities_are_named_as_they_are_read() {
    for durability in Durability::ALL {
        assert_eq!(durability.name().parse(), Ok(durability));
    }
    assert!(Durability::ALL.is_sorted() && "Power".parse::<Durability>().is_err());
}

#[test]
fn the_persistence_domain_is_that_of_the_device_s_region() {
    let sysfs = tempfile::tempdir().unwrap();
    let device = |path: &str| {
        let path = sysfs.path().join(path);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let emulated = device("e820_pmem/ndbus0/region0/namespace0.0/block/pmem0");
    assert_eq!(
        below_device(&emulated),
        Below::Persistent {
            region: "region0".to_owned(),
            domain: None
        }
    );
    let partition = device("ACPI0012/ndbus1/region3/btt3.0/block/pmem3s/pmem3s1");
    fs::write(
        sysfs
            .path()
            .join("ACPI0012/ndbus1/region3/persistence_domain"),
        "memory_controller\n",
    )
    .unwrap();
    assert_eq!(
        below_device(&partition),
        persistent(Some("memory_controller"))
    );
    assert_eq!(
        below_device(&device("virtual/block/ram0")),
        Below::HostMemory("the RAM disk ram0".to_owned())
    );
    for other in [
        "pci0000:00/virtio1/block/vda",
        "platform/hmem.0/dax0.0",
        "virtual/block/region5",
    ] {
        assert_eq!(below_device(&device(other)), Below::Other, "{other}");
    }
    assert_eq!(below_device(Path::new("/nowhere")), Below::Other);
}

#[test]
fn memory_file_systems_keep_nothing_over_a_restart() {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let found = durability_limit(&file, Medium::Tmpfs).unwrap();
    assert_eq!(found.strongest, Durability::Process);
    assert!(
        found.reason.contains("memory of the host"),
        "{}",
        found.reason
    );
}
