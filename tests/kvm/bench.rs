//! `nvvmm bench` measures the experiments that it names, and checks the memory of each VM that it
//! restores.

use std::path::Path;

use nvvmm_tests::{Engine, Host, required};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Runs `nvvmm bench` on the medium under test. If its pages are huge, shared memory is measured
/// beside it.
fn bench(host: &Host, out: &Path, arguments: &[&str]) -> Value {
    let dir = host
        .pool()
        .parent()
        .expect("a pool is in a directory")
        .to_owned();
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let [dir, guest, out] = [&*dir, &*guest, out].map(|path| path.to_str().unwrap());
    let mut all = vec!["bench"];
    all.extend_from_slice(arguments);
    all.extend(["--guest", guest, "--out", out]);
    all.extend([
        if has_huge_pages(host) {
            "--huge-dir"
        } else {
            "--dir"
        },
        dir,
    ]);
    host.json(&all)
}

/// True if the benchmark can run on the medium. It needs a directory: copying writes files beside
/// the pool.
fn can_be_measured(host: &Host) -> bool {
    let can = !host.medium().is_device();
    if !can {
        println!(
            "left out on {}: it has no room beside the pool",
            host.medium().name()
        );
    }
    can
}

fn has_huge_pages(host: &Host) -> bool {
    host.medium().granule_bytes() > 4096
}

#[test]
fn the_papers_experiments_are_complete_and_verified() {
    let host = Host::without_pool();
    let out = tempfile::tempdir().unwrap();
    let report = bench(
        &host,
        out.path(),
        &["paper", "--sizes", "4M,8M", "--repeat", "2"],
    );
    let paper = &report["experiments"][0];
    assert_eq!(paper["experiment"], "paper");
    let mut checkpoints = vec!["copy", "reference"];
    let mut restarts = vec!["copy", "reference", "reference, lazy restore"];
    if has_huge_pages(&host) {
        checkpoints.extend(["copy, huge pages", "reference, huge pages"]);
        checkpoints.sort_unstable();
        restarts.extend([
            "copy, huge pages",
            "reference, huge pages",
            "reference, huge pages, lazy restore",
        ]);
        restarts.sort_unstable();
    }
    let touched = (4 + 8) * MIB;
    assert_eq!(paper["verified_bytes"], 2 * restarts.len() as u64 * touched);
    for (chart, series) in [("checkpoint", checkpoints), ("restart", restarts)] {
        let charts = paper["charts"].as_array().unwrap();
        let found = charts
            .iter()
            .find(|found| found["file"] == chart)
            .expect(chart);
        let mut names: Vec<&str> = Vec::new();
        for curve in found["curves"].as_array().unwrap() {
            names.push(curve["curve"].as_str().unwrap());
            let points = curve["points"].as_array().unwrap();
            let places: Vec<i64> = points
                .iter()
                .map(|point| point["x_parts"].as_i64().unwrap())
                .collect();
            assert_eq!(places, [4_000_000, 8_000_000], "{curve}");
            for point in points {
                let measured = point["measured_parts"].as_array().unwrap();
                assert_eq!(measured.len(), 2, "{curve}");
                assert!(
                    measured.iter().all(|ms| ms.as_i64().unwrap() > 0),
                    "{curve}"
                );
            }
        }
        names.sort_unstable();
        assert_eq!(names, series);
        let drawn =
            std::fs::read_to_string(out.path().join(format!("performance/{chart}.svg"))).unwrap();
        assert!(
            drawn.contains("<svg") && drawn.contains("reference"),
            "{chart}"
        );
    }
    let csv = std::fs::read_to_string(out.path().join("performance.csv")).unwrap();
    assert!(csv.contains("\r\npaper,checkpoint,copy,"), "{csv}");
    assert!(report["host"]["load"]["busy"].is_boolean(), "{report}");
    let document = std::fs::read_to_string(out.path().join("performance.md")).unwrap();
    assert!(
        document.contains("performance/checkpoint.svg"),
        "{document}"
    );
    shown_again_it_is_the_same(&host, out.path());
}

fn shown_again_it_is_the_same(host: &Host, out: &Path) {
    let again = tempfile::tempdir().unwrap();
    let json = out.join("performance.json");
    let [json, to] = [&json, again.path()].map(|path| path.to_str().unwrap());
    host.run(&["bench", "--from", json, "--out", to]).ok();
    for name in [
        "performance.md",
        "performance/checkpoint.svg",
        "performance/restart.svg",
    ] {
        let [first, second] =
            [out, again.path()].map(|dir| std::fs::read_to_string(dir.join(name)).unwrap());
        assert_eq!(first, second, "{name}");
    }
}

const EXPERIMENTS: [&str; 6] = ["incremental", "bill", "warm-up", "cow", "space", "sparse"];

#[test]
fn every_experiment_is_complete_and_verified() {
    let host = Host::without_pool();
    if !can_be_measured(&host) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let sizes = ["--sizes", "8M", "--repeat", "1", "--clones", "3"];
    let report = bench(&host, out.path(), &[&EXPERIMENTS[..], &sizes].concat());
    let experiments = report["experiments"].as_array().unwrap();
    let names: Vec<&str> = experiments
        .iter()
        .map(|found| found["experiment"].as_str().unwrap())
        .collect();
    assert_eq!(names, EXPERIMENTS);
    for experiment in experiments {
        assert!(
            experiment["verified_bytes"].as_u64().unwrap() >= 8 * MIB,
            "{experiment}"
        );
        assert!(
            !experiment["targets"].as_array().unwrap().is_empty(),
            "{experiment}"
        );
        tables_and_plots_are_whole(experiment, out.path());
    }
    nothing_is_left(host.pool().parent().unwrap());
}

fn tables_and_plots_are_whole(experiment: &Value, out: &Path) {
    let tables = experiment["tables"].as_array().unwrap();
    assert!(!tables.is_empty(), "{experiment}");
    for table in tables {
        let columns = table["columns"].as_array().unwrap().len();
        let rows = table["rows"].as_array().unwrap();
        assert!(!rows.is_empty(), "{table}");
        assert!(
            rows.iter()
                .all(|row| row.as_array().unwrap().len() == columns),
            "{table}"
        );
    }
    for chart in experiment["charts"].as_array().unwrap() {
        let file = format!("performance/{}.svg", chart["file"].as_str().unwrap());
        assert!(out.join(&file).is_file(), "{file}");
    }
}

#[test]
fn the_curve_of_rates_has_a_ring_at_each_period() {
    let host = Host::without_pool();
    if !can_be_measured(&host) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let report = bench(
        &host,
        out.path(),
        &["rate", "--sizes", "8M", "--repeat", "1", "--cpus", "1"],
    );
    let rate = &report["experiments"][0];
    let curves = rate["charts"][0]["curves"].as_array().unwrap();
    assert_eq!(
        curves.len(),
        1 + usize::from(has_huge_pages(&host)),
        "{rate}"
    );
    for curve in curves {
        let points = curve["points"].as_array().unwrap();
        let places: Vec<i64> = points
            .iter()
            .map(|point| point["x_parts"].as_i64().unwrap())
            .collect();
        assert_eq!(
            places,
            [0, 5, 10, 20, 50, 100].map(|ms| ms * 1_000_000),
            "{curve}"
        );
        for point in points {
            let slowdown = point["measured_parts"][0].as_i64().unwrap();
            assert!(slowdown <= 100_000_000, "{curve}");
        }
    }
    tables_and_plots_are_whole(rate, out.path());
    // All words of three guests: the guest itself, one restored from its newest checkpoint, and the
    // one that was rewound.
    assert!(
        rate["verified_bytes"].as_u64().unwrap() >= 3 * 8 * MIB,
        "{rate}"
    );
    nothing_is_left(host.pool().parent().unwrap());
}

#[test]
fn each_technique_is_measured_with_and_without() {
    // The pool determines the engine.
    let host = Host::new(64);
    if !nvvmm_test_profile::sized(false, true) || !can_be_measured(&host) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let report = bench(
        &host,
        out.path(),
        &["techniques", "--sizes", "8M", "--repeat", "1"],
    );
    let techniques = &report["experiments"][0];
    if host.engine() == Engine::Private {
        assert_eq!(
            techniques["tables"].as_array().unwrap().len(),
            0,
            "{techniques}"
        );
        assert!(
            techniques["limits"][0]
                .as_str()
                .unwrap()
                .contains("kernel copies")
        );
        return;
    }
    tables_and_plots_are_whole(techniques, out.path());
    let rows = techniques["tables"][0]["rows"].as_array().unwrap();
    // Copies of hot frames on each pool. The others are measured where the engine copies clusters.
    let expected = if host.medium().maps_whole_chunks() {
        4 + 1
    } else if has_huge_pages(&host) {
        4 + 4
    } else {
        4
    };
    assert_eq!(rows.len(), expected, "{techniques}");
    for row in rows {
        assert!(
            row.as_array().unwrap().iter().all(|cell| cell != "-"),
            "{row}"
        );
    }
    assert!(techniques["verified_bytes"].as_u64().unwrap() >= 2 * 8 * MIB);
    nothing_is_left(host.pool().parent().unwrap());
}

#[test]
fn clusters_and_mappings_are_measured_for_every_policy() {
    // The pool determines the engine.
    let host = Host::new(64);
    if !nvvmm_test_profile::sized(false, true) {
        return;
    }
    if host.engine() == Engine::Private {
        println!("left out on {}: its kernel copies", host.medium().name());
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let report = bench(
        &host,
        out.path(),
        &["clusters", "mappings", "--sizes", "8M", "--repeat", "1"],
    );
    let experiments = report["experiments"].as_array().unwrap();
    assert_eq!(experiments.len(), 2, "{report}");
    for experiment in experiments {
        tables_and_plots_are_whole(experiment, out.path());
        // Words of the guest itself and of one that was restored.
        let verified = experiment["verified_bytes"].as_u64().unwrap();
        assert!(verified >= 2 * 8 * MIB, "{experiment}");
    }
    let [clusters, mappings] = [&experiments[0], &experiments[1]];
    // Each write that is apart from others copies one frame, or as many frames as a cluster has.
    let sparse = clusters["tables"][0]["rows"].as_array().unwrap();
    let copied = |row: usize| sparse[row][2].as_str().unwrap().parse::<f64>().unwrap();
    assert!((1.0..1.5).contains(&copied(0)), "{clusters}");
    assert!(copied(2) > 8.0 && copied(2) <= 17.0, "{clusters}");
    assert_eq!(sparse.len(), 6, "{clusters}");
    for target in mappings["targets"].as_array().unwrap() {
        let part = target["median_parts"].as_i64().unwrap();
        assert!(part > 0 && part <= 1_000_000, "{target}");
    }
    nothing_is_left(host.pool().parent().unwrap());
}

#[test]
fn gaps_and_rewinds_are_measured() {
    let host = Host::without_pool();
    // Ten seconds, most of them waiting.
    if !nvvmm_test_profile::sized(false, true) || !can_be_measured(&host) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let report = bench(
        &host,
        out.path(),
        &["gaps", "rewind", "--sizes", "16M", "--repeat", "1"],
    );
    for experiment in report["experiments"].as_array().unwrap() {
        tables_and_plots_are_whole(experiment, out.path());
        let verified = experiment["verified_bytes"].as_u64().unwrap();
        assert!(verified >= 16 * MIB, "{experiment}");
    }
    nothing_is_left(host.pool().parent().unwrap());
}

/// Fails the test if the benchmark left a pool, a file beside it, or a VM process.
fn nothing_is_left(dir: &Path) {
    let left = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("nvvmm-bench-");
    let files = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name());
    let files: Vec<_> = files.filter(|name| left(name)).collect();
    assert!(files.is_empty(), "{files:?} in {}", dir.display());
    let pool = format!("NVVMM_POOL={}/nvvmm-bench-", dir.display());
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        // Most processes belong to others, and some have ended by now.
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let uses = String::from_utf8_lossy(&environment)
            .split('\0')
            .any(|variable| variable.starts_with(&pool));
        assert!(!uses, "{} still runs", process.path().display());
    }
}

#[test]
fn what_cannot_be_measured_is_refused_and_leaves_nothing() {
    let host = Host::without_pool();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let guest = guest.to_str().unwrap();
    let run = |arguments: &[&str]| {
        host.run(&[&["bench", "--dir", dir, "--guest", guest], arguments].concat())
    };
    run(&["--sizes", "15T"]).refused(4, "do not fit");
    run(&["nonsense"]).refused(2, "nonsense");
    run(&["--huge-dir", dir]).refused(2, "--huge-dir");
    host.run(&[
        "bench",
        "--sizes",
        "4M",
        "--dir",
        dir,
        "--guest",
        "/nowhere/guest",
    ])
    .refused(3, "/nowhere/guest");
    assert_eq!(
        std::fs::read_dir(dir).unwrap().count(),
        0,
        "nothing is left in {dir}"
    );
}
