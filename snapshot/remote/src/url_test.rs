use super::*;

#[test]
fn urls_of_each_kind_are_read_and_shown() {
    for url in [
        "s3://bucket",
        "s3://bucket/team/a=1",
        "gs://bucket/team",
        "az://container/team",
        "file:///mnt/store",
    ] {
        assert_eq!(StoreUrl::parse(url).unwrap().to_string(), url);
    }
    let slash = StoreUrl::parse("s3://bucket/team/").unwrap();
    assert_eq!(slash.to_string(), "s3://bucket/team");
}

#[test]
fn what_is_no_url_of_a_store_is_refused_without_being_repeated() {
    for url in [
        "",
        "bucket",
        "http://bucket",
        "s3://",
        "s3:///team",
        "s3://id:SECRET@bucket/team",
        "s3://bucket/team?sig=SECRET",
        "s3://bucket/../team",
        "s3://bucket//team",
        "file://mnt/store",
        "file:///mnt/../store",
        "file:///mnt/\nstore",
    ] {
        let refused = StoreUrl::parse(url).unwrap_err().to_string();
        assert!(!refused.contains("SECRET"), "{refused}");
    }
    assert!(StoreUrl::parse(&format!("s3://b/{}", "a".repeat(2000))).is_err());
}

#[test]
fn the_last_name_is_that_of_a_snapshot() {
    let (store, name) = StoreUrl::parse_with_snapshot("s3://bucket/team/vm@7").unwrap();
    assert_eq!(
        (store.to_string().as_str(), name.as_str()),
        ("s3://bucket/team", "vm@7")
    );
    for url in ["s3://bucket", "s3://bucket/", "s3://bucket/.a", "file:///"] {
        assert!(StoreUrl::parse_with_snapshot(url).is_err(), "{url}");
    }
}
