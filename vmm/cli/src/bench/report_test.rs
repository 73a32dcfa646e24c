use super::*;
use crate::bench::host::HostFacts;

fn report(began: &str, experiments: &[(&str, u64)]) -> Report {
    let experiments = experiments.iter().map(|(name, frames)| Experiment {
        name: (*name).into(),
        frames_verified: *frames,
        ..Experiment::default()
    });
    Report {
        nvvmm: "0.1.0".into(),
        began: began.into(),
        took_s: 1.0,
        host: HostFacts {
            cpu: "a processor".into(),
            cpus: 2,
            memory_bytes: 0,
            kernel: "6.18".into(),
            kvm: "hardware".into(),
            load: None,
        },
        method: vec!["A sentence.".into()],
        experiments: experiments.collect(),
        left_out: vec!["Huge pages.".into()],
        failed: Vec::new(),
    }
}

#[test]
fn what_is_measured_anew_replaces_what_was_there() {
    let earlier = Report {
        failed: vec!["bill: no room".into(), "rate: no room".into()],
        ..report("yesterday", &[("paper", 1), ("cow", 2), ("space", 3)])
    };
    let merged = report("today", &[("bill", 4), ("cow", 5)]).merged_into(earlier);
    let experiments: Vec<(&str, u64)> = { merged.experiments.iter() }
        .map(|one| (one.name.as_str(), one.frames_verified))
        .collect();
    assert_eq!(
        experiments,
        [("paper", 1), ("cow", 5), ("space", 3), ("bill", 4)]
    );
    assert_eq!(merged.began, "today");
    assert_eq!(merged.failed, ["rate: no room"]);
    assert_eq!(merged.left_out, ["Huge pages."]);
    let told = &merged.method[1];
    assert!(
        told.contains("yesterday") && told.contains("paper, space"),
        "{told}"
    );
}

#[test]
fn each_experiment_keeps_the_run_that_it_is_of() {
    let first = report("on Monday", &[("paper", 1), ("cow", 2)]);
    let second = report("on Tuesday", &[("cow", 3), ("bill", 4)]).merged_into(first);
    let third = report("on Friday", &[("gaps", 5)]).merged_into(second);
    let told = third.method[1..].join(" ");
    let at = |what: &str| told.find(what).unwrap_or_else(|| panic!("{what}: {told}"));
    assert!(at("paper. It") < at("on Monday"), "{told}");
    assert!(at("cow, bill. It") < at("on Tuesday"), "{told}");
    assert!(!told.contains("gaps"), "{told}");
}
