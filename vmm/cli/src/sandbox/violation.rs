//! The end of a process that makes a system call which its thread's kind does not have.

use super::sys;

/// Has each forbidden system call told on stderr, with the thread's name, before the kernel ends
/// the process with SIGSYS.
///
/// # Errors
/// What sigaction(2) says.
pub fn tell_on_stderr() -> std::io::Result<()> {
    sys::on_forbidden_call(|number, thread| {
        let mut line = Line::default();
        line.text(b"nvvmm: seccomp: the thread ");
        line.text(thread);
        line.text(b" made the system call ");
        line.number(number);
        line.text(b", which it does not need: the process ends\n");
        sys::write_stderr(line.bytes());
    })
}

/// A line that is put together without memory of the heap: the thread may be anywhere.
struct Line {
    bytes: [u8; 160],
    used: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 160],
            used: 0,
        }
    }
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = *byte;
                self.used += 1;
            }
        }
    }

    fn number(&mut self, number: u32) {
        let mut divisor = 1_000_000_000;
        let mut begun = false;
        while divisor > 0 {
            let digit = number / divisor % 10;
            begun |= digit > 0 || divisor == 1;
            if begun {
                self.text(&[b'0' + digit as u8]);
            }
            divisor /= 10;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

#[cfg(test)]
#[path = "violation_test.rs"]
mod violation_test;
