use super::*;

fn times(user: u64, idle: u64, stolen: u64) -> CpuTimes {
    CpuTimes::of(&format!(
        "cpu  {user} 0 0 {idle} 0 0 0 {stolen} 0 0\ncpu0 1 2 3\n"
    ))
}

#[test]
fn an_idle_host_is_not_marked() {
    let load = HostLoad::of(
        times(100, 900, 0),
        times(104, 1096, 0),
        "0.35 0.4 0.5 1/99 7\n",
    );
    assert_eq!(
        load,
        HostLoad {
            used_percent: 2,
            stolen_percent: 0,
            load_average_percent: 35,
            busy: false,
        }
    );
    assert_eq!(load.warning(), None);
}

#[test]
fn a_busy_host_is_marked_with_what_was_seen() {
    let load = HostLoad::of(
        times(100, 900, 0),
        times(150, 1050, 0),
        "12.5 0.4 0.5 1/99 7\n",
    );
    let warning = load.warning().unwrap();
    assert!(
        warning.contains("25% of its CPU time was in use, load average 12.50"),
        "{warning}"
    );
    let load = HostLoad::of(times(0, 0, 0), times(0, 92, 8), "");
    let warning = load.warning().unwrap();
    assert!(
        warning.contains("(8% taken by its hypervisor)"),
        "{warning}"
    );
}

#[test]
fn a_host_that_tells_nothing_does_no_harm() {
    let load = HostLoad::of(CpuTimes::of(""), CpuTimes::of("cpu x"), "x");
    assert_eq!(load.load_average_percent, 0);
    assert_eq!(load.stolen_percent, 0);
}
