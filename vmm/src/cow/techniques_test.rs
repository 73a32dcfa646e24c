use super::*;

#[test]
fn what_is_named_is_off_and_nothing_else() {
    let all = Techniques::default();
    assert_eq!(Techniques::without("").unwrap(), all);
    let two = Techniques::without("copy-hot, grow-clusters").unwrap();
    assert!(two.arm_ahead && !two.copy_hot && !two.copy_policy.clusters_grow);
    assert_eq!(
        Techniques::without("copy-hot").unwrap(),
        Techniques {
            copy_hot: false,
            ..all
        }
    );
    let error = Techniques::without("arm-ahead,magic").unwrap_err();
    assert!(error.contains("'magic'"), "{error}");
}
