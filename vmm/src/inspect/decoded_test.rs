use super::*;

#[test]
fn a_device_that_is_no_virtio_device_is_told_by_its_size() {
    let device = SavedDevice {
        kind: "serial".into(),
        version: 1,
        instance: "com1".into(),
        payload: vec![1, 2, 3],
    };
    let told = of_device(&device);
    assert_eq!(
        (&told["instance"], &told["state_bytes"]),
        (&json!("com1"), &json!(3))
    );
    assert!(told["virtio"].is_null());
}
