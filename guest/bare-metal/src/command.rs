//! The console's commands.

use crate::order::Pattern;
use crate::pace::Walk;

/// The way in which `churn` puts its words into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Access {
    /// Load the old word, compare it with what must be there, store the new one.
    Check = 0,
    /// The same with one atomic exchange: the first access to the frame is a write.
    Exchange = 1,
    /// Store only.
    Blind = 2,
}

impl Access {
    /// The mode with this number.
    pub fn from_code(code: u64) -> Option<Self> {
        [Self::Check, Self::Exchange, Self::Blind]
            .into_iter()
            .find(|access| *access as u64 == code)
    }

    /// The mode with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "check" => Some(Self::Check),
            "xchg" => Some(Self::Exchange),
            "blind" => Some(Self::Blind),
            _ => None,
        }
    }
}

/// An access of `touch` to each frame, which does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Touch {
    /// Writes a word that is there already, in ascending order.
    Dirty = 0,
    /// The same in an order that looks random, the same one each time.
    DirtyAtRandom = 1,
    /// Reads a word, in ascending order.
    Read = 2,
    /// Dirties one frame of [`SPARSE`], the first ones of the order that looks random.
    DirtySparse = 3,
    /// Dirties every other frame, from the first one on.
    DirtyEven = 4,
    /// Dirties those in between.
    DirtyOdd = 5,
}

/// The number of frames of which `touch sparse` dirties one.
pub const SPARSE: u64 = 100;

impl Touch {
    /// The one with this number.
    pub fn from_code(code: u64) -> Option<Self> {
        [
            Self::Dirty,
            Self::DirtyAtRandom,
            Self::Read,
            Self::DirtySparse,
            Self::DirtyEven,
            Self::DirtyOdd,
        ]
        .into_iter()
        .find(|touch| *touch as u64 == code)
    }
}

/// The way in which `give` tells the host of memory that the guest does not use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Reports it as free.
    Report,
    /// Puts it into the balloon, and takes it out again.
    Balloon,
}

/// An amount of memory, from the first frame under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A number of MiB.
    Mib(u64),
    /// So many of a hundred parts.
    Percent(u64),
    /// All of it.
    All,
}

/// One line from the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `fill MIB|all SEED`
    Fill(Extent, u64),
    /// `churn on SEED [PATTERN] [ACCESS]`
    ChurnOn(u64, Pattern, Access),
    /// `churn off`
    ChurnOff,
    /// `check [all]`. With `all`, memory beyond the fill must be zero.
    Check {
        /// `all` was given.
        unfilled: bool,
    },
    /// `digest [MIB|all]`
    Digest(Extent),
    /// `touch MIB|all [seq|rand|read|sparse|even|odd]`
    Touch(Extent, Touch),
    /// `write START COUNT [STRIDE]`
    Write(u64, u64, u64),
    /// `give report|balloon ROUNDS`
    Give(Way, u64),
    /// `give lie`
    GiveAll,
    /// `pace on MIB|all [seq|rand] [write|read] [LIMIT]`
    PaceOn(Extent, Walk, u64),
    /// `pace off`
    PaceOff,
    /// `pace`
    Pace,
    /// `pace gaps`
    PaceGaps,
    /// `pace check`
    PaceCheck,
    /// `stat`
    Stat,
    /// `tsc`
    Tsc,
    /// `bye`
    Bye,
    /// `crash`
    Crash,
    /// An empty line.
    Nothing,
}

/// Reads one line. `None`: not a command.
pub fn parse(line: &str) -> Option<Command> {
    let mut words = line.split_ascii_whitespace();
    let Some(verb) = words.next() else {
        return Some(Command::Nothing);
    };
    let command = match verb {
        "fill" => Command::Fill(extent(words.next()?)?, number(words.next()?)?),
        "churn" => match words.next()? {
            "on" => churn_on(&mut words)?,
            "off" => Command::ChurnOff,
            _ => return None,
        },
        "check" => match words.next() {
            None => Command::Check { unfilled: false },
            Some("all") => Command::Check { unfilled: true },
            Some(_) => return None,
        },
        "digest" => Command::Digest(words.next().map_or(Some(Extent::All), extent)?),
        "touch" => {
            let extent = extent(words.next()?)?;
            match words.next() {
                None | Some("seq") => Command::Touch(extent, Touch::Dirty),
                Some("rand") => Command::Touch(extent, Touch::DirtyAtRandom),
                Some("read") => Command::Touch(extent, Touch::Read),
                Some("sparse") => Command::Touch(extent, Touch::DirtySparse),
                Some("even") => Command::Touch(extent, Touch::DirtyEven),
                Some("odd") => Command::Touch(extent, Touch::DirtyOdd),
                Some(_) => return None,
            }
        }
        "write" => {
            let (start, count) = (number(words.next()?)?, number(words.next()?)?);
            Command::Write(start, count, words.next().map_or(Some(1), number)?)
        }
        "give" => match words.next()? {
            "report" => Command::Give(Way::Report, number(words.next()?)?),
            "balloon" => Command::Give(Way::Balloon, number(words.next()?)?),
            "lie" => Command::GiveAll,
            _ => return None,
        },
        "pace" => match words.next() {
            None => Command::Pace,
            Some("on") => pace_on(&mut words)?,
            Some("off") => Command::PaceOff,
            Some("gaps") => Command::PaceGaps,
            Some("check") => Command::PaceCheck,
            Some(_) => return None,
        },
        "stat" => Command::Stat,
        "tsc" => Command::Tsc,
        "bye" => Command::Bye,
        "crash" => Command::Crash,
        _ => return None,
    };
    words.next().is_none().then_some(command)
}

fn churn_on<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Command> {
    let seed = number(words.next()?)?;
    let pattern = words
        .next()
        .map_or(Some(Pattern::Seq), Pattern::from_name)?;
    let access = words
        .next()
        .map_or(Some(Access::Check), Access::from_name)?;
    Some(Command::ChurnOn(seed, pattern, access))
}

fn pace_on<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Command> {
    let extent = extent(words.next()?)?;
    let at_random = match words.next() {
        None | Some("seq") => false,
        Some("rand") => true,
        Some(_) => return None,
    };
    let writes = match words.next() {
        None | Some("write") => true,
        Some("read") => false,
        Some(_) => return None,
    };
    let limit = words.next().map_or(Some(u64::MAX), number)?;
    Some(Command::PaceOn(extent, Walk { at_random, writes }, limit))
}

fn extent(word: &str) -> Option<Extent> {
    if word == "all" {
        return Some(Extent::All);
    }
    match word.strip_suffix('%') {
        Some(part) => number(part).filter(|n| *n <= 100).map(Extent::Percent),
        None => number(word).map(Extent::Mib),
    }
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

#[cfg(test)]
#[path = "command_test.rs"]
mod command_test;
