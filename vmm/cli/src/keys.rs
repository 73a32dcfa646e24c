//! Keys on the terminal of a console. All of them are the guest's, but Ctrl-] and what follows it.
//!
//! ```text
//! keys to the guest --Ctrl-]--> asked --q--> asked again --y--> the VM is ended
//!        ^                       |  |            |
//!        +----------- b ---------+  |            |
//!        +---------- other keys, 30 s -----------+
//!                                   +-- other keys, 3 s --> the console is left
//! ```

use std::time::{Duration, Instant};

use super::terminal::ESCAPE_KEY;

/// Time for a key after Ctrl-], before the console is left.
const ASKED_FOR: Duration = Duration::from_secs(3);
/// Time for the answer whether to end the VM, before that counts as no.
const ASKED_TO_END_FOR: Duration = Duration::from_secs(30);

/// State of the keyboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// Keys go to the guest.
    #[default]
    ToGuest,
    /// Ctrl-] was typed. The time is when the console is left.
    Asked(Instant),
    /// The user is asked if the VM is to end. The time is when that counts as no.
    AskedToEnd(Instant),
}

/// Consequence of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Carry these bytes to the guest.
    ToGuest(Vec<u8>),
    /// Show what can be typed after Ctrl-].
    Ask,
    /// Ask if the VM is to end.
    AskToEnd,
    /// Tell that keys go to the guest again.
    Back,
    /// Leave the console; the VM runs on. Nothing comes after it.
    Leave,
    /// Ask the VM to end. The console stays until it has.
    EndVm,
}

impl Keys {
    /// Time until which the user is asked.
    pub fn until(&self) -> Option<Instant> {
        match *self {
            Self::ToGuest => None,
            Self::Asked(until) | Self::AskedToEnd(until) => Some(until),
        }
    }

    /// Takes what was typed; nothing means that the terminal is gone.
    pub fn typed(&mut self, typed: &[u8], now: Instant) -> Vec<Step> {
        if typed.is_empty() {
            return match *self {
                Self::ToGuest => Vec::new(),
                Self::Asked(_) | Self::AskedToEnd(_) => vec![Step::Leave],
            };
        }
        let mut steps = Vec::new();
        let mut rest = typed;
        while let Some((&key, after)) = rest.split_first() {
            let (taken, step) = match *self {
                Self::ToGuest => {
                    let escape = rest.iter().position(|&key| key == ESCAPE_KEY);
                    match escape {
                        Some(0) => (after, self.asks(now)),
                        at => {
                            let (guests, others) = rest.split_at(at.unwrap_or(rest.len()));
                            (others, Step::ToGuest(guests.to_vec()))
                        }
                    }
                }
                Self::Asked(_) => (after, self.answered(key, now)),
                Self::AskedToEnd(_) => (after, self.answered_to_end(key)),
            };
            let ends = step == Step::Leave;
            steps.push(step);
            if ends {
                break;
            }
            rest = taken;
        }
        steps
    }

    /// Takes that no key came until `now`.
    pub fn late(&mut self, now: Instant) -> Vec<Step> {
        match *self {
            Self::Asked(until) if now >= until => vec![Step::Leave],
            Self::AskedToEnd(until) if now >= until => {
                *self = Self::ToGuest;
                vec![Step::Back]
            }
            _ => Vec::new(),
        }
    }

    fn asks(&mut self, now: Instant) -> Step {
        *self = Self::Asked(now + ASKED_FOR);
        Step::Ask
    }

    fn answered(&mut self, key: u8, now: Instant) -> Step {
        match key {
            b'q' | b'Q' => {
                *self = Self::AskedToEnd(now + ASKED_TO_END_FOR);
                Step::AskToEnd
            }
            b'b' | b'B' => {
                *self = Self::ToGuest;
                Step::Back
            }
            _ => Step::Leave,
        }
    }

    fn answered_to_end(&mut self, key: u8) -> Step {
        *self = Self::ToGuest;
        match key {
            b'y' | b'Y' => Step::EndVm,
            _ => Step::Back,
        }
    }
}

#[cfg(test)]
#[path = "keys_test.rs"]
mod keys_test;
