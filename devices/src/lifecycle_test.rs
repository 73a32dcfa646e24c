use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct LampStateV1 {
    lit: bool,
    watts: u16,
}

const LAMP: LampStateV1 = LampStateV1 {
    lit: true,
    watts: 300,
};

fn saved() -> SavedDevice {
    SavedDevice::encode("lamp", 1, "lamp0", &LAMP).unwrap()
}

fn decode(saved: &SavedDevice) -> Result<LampStateV1, LifecycleError> {
    saved.decode("lamp", 1, "lamp0")
}

#[test]
fn a_state_comes_back_as_it_was() {
    assert_eq!(saved().payload, [1, 0xac, 2]);
    assert_eq!(decode(&saved()).unwrap(), LAMP);
}

#[test]
fn a_state_of_another_kind_instance_or_version_is_named_in_the_error() {
    let error = saved()
        .decode::<LampStateV1>("fan", 1, "lamp0")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("fan") && error.contains("lamp \"lamp0\""),
        "{error}"
    );
    let error = saved()
        .decode::<LampStateV1>("lamp", 1, "lamp1")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("lamp1") && error.contains("lamp0"),
        "{error}"
    );
    let error = saved()
        .decode::<LampStateV1>("lamp", 3, "lamp0")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("version 1") && error.contains("version 3") && error.contains("lamp0"),
        "{error}"
    );
}

#[test]
fn short_damaged_and_long_states_are_refused() {
    let mut short = saved();
    short.payload.pop();
    assert!(matches!(
        decode(&short),
        Err(LifecycleError::Malformed { .. })
    ));
    let mut damaged = saved();
    damaged.payload[0] = 7;
    assert!(matches!(
        decode(&damaged),
        Err(LifecycleError::Malformed { .. })
    ));
    let mut long = saved();
    long.payload.extend([1, 2]);
    assert!(matches!(
        decode(&long),
        Err(LifecycleError::LeftOver {
            left_over_bytes: 2,
            ..
        })
    ));
}
