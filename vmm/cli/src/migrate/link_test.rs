use super::*;

#[test]
fn hosts_are_names_and_never_options_of_ssh() {
    let host = |text: &str| text.parse::<Host>();
    let found = host("ssh://root@other:2222").unwrap();
    assert_eq!(
        (found.login.as_str(), found.port),
        ("root@other", Some(2222))
    );
    assert_eq!(host("ssh://other/").unwrap().to_string(), "other");
    let found = host("ssh://me@[fe80::1%eth0]:22").unwrap();
    assert_eq!(
        (found.login.as_str(), found.port),
        ("me@fe80::1%eth0", Some(22))
    );
    assert_eq!(host("ssh://[::1]").unwrap().port, None);
    for bad in [
        "other",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://a b",
        "ssh://a;b",
        "ssh://a:99999",
        "http://a",
    ] {
        assert!(host(bad).is_err(), "{bad}");
    }
}

#[test]
fn words_reach_the_other_hosts_program_as_they_are() {
    for word in ["", "a b", "it's", "$(id)", "a\nb", "-p", "8080:80", "*"] {
        let line = format!("printf %s {}", quoted(word));
        let printed = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(printed.stdout).unwrap(), word);
    }
}
