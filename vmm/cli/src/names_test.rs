use super::*;
use crate::values;

const THERE: [&str; 4] = ["db", "web-1", "web-2", "web@7"];

fn chosen(given: &[&str], force: bool) -> Vec<Result<String, VmError>> {
    let given: Vec<NamePattern> = given
        .iter()
        .map(|text| values::snapshot_names(text).unwrap())
        .collect();
    let choice = Choice {
        given: &given,
        all: false,
        force,
    };
    Chosen::of(&choice, Kind::Snapshot, &THERE.map(String::from)).0
}

fn names(given: &[&str]) -> Vec<String> {
    chosen(given, false)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn a_pattern_stands_for_all_names_that_match() {
    assert_eq!(names(&["web-*"]), ["web-1", "web-2"]);
    assert_eq!(names(&["web@*"]), ["web@7"]);
    assert_eq!(names(&["web?[2-9]"]), ["web-2", "web@7"]);
    assert_eq!(names(&["*"]), THERE);
    assert_eq!(names(&["web-[!1]"]), ["web-2"]);
}

#[test]
fn names_come_once_in_the_users_order_and_unknown_ones_too() {
    assert_eq!(
        names(&["web-2", "ghost", "*"]),
        ["web-2", "ghost", "db", "web-1", "web@7"]
    );
}

#[test]
fn a_pattern_that_matches_nothing_is_an_error_unless_forced() {
    let found = chosen(&["x*", "db"], false);
    let error = found[0].clone().unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::NotFound, "no snapshot matches 'x*'")
    );
    assert_eq!(found[1].clone().unwrap(), "db");
    assert_eq!(chosen(&["x*"], true), []);
}

#[test]
fn all_means_all_that_there_are() {
    let choice = Choice {
        given: &[],
        all: true,
        force: false,
    };
    let all = Chosen::of(&choice, Kind::Vm, &THERE.map(String::from));
    let all: Vec<String> = all.0.into_iter().map(Result::unwrap).collect();
    assert_eq!(all, THERE);
}

#[test]
fn one_that_fails_does_not_keep_the_others_and_the_first_error_counts() {
    let all = ["a", "b", "c", "d"]
        .map(|name| Ok(name.to_owned()))
        .to_vec();
    let failing = |name: &str| match name {
        "b" => Err(VmError::new(ErrorKind::Refused, "not in this state")),
        "c" => Err(VmError::new(ErrorKind::NotFound, "no VM 'c' is running")),
        _ => Ok(()),
    };
    let mut seen = Vec::new();
    let code = Chosen(all.clone()).each(|name| {
        seen.push(name.to_owned());
        failing(name)
    });
    assert_eq!(seen, ["a", "b", "c", "d"]);
    let refused = format!("{:?}", ExitCode::from(ErrorKind::Refused.exit_code()));
    assert_eq!(format!("{code:?}"), refused);
    let code = Chosen(all).each_at_once(failing);
    assert_eq!(format!("{code:?}"), refused);
    let code = Chosen(Vec::new()).each(failing);
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}

#[test]
fn an_error_names_what_it_is_about_where_there_are_several() {
    let error = || VmError::failed("not in this state");
    assert_eq!(
        named(error(), "web", true).message,
        "web: not in this state"
    );
    assert_eq!(named(error(), "web", false).message, "not in this state");
    let names_it = VmError::failed("no VM 'web' is running");
    assert_eq!(named(names_it.clone(), "web", true), names_it);
}
