//! The console: a polled 16550. Every byte is a VM exit, so lines are short.

use core::fmt::{self, Write};

use crate::sys;

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
const DATA_READY: u8 = 1;
/// Time stamp counts between two looks for input: some 0.1 to 0.5 ms.
const POLL_GAP_CYCLES: u64 = 600_000;
const LINE_MAX: usize = 128;

/// The line that is being typed.
pub struct Console {
    line: [u8; LINE_MAX],
    len: usize,
    polled_at: u64,
}

/// A finished line. `None`: too long, or not text.
pub type Line<'a> = Option<&'a str>;

impl Console {
    pub const fn new() -> Self {
        Self {
            line: [0; LINE_MAX],
            len: 0,
            polled_at: 0,
        }
    }

    /// Looks for input, if it is time to, and returns the line that it ended.
    pub fn poll(&mut self) -> Option<Line<'_>> {
        // The counter may jump either way in a restore. Both just mean: look now.
        let now = sys::tsc();
        if now.wrapping_sub(self.polled_at) < POLL_GAP_CYCLES {
            core::hint::spin_loop();
            return None;
        }
        while sys::in_byte(LINE_STATUS) & DATA_READY != 0 {
            let byte = sys::in_byte(DATA);
            if byte == b'\n' || byte == b'\r' {
                let len = core::mem::take(&mut self.len);
                return Some(
                    self.line
                        .get(..len)
                        .and_then(|line| core::str::from_utf8(line).ok()),
                );
            }
            if let Some(place) = self.line.get_mut(self.len) {
                *place = byte;
            }
            self.len = (self.len + 1).min(LINE_MAX + 1);
        }
        self.polled_at = now;
        None
    }
}

/// One line of output, sent as a whole.
struct Reply {
    text: [u8; 256],
    len: usize,
}

impl Write for Reply {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        self.text
            .get_mut(self.len..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Sends `@ `, the text and a newline. A line that is too long loses its end.
pub fn send_line(text: fmt::Arguments<'_>) {
    let mut line = Reply {
        text: [0; 256],
        len: 0,
    };
    let _cut_off = line.write_fmt(format_args!("@ {text}"));
    sys::out_bytes(DATA, &line.text[..line.len]);
    sys::out_byte(DATA, b'\n');
}

/// Sends one reply line.
macro_rules! reply {
    ($($arg:tt)*) => { $crate::console::send_line(format_args!($($arg)*)) };
}
pub(crate) use reply;
