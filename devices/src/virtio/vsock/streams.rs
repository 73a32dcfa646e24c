//! All streams of a device: who has which ports, what the host's sockets say, and what goes to the
//! guest next.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, Drain, Verdict};
use super::packet::*;
use crate::host_socket::HostSocket;
use crate::sys;

/// Sockets of the host that a device has at once. With [`super::connection::BUFFER_BYTES`] for each
/// this bounds what a guest can make the host keep: 32 MiB.
pub(super) const SOCKETS_MAX: usize = 128;
/// Answers that wait for the guest to give buffers for them. At so many, no more packets are taken
/// from it.
pub(super) const ANSWERS_MAX: usize = 256;
/// The longest line with which a program on the host may begin: `CONNECT 4294967295`.
const GREETING_BYTES_MAX: usize = 32;
/// Host ports of streams that programs on the host ask for.
const HOST_PORTS: std::ops::Range<u32> = 1 << 30..1 << 31;
/// Ports below this are for programs with privileges: Linux lets only those with
/// CAP_NET_BIND_SERVICE bind them (`LAST_RESERVED_PORT` of af_vsock.c). What listens there on the
/// host hears no other program of the guest.
const UNPRIVILEGED_PORTS_START: u32 = 1024;
/// Socket events that are handled in one turn.
const EVENTS_PER_TURN: usize = 32;

/// Number of the listening socket in epoll's events; other sockets have the numbers after it.
const LISTENER: u64 = 0;

/// A program on the host that has not said yet what it wants.
struct Greeting {
    stream: UnixStream,
    line: Vec<u8>,
}

/// A stream and its ports.
struct Line {
    ports: Ports,
    connection: Connection,
}

pub(super) struct Streams {
    guest_cid: u64,
    socket: Arc<HostSocket>,
    epoll: Epoll,
    greetings: HashMap<u64, Greeting>,
    lines: HashMap<u64, Line>,
    drains: HashMap<u64, Drain>,
    by_ports: HashMap<Ports, u64>,
    next_token: u64,
    next_host_port: u32,
    /// Those who have something for the guest, in turn.
    row: VecDeque<u64>,
    answers: VecDeque<Header>,
}

impl Streams {
    pub(super) fn new(guest_cid: u64, socket: Arc<HostSocket>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let interest = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, LISTENER);
        epoll.ctl(ControlOperation::Add, socket.listener.as_raw_fd(), interest)?;
        Ok(Self {
            guest_cid,
            socket,
            epoll,
            greetings: HashMap::new(),
            lines: HashMap::new(),
            drains: HashMap::new(),
            by_ports: HashMap::new(),
            next_token: LISTENER + 1,
            next_host_port: HOST_PORTS.start,
            row: VecDeque::new(),
            answers: VecDeque::new(),
        })
    }

    pub(super) fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// Ends all streams, for a guest that knows of none; it has that CID.
    pub(super) fn clear(&mut self, guest_cid: u64) {
        self.guest_cid = guest_cid;
        self.greetings.clear();
        self.lines.clear();
        self.drains.clear();
        self.by_ports.clear();
        self.row.clear();
        self.answers.clear();
    }

    /// Begins with other host ports. A restored guest may still hold streams from before, and takes
    /// no new ones with the same ports.
    pub(super) fn use_other_ports(&mut self) {
        self.next_host_port = some_host_port();
    }

    pub(super) fn events(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// True when a packet of the guest can be taken: there is room for an answer.
    pub(super) fn can_take(&self) -> bool {
        self.answers.len() < ANSWERS_MAX
    }

    /// True when there may be data for the guest.
    pub(super) fn has_output(&self) -> bool {
        !self.answers.is_empty() || !self.row.is_empty()
    }

    fn sockets(&self) -> usize {
        self.greetings.len() + self.lines.len() + self.drains.len()
    }

    /// Acts on what has happened to the sockets. While no driver `is_active` programs of the host
    /// are turned away.
    pub(super) fn on_host_events(&mut self, is_active: bool) {
        let mut events = [EpollEvent::default(); EVENTS_PER_TURN];
        let count = match self.epoll.wait(0, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => {
                tracing::error!(%error, "cannot see what happens to the sockets of vsock streams");
                0
            }
        };
        for event in &events[..count] {
            let (token, events) = (event.data(), event.event_set());
            if token == LISTENER {
                self.accept(is_active);
            } else if self.greetings.contains_key(&token) {
                self.hear(token);
            } else if let Some(line) = self.lines.get_mut(&token) {
                let verdict = line.connection.on_host_events(events);
                self.carry_out(token, verdict);
            } else if let Some(drain) = self.drains.get_mut(&token)
                && !drain.on_host_events(events)
            {
                self.drains.remove(&token);
            }
        }
    }

    fn accept(&mut self, is_active: bool) {
        loop {
            match self.socket.listener.accept() {
                Ok((stream, _)) if is_active && self.sockets() < SOCKETS_MAX => {
                    if let Err(error) = self.greet(stream) {
                        tracing::warn!(%error, "cannot serve a program that connects to the guest");
                    }
                }
                // Closed: no driver to ask, or too many already.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a program that connects to the guest");
                    return;
                }
            }
        }
    }

    fn greet(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let token = self.watch(&stream)?;
        let line = Vec::new();
        self.greetings.insert(token, Greeting { stream, line });
        Ok(())
    }

    /// Has the sockets' events come with a number, which is answered. They end when the socket is
    /// closed.
    fn watch(&mut self, stream: &UnixStream) -> io::Result<u64> {
        let token = self.next_token;
        self.next_token += 1;
        let interest =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let event = EpollEvent::new(interest, token);
        self.epoll
            .ctl(ControlOperation::Add, stream.as_raw_fd(), event)?;
        Ok(token)
    }

    /// Reads the first line of a program on the host. What follows it is the stream's.
    fn hear(&mut self, token: u64) {
        let Some(greeting) = self.greetings.get_mut(&token) else {
            return;
        };
        let guest_port = match greeting.read_line() {
            Ok(None) => return,
            Ok(Some(port)) => port,
            Err(error) => {
                tracing::debug!(
                    %error,
                    "a program that connected to the guest did not say to which port"
                );
                self.greetings.remove(&token);
                return;
            }
        };
        let (Some(ports), Some(greeting)) =
            (self.free_ports(guest_port), self.greetings.remove(&token))
        else {
            return;
        };
        let connection = Connection::asked_by_host(greeting.stream);
        self.begin(token, Line { ports, connection });
    }

    fn free_ports(&mut self, guest: u32) -> Option<Ports> {
        // There are more numbers than sockets, so one of the next is free.
        for _ in 0..=SOCKETS_MAX {
            let host = self.next_host_port;
            let next = host + 1;
            self.next_host_port = if HOST_PORTS.contains(&next) {
                next
            } else {
                HOST_PORTS.start
            };
            let ports = Ports { host, guest };
            if !self.by_ports.contains_key(&ports) {
                return Some(ports);
            }
        }
        None
    }

    fn begin(&mut self, token: u64, line: Line) {
        self.by_ports.insert(line.ports, token);
        self.lines.insert(token, line);
        self.carry_out(token, Verdict::Keep);
    }

    /// The guest has sent a packet. [`Streams::can_take`] was asked.
    pub(super) fn receive(&mut self, packet: &Incoming) {
        let header = &packet.header;
        let ports = Ports {
            host: header.dst_port.get(),
            guest: header.src_port.get(),
        };
        let is_for_us = header.src_cid.get() == self.guest_cid
            && header.dst_cid.get() == HOST_CID
            && header.kind.get() == TYPE_STREAM;
        match self.by_ports.get(&ports) {
            Some(&token) if is_for_us => {
                let Some(line) = self.lines.get_mut(&token) else {
                    return;
                };
                let verdict = line.connection.receive(packet, ports);
                self.carry_out(token, verdict);
            }
            None if is_for_us && header.op.get() == OP_REQUEST && !may_ask(ports) => {
                tracing::warn!(
                    host_port = ports.host,
                    guest_port = ports.guest,
                    "refused a stream of the guest: host ports below 1024 are for programs of the \
                     guest that use a port below 1024 themselves (root); an nvvmm-agent of an \
                     older version does not: install this version's in the guest"
                );
                self.answers.push_back(header.reset_of());
            }
            None if is_for_us && header.op.get() == OP_REQUEST => {
                if let Err(error) = self.connect(ports, header) {
                    tracing::debug!(
                        port = ports.host,
                        %error,
                        "nobody on the host takes a stream of the guest"
                    );
                    self.answers.push_back(header.reset_of());
                }
            }
            _ if header.op.get() == OP_RST => {}
            _ => self.answers.push_back(header.reset_of()),
        }
    }

    /// The guest asks for a stream to a port of the host: whoever listens at the socket of that
    /// name gets it.
    fn connect(&mut self, ports: Ports, header: &Header) -> io::Result<()> {
        if self.sockets() >= SOCKETS_MAX {
            return Err(io::Error::other("too many streams"));
        }
        let stream = self.socket.connect(ports.host)?;
        let token = self.watch(&stream)?;
        let connection = Connection::asked_by_guest(stream, header);
        self.begin(token, Line { ports, connection });
        Ok(())
    }

    /// Does with a stream what has to be done after something was done to it.
    fn carry_out(&mut self, token: u64, verdict: Verdict) {
        match verdict {
            Verdict::Keep => {
                if let Some(Line { connection, .. }) = self.lines.get_mut(&token)
                    && connection.has_output()
                    && !std::mem::replace(&mut connection.in_row, true)
                {
                    self.row.push_back(token);
                }
            }
            Verdict::Forget => drop(self.remove(token)),
            Verdict::Reset | Verdict::Drain => {
                let Some(Line { ports, connection }) = self.remove(token) else {
                    return;
                };
                self.answers.push_back(self.header(ports, OP_RST));
                if verdict == Verdict::Drain
                    && let Some(drain) = connection.into_drain()
                {
                    self.drains.insert(token, drain);
                }
            }
        }
    }

    fn remove(&mut self, token: u64) -> Option<Line> {
        let line = self.lines.remove(&token)?;
        self.by_ports.remove(&line.ports);
        if line.connection.in_row {
            self.row.retain(|other| *other != token);
        }
        Some(line)
    }

    fn header(&self, ports: Ports, op: u16) -> Header {
        Header {
            src_cid: HOST_CID.into(),
            dst_cid: self.guest_cid.into(),
            src_port: ports.host.into(),
            dst_port: ports.guest.into(),
            len: 0.into(),
            kind: TYPE_STREAM.into(),
            op: op.into(),
            flags: 0.into(),
            buf_alloc: 0.into(),
            fwd_cnt: 0.into(),
        }
    }

    /// The next packet for the guest, with a payload of `room_bytes` at most.
    pub(super) fn next_packet(&mut self, room_bytes: usize) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some((answer, Vec::new()));
            }
            let token = self.row.pop_front()?;
            let Line { ports, connection } = self.lines.get_mut(&token)?;
            connection.in_row = false;
            match connection.next_packet(room_bytes) {
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "the host's side of a stream broke");
                    self.carry_out(token, Verdict::Reset);
                }
                Ok(Some(outgoing)) => {
                    let ports = *ports;
                    let mut header = self.header(ports, outgoing.op);
                    header.flags = outgoing.flags.into();
                    header.len = (outgoing.payload.len() as u32).into();
                    if let Some(Line { connection, .. }) = self.lines.get_mut(&token) {
                        connection.put_credit(&mut header);
                    }
                    self.carry_out(token, Verdict::Keep);
                    return Some((header, outgoing.payload));
                }
            }
        }
    }
}

/// True unless a program of the guest without privileges asks for a port of the host that only
/// those with privileges may ask for.
fn may_ask(ports: Ports) -> bool {
    ports.host >= UNPRIVILEGED_PORTS_START || ports.guest < UNPRIVILEGED_PORTS_START
}

/// A random one of [`HOST_PORTS`]; the first one when the host gives no random numbers.
fn some_host_port() -> u32 {
    let mut bytes = [0; 4];
    match sys::fill_random(&mut bytes) {
        Ok(()) => {
            HOST_PORTS.start + u32::from_le_bytes(bytes) % (HOST_PORTS.end - HOST_PORTS.start)
        }
        Err(_) => HOST_PORTS.start,
    }
}

impl Greeting {
    /// The port in the line, when it is whole.
    fn read_line(&mut self) -> io::Result<Option<u32>> {
        let mut byte = [0];
        while self.line.len() < GREETING_BYTES_MAX {
            match (&self.stream).read(&mut byte) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => return self.port().map(Some),
                Ok(_) => self.line.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::InvalidData.into())
    }

    fn port(&self) -> io::Result<u32> {
        let text = std::str::from_utf8(&self.line).map_err(io::Error::other)?;
        let port = text
            .strip_prefix("CONNECT ")
            .ok_or(ErrorKind::InvalidData)?;
        port.trim()
            .parse()
            .map_err(|_| io::Error::other("the port is no number"))
    }
}
