//! Lists of exceptions, which only shrink.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Key in the list of exceptions: mostly the file's path. The amounts of violations with the
    /// same key are added up.
    pub key: String,
    /// 1 for something that is wrong or not; the size for something that is too large.
    pub amount: usize,
    /// Place and reason, for the message of the failed test.
    pub message: String,
}

/// A list of exceptions: keys with amounts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exceptions(BTreeMap<String, usize>);

/// Ways to change a list by what a rule found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Lines are removed and amounts lowered.
    Shrink,
    /// The list becomes what was found.
    Replace,
}

impl Exceptions {
    /// Reads the list of a rule. It is sorted and has each key once.
    pub fn read(rule: &str) -> Self {
        let path = path_of(rule);
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut list = BTreeMap::new();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (key, amount) = line
                .rsplit_once(' ')
                .and_then(|(key, amount)| Some((key, amount.parse::<usize>().ok()?)))
                .ok_or_else(|| format!("no key and number: {line}"))?;
            if list
                .last_key_value()
                .is_some_and(|(last, _): (&String, _)| last.as_str() >= key)
            {
                return Err(format!("not sorted, or twice in the list: {key}"));
            }
            list.insert(key.to_string(), amount);
        }
        Ok(Self(list))
    }

    /// Writes the list of a rule.
    pub fn write(&self, rule: &str) {
        let mut text =
            String::from("# Exceptions of a rule in tests/tidy. The list only shrinks.\n");
        for (key, amount) in &self.0 {
            let _ = writeln!(text, "{key} {amount}");
        }
        let path = path_of(rule);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// The list that follows from what a rule found.
    pub fn update(&self, found: &[Violation], update: Update) -> Self {
        let mut list = amounts(found);
        if update == Update::Shrink {
            list.retain(|key, _| self.0.contains_key(key));
            for (key, amount) in &mut list {
                *amount = (*amount).min(self.0[key]);
            }
        }
        Self(list)
    }

    /// Differences between what a rule found and its list, a text for each. Empty: all is well.
    pub fn complaints(&self, found: &[Violation]) -> Vec<String> {
        let amounts = amounts(found);
        let mut complaints = Vec::new();
        for (key, &amount) in &amounts {
            let listed = self.0.get(key).copied().unwrap_or(0);
            if amount > listed {
                let messages = found
                    .iter()
                    .filter(|one| one.key == *key)
                    .map(|one| &one.message);
                complaints.extend(messages.cloned());
                if listed > 0 {
                    complaints.push(format!(
                        "{key}: {amount}, the list of exceptions has {listed}"
                    ));
                }
            }
        }
        for (key, &listed) in &self.0 {
            match amounts.get(key) {
                None => complaints.push(format!(
                    "{key}: keeps the rule now: remove it from the list ({SHRINK})"
                )),
                Some(&amount) if amount < listed => complaints.push(format!(
                    "{key}: {amount} now, not {listed}: lower it in the list ({SHRINK})"
                )),
                Some(_) => {}
            }
        }
        complaints
    }
}

/// The command that removes what is no exception any more.
const SHRINK: &str = "cargo test -p nvvmm-tests --test tidy -- --ignored shrink_lists";

fn amounts(found: &[Violation]) -> BTreeMap<String, usize> {
    let mut amounts = BTreeMap::new();
    for violation in found {
        *amounts.entry(violation.key.clone()).or_insert(0) += violation.amount;
    }
    amounts
}

fn path_of(rule: &str) -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "tidy",
        "exceptions",
        &format!("{rule}.txt"),
    ]
    .iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{Exceptions, Update, Violation};

    fn found(keys: &[&str]) -> Vec<Violation> {
        let violation = |key: &&str| Violation {
            key: (*key).into(),
            amount: 1,
            message: format!("{key}: broken"),
        };
        keys.iter().map(violation).collect()
    }

    #[test]
    fn what_is_listed_passes() {
        let list = Exceptions::parse("# head\na 2\nb c 1\n").expect("list");
        assert_eq!(
            list.complaints(&found(&["a", "b c", "a"])),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_not_listed_fails() {
        let list = Exceptions::parse("a 1\n").expect("list");
        assert_eq!(list.complaints(&found(&["a", "b"])), ["b: broken"]);
        let more = list.complaints(&found(&["a", "a"]));
        assert_eq!(more.len(), 3, "{more:?}");
        assert_eq!(more[2], "a: 2, the list of exceptions has 1");
    }

    #[test]
    fn a_listed_exception_that_is_gone_fails() {
        let list = Exceptions::parse("a 2\nb 1\n").expect("list");
        let complaints = list.complaints(&found(&["a"]));
        assert!(complaints[0].contains("a: 1 now, not 2: lower it in the list"));
        assert!(complaints[1].contains("remove it from the list"));
    }

    #[test]
    fn a_list_is_sorted() {
        assert!(Exceptions::parse("b 1\na 1\n").is_err());
        assert!(Exceptions::parse("a 1\na 1\n").is_err());
        assert!(Exceptions::parse("a\n").is_err());
    }

    #[test]
    fn shrinking_never_adds() {
        let list = Exceptions::parse("a 2\nb 1\nc 1\n").expect("list");
        let found = found(&["a", "b", "b", "d"]);
        let shrunk = Exceptions::parse("a 1\nb 1\n").expect("list");
        assert_eq!(list.update(&found, Update::Shrink), shrunk);
        let replaced = Exceptions::parse("a 1\nb 2\nd 1\n").expect("list");
        assert_eq!(list.update(&found, Update::Replace), replaced);
    }
}
