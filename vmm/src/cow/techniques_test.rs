use super::*;

#[test]
fn what_is_named_is_off_and_nothing_else() {
    let all = Techniques::default();
    assert_eq!(Techniques::without("").unwrap(), all);
    let two = Techniques::without("copy-hot, grow-clusters").unwrap();
    assert_eq!(
        two,
        Techniques {
            copy_hot: false,
            grow_clusters: false,
            ..all
        }
    );
    let error = Techniques::without("arm-ahead,magic").unwrap_err();
    assert!(error.contains("'magic'"), "{error}");
}
