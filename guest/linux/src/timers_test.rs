use super::*;

const TABLE: &str = "           CPU0       CPU2
  4:         23          0   IO-APIC   4-edge      ttyS0
LOC:       1234         77   Local timer interrupts
";

#[test]
fn the_column_of_a_cpu_is_found() {
    assert_eq!(count_of("LOC", 0, TABLE), Some(1234));
    assert_eq!(count_of("LOC", 2, TABLE), Some(77));
    assert_eq!(count_of("4", 0, TABLE), Some(23));
    assert_eq!(count_of("LOC", 1, TABLE), None);
    assert_eq!(count_of("NMI", 0, TABLE), None);
}

#[test]
fn beats_are_alive_only_when_all_of_them_went_on() {
    let alive = Beats {
        fired: 1,
        slept: 1,
        interrupts: 1,
    };
    assert!(alive.are_alive());
    assert!(!Beats { fired: 0, ..alive }.are_alive());
    assert!(!Beats { slept: 0, ..alive }.are_alive());
    assert!(
        !Beats {
            interrupts: 0,
            ..alive
        }
        .are_alive()
    );
}
