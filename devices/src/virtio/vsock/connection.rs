//! One stream between a program in the guest and one on the host.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::packet::*;

/// Bytes of one stream that the device holds for a program on the host that does not read: the
/// credit of the guest.
pub(super) const BUFFER_BYTES: usize = 256 << 10;
/// So much must have been passed on to the host before the guest is told of it without asking.
const CREDIT_STEP_BYTES: u32 = BUFFER_BYTES as u32 / 4;

/// Progress of opening a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest has not answered the request of the host.
    Asked,
    Open,
}

/// Next step with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Forget it; the guest knows.
    Forget,
    /// Forget it and tell the guest.
    Reset,
    /// The guest is done with it, and is told so. What it has sent is still to be passed on to the
    /// host.
    Drain,
}

/// A stream, while the guest knows of it.
///
/// The socket is watched edge-triggered: what is known of it stands until a call says otherwise.
pub(super) struct Connection {
    stream: UnixStream,
    phase: Phase,
    /// Messages for the guest that need no credit.
    tell: Tell,
    to_host: ToHost,
    /// Bytes that the guest can take: its last own figure, and those counted here.
    guest_buffer_bytes: u32,
    guest_passed_on: Wrapping<u32>,
    sent: Wrapping<u32>,
    guest_receives: bool,
    readable: bool,
    /// The program on the host sends no more; it neither sends nor receives any more.
    host_ended: bool,
    host_gone: bool,
    /// Flags of the last SHUTDOWN that the guest got.
    shutdown_told: u32,
    /// The connection is in the row of those with data for the guest.
    pub(super) in_row: bool,
}

#[derive(Default)]
struct Tell {
    request: bool,
    response: bool,
    credit: bool,
    /// The guest was asked for credit, which is done once until there is some.
    has_asked: bool,
}

/// The direction from the guest to the host.
struct ToHost {
    waiting: VecDeque<u8>,
    passed_on: Wrapping<u32>,
    /// `passed_on` as the guest knows it.
    told: Wrapping<u32>,
    guest_sends: bool,
    /// The host was told that the guest sends no more: once, as telling it is an event of the
    /// socket again.
    end_told: bool,
    writable: bool,
}

impl ToHost {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            passed_on: Wrapping(0),
            told: Wrapping(0),
            guest_sends: true,
            end_told: false,
            writable: true,
        }
    }

    /// Passes on what the host takes, and then the end of the stream. An error: the host takes no
    /// more.
    fn flush(&mut self, mut stream: &UnixStream) -> io::Result<()> {
        while self.writable && !self.waiting.is_empty() {
            match stream.write(self.waiting.as_slices().0) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.waiting.drain(..len);
                    self.passed_on += len as u32;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !self.guest_sends
            && self.waiting.is_empty()
            && !std::mem::replace(&mut self.end_told, true)
        {
            // It may be gone already, which is found out by reading.
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Nobody is there to take it: to the guest it is passed on.
    fn discard(&mut self) {
        self.passed_on += self.waiting.len() as u32;
        self.waiting.clear();
    }
}

impl Connection {
    fn new(stream: UnixStream, phase: Phase, tell: Tell) -> Self {
        Self {
            stream,
            phase,
            tell,
            to_host: ToHost::new(),
            guest_buffer_bytes: 0,
            guest_passed_on: Wrapping(0),
            sent: Wrapping(0),
            guest_receives: true,
            readable: true,
            host_ended: false,
            host_gone: false,
            shutdown_told: 0,
            in_row: false,
        }
    }

    /// A program on the host asks the guest for a stream.
    pub(super) fn asked_by_host(stream: UnixStream) -> Self {
        let tell = Tell {
            request: true,
            ..Tell::default()
        };
        Self::new(stream, Phase::Asked, tell)
    }

    /// The guest has asked with `header`, and a program on the host takes it.
    pub(super) fn asked_by_guest(stream: UnixStream, header: &Header) -> Self {
        let tell = Tell {
            response: true,
            ..Tell::default()
        };
        let mut connection = Self::new(stream, Phase::Open, tell);
        connection.take_credit(header);
        connection
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_buffer_bytes = header.buf_alloc.get();
        self.guest_passed_on = Wrapping(header.fwd_cnt.get());
        if self.credit_bytes() > 0 {
            self.tell.has_asked = false;
        }
    }

    /// Bytes that the guest takes now: 0 when its figures contradict each other.
    fn credit_bytes(&self) -> usize {
        let on_its_way = (self.sent - self.guest_passed_on).0;
        self.guest_buffer_bytes.saturating_sub(on_its_way) as usize
    }

    /// The guest has sent a packet. `ports.host` is what a program on the host is told when the
    /// guest takes its stream.
    pub(super) fn receive(&mut self, packet: &Incoming, ports: Ports) -> Verdict {
        let Incoming { header, payload } = packet;
        self.take_credit(header);
        let Some(payload) = payload else {
            return Verdict::Reset;
        };
        match (header.op.get(), self.phase) {
            (OP_RST, _) => Verdict::Forget,
            (OP_RESPONSE, Phase::Asked) => self.open(ports),
            (OP_RW, Phase::Open) => self.take_payload(payload),
            (OP_SHUTDOWN, _) => self.take_shutdown(header.flags.get()),
            (OP_CREDIT_UPDATE, Phase::Open) => Verdict::Keep,
            (OP_CREDIT_REQUEST, Phase::Open) => {
                self.tell.credit = true;
                Verdict::Keep
            }
            _ => Verdict::Reset,
        }
    }

    fn open(&mut self, ports: Ports) -> Verdict {
        self.phase = Phase::Open;
        let line = format!("OK {}\n", ports.host);
        // Nothing was written before, so there is room, or nobody is there.
        match (&self.stream).write(line.as_bytes()) {
            Ok(len) if len == line.len() => Verdict::Keep,
            _ => Verdict::Reset,
        }
    }

    fn take_payload(&mut self, payload: &[u8]) -> Verdict {
        if !self.to_host.guest_sends || payload.len() > BUFFER_BYTES - self.to_host.waiting.len() {
            return Verdict::Reset;
        }
        self.to_host.waiting.extend(payload);
        self.pass_on();
        self.verdict()
    }

    fn take_shutdown(&mut self, flags: u32) -> Verdict {
        if flags & SHUTDOWN_SEND != 0 {
            self.to_host.guest_sends = false;
        }
        if flags & SHUTDOWN_RECEIVE != 0 {
            self.guest_receives = false;
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.pass_on();
        if !self.to_host.guest_sends && !self.guest_receives {
            return Verdict::Drain;
        }
        self.verdict()
    }

    /// A connection that neither side has a use for any more ends; when only the host is gone, what
    /// it has sent still counts, and the guest is told when it has all of it.
    fn verdict(&self) -> Verdict {
        if self.host_gone && !self.guest_receives {
            Verdict::Reset
        } else {
            Verdict::Keep
        }
    }

    fn pass_on(&mut self) {
        if self.to_host.flush(&self.stream).is_err() {
            self.host_gone = true;
            self.readable = true;
            self.to_host.discard();
        }
        if (self.to_host.passed_on - self.to_host.told).0 >= CREDIT_STEP_BYTES {
            self.tell.credit = true;
        }
    }

    /// Something has happened to the socket.
    pub(super) fn on_host_events(&mut self, events: EventSet) -> Verdict {
        self.readable |= events.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.readable = true;
            self.host_gone = true;
        }
        if events.contains(EventSet::OUT) {
            self.to_host.writable = true;
            self.pass_on();
        }
        self.verdict()
    }

    fn shutdown_flags(&self) -> u32 {
        match (self.host_ended, self.host_gone) {
            (true, true) => SHUTDOWN_SEND | SHUTDOWN_RECEIVE,
            (true, false) => SHUTDOWN_SEND,
            (false, _) => 0,
        }
    }

    fn wants_to_read(&self) -> bool {
        self.phase == Phase::Open && self.readable && !self.host_ended && self.guest_receives
    }

    /// True when there may be data for the guest.
    pub(super) fn has_output(&self) -> bool {
        let tell = &self.tell;
        tell.request
            || tell.response
            || tell.credit
            || self.shutdown_flags() != self.shutdown_told
            || self.wants_to_read() && (self.credit_bytes() > 0 || !tell.has_asked)
    }

    /// The next packet for the guest, with a payload of `room_bytes` at most; `None` when there is
    /// none now.
    ///
    /// # Errors
    /// The program on the host is gone, and not in order.
    pub(super) fn next_packet(&mut self, room_bytes: usize) -> io::Result<Option<Outgoing>> {
        if std::mem::take(&mut self.tell.request) {
            return Ok(Some(Outgoing::of(OP_REQUEST)));
        }
        if std::mem::take(&mut self.tell.response) {
            return Ok(Some(Outgoing::of(OP_RESPONSE)));
        }
        if self.wants_to_read() {
            let limit = room_bytes.min(self.credit_bytes());
            if limit > 0 {
                if let Some(payload) = self.read(limit)? {
                    self.sent += payload.len() as u32;
                    return Ok(Some(Outgoing {
                        payload,
                        ..Outgoing::of(OP_RW)
                    }));
                }
            } else if !std::mem::replace(&mut self.tell.has_asked, true) {
                return Ok(Some(Outgoing::of(OP_CREDIT_REQUEST)));
            }
        }
        let flags = self.shutdown_flags();
        if flags != self.shutdown_told {
            self.shutdown_told = flags;
            return Ok(Some(Outgoing {
                flags,
                ..Outgoing::of(OP_SHUTDOWN)
            }));
        }
        let credit = std::mem::take(&mut self.tell.credit);
        Ok(credit.then(|| Outgoing::of(OP_CREDIT_UPDATE)))
    }

    /// Reads at most `limit` bytes that the host has sent. Notes that there is nothing now, or that
    /// the stream has ended.
    fn read(&mut self, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; limit];
        loop {
            match (&self.stream).read(&mut bytes) {
                Ok(0) => self.host_ended = true,
                Ok(len) => {
                    bytes.truncate(len);
                    return Ok(Some(bytes));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(None);
        }
    }

    /// Fills in the credit that goes to the guest with every packet.
    pub(super) fn put_credit(&mut self, header: &mut Header) {
        header.buf_alloc = (BUFFER_BYTES as u32).into();
        header.fwd_cnt = self.to_host.passed_on.0.into();
        self.to_host.told = self.to_host.passed_on;
        self.tell.credit = false;
    }

    /// The data that must still go to the host when the guest has closed the stream, if any.
    pub(super) fn into_drain(self) -> Option<Drain> {
        (!self.to_host.waiting.is_empty()).then_some(Drain {
            stream: self.stream,
            to_host: self.to_host,
        })
    }
}

/// The rest of a stream that the guest has ended, on its way to the host.
pub(super) struct Drain {
    stream: UnixStream,
    to_host: ToHost,
}

impl Drain {
    /// Something has happened to the socket. Answers whether there is more to pass on.
    pub(super) fn on_host_events(&mut self, events: EventSet) -> bool {
        self.to_host.writable |= events.contains(EventSet::OUT);
        self.to_host.flush(&self.stream).is_ok()
            && !self.to_host.waiting.is_empty()
            && !events.intersects(EventSet::HANG_UP | EventSet::ERROR)
    }
}
