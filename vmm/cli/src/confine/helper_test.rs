// A test program has several threads, so that no helper can be made in it: the tests of the
// commands (vmm/cli/tests) have helpers at work. Here is the part that serves.
use super::*;

#[test]
fn work_is_done_when_it_is_asked_for_and_its_result_comes_back() {
    for (work, told) in [
        (Ok(7), vec![7, 0, 0, 0, 0]),
        (Err(13), vec![0, 13, 0, 0, 0]),
    ] {
        let (asked, mut go) = pipe().unwrap();
        let (mut answer, answering) = pipe().unwrap();
        go.write_all(&[1]).unwrap();
        let work = move || work.map_err(io::Error::from_raw_os_error);
        serve(asked, answering, work, || panic!("it was asked for"));
        let mut all = Vec::new();
        answer.read_to_end(&mut all).unwrap();
        assert_eq!(all, told);
    }
}

#[test]
fn a_command_that_ends_without_asking_has_the_other_thing_done() {
    let (asked, go) = pipe().unwrap();
    let (_answer, answering) = pipe().unwrap();
    drop(go);
    let mut done = false;
    serve(asked, answering, || panic!("nobody asked"), || done = true);
    assert!(done);
}

#[test]
fn no_helper_is_made_beside_other_threads() {
    let (quit, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || wait.recv());
    let made = Helper::new(|| Ok(0), || {});
    assert!(made.is_err());
    drop(quit);
    let _ = other.join();
}
