use std::process::Command;

use super::*;

#[test]
fn each_shell_has_a_script_that_calls_nvvmm() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = script(shell).unwrap();
        assert!(
            script.contains(VARIABLE) && script.contains("nvvmm"),
            "{shell}"
        );
    }
}

#[test]
fn the_script_for_bash_joins_what_bash_has_split() {
    let script = script(Shell::Bash).unwrap();
    for part in [BASH_WHOLE, BASH_TRIMMED] {
        assert!(
            script.contains(part),
            "the engine's script is another one: {script}"
        );
    }
    // Words as bash hands them over: the line up to the cursor, split at the separators.
    for (line, words, last, offered, expected) in [
        (
            "nvvmm rm web@",
            &["nvvmm", "rm", "web", "@"][..],
            "",
            "web@7",
            "7",
        ),
        (
            "nvvmm rm web@1",
            &["nvvmm", "rm", "web", "@", "1"],
            "1",
            "web@12",
            "12",
        ),
        ("nvvmm rm w", &["nvvmm", "rm", "w"], "w", "web", "web"),
        ("nvvmm rm ", &["nvvmm", "rm", ""], "", "web", "web"),
        (
            "nvvmm cp web:/e",
            &["nvvmm", "cp", "web", ":", "/e"],
            "/e",
            "web:/etc",
            "/etc",
        ),
    ] {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let test = format!(
            "nvvmm() {{ shift; printf '%s' {offered}; printf '<%s>' \"$@\" >&2; }}\n\
             compopt() {{ return 1; }}\n{script}\n\
             COMP_LINE='{line}' COMP_POINT={} COMP_CWORD={} COMP_WORDS=({})\n\
             COMP_TYPE=9\n_clap_complete_nvvmm nvvmm '{last}' x\n\
             printf '%s' \"${{COMPREPLY[0]}}\"\n",
            line.len(),
            words.len() - 1,
            quoted.join(" ")
        );
        let bash = Command::new("bash").args(["--norc", "-c", &test]).output();
        let Ok(answer) = bash else {
            println!("SKIPPED: bash is not here");
            return;
        };
        let seen = String::from_utf8_lossy(&answer.stderr).into_owned();
        let joined: Vec<&str> = line.split(' ').collect();
        let joined = format!("<{}>", joined.join("><"));
        assert_eq!(seen, joined, "{line}");
        assert_eq!(String::from_utf8_lossy(&answer.stdout), expected, "{line}");
    }
}

#[test]
fn a_word_that_was_not_begun_is_no_option_if_there_are_others() {
    assert_eq!(without_options("web\n--all\n-a", "\n"), "web");
    assert_eq!(without_options("web\x0bdb\x0b--all", "\x0b"), "web\x0bdb");
    assert_eq!(without_options("--all\n-a", "\n"), "--all\n-a");
    assert_eq!(without_options("", "\n"), "");
}

#[test]
fn the_pool_is_that_of_the_command_line() {
    let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    let pool = |line: &str| pool_in(words(line).into_iter());
    assert_eq!(pool("nvvmm rm --pool p x"), Some("p".into()));
    assert_eq!(pool("nvvmm rm --pool=p x"), Some("p".into()));
    assert_eq!(pool("nvvmm rm x"), None);
}
