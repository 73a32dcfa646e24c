//! The event thread's side of the console.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::client::Client;
use super::kept::KeptOutput;
use super::output::ConsoleOut;
use super::stdio::{StdInput, StdOutput};
use super::streams::ConsoleStreams;
use crate::host_socket::HostSocket;
use crate::lock::lock;

/// Programs that may be connected to the console socket at once.
const CLIENTS_MAX: usize = 16;
/// Input that waits in the host for the guest. No more is read from anywhere while there is this
/// much.
const INPUT_BYTES: usize = 4096;

/// A port through which the guest gets console input.
pub trait ConsoleInput: Send {
    /// Offers input to the guest. Gives the number of bytes that the port takes; the caller keeps
    /// the rest, and offers it again when [`ConsoleInput::input_room`] is signalled.
    fn enqueue_input(&mut self, bytes: &[u8]) -> usize;

    /// An event that is signalled when the guest can take input again.
    fn input_room(&self) -> Arc<EventFd>;
}

/// Carries the guest's output to all readers, and their input to the guest. Give it to the event
/// thread's `EventManager`, as `Arc<Mutex<Console>>` when [`Console::finish`] is wanted.
pub struct Console {
    serial: Arc<Mutex<dyn ConsoleInput>>,
    output: ConsoleOut,
    room: Arc<EventFd>,
    std_input: Option<StdInput>,
    std_output: Option<StdOutput>,
    socket: Option<HostSocket>,
    kept: Option<KeptOutput>,
    clients: HashMap<RawFd, Client>,
    /// Input that the guest has no room for yet.
    input: VecDeque<u8>,
}

impl Console {
    /// Connects `serial`, whose output goes to `output`, with `streams`.
    pub fn new<S: ConsoleInput + 'static>(
        serial: Arc<Mutex<S>>,
        output: ConsoleOut,
        streams: ConsoleStreams,
    ) -> Self {
        let room = lock(&serial).input_room();
        Self {
            serial,
            output,
            room,
            std_input: streams.input.map(StdInput::new),
            std_output: streams.output.map(StdOutput::new),
            socket: streams.socket,
            kept: streams.kept,
            clients: streams.clients,
            input: VecDeque::new(),
        }
    }

    /// Takes the console's streams, for the console of the machine that replaces this one. The
    /// event thread must have ended.
    pub fn take_streams(&mut self) -> ConsoleStreams {
        ConsoleStreams {
            input: self.std_input.take().map(StdInput::into_file),
            output: self.std_output.take().map(StdOutput::into_file),
            socket: self.socket.take(),
            kept: self.kept.take(),
            clients: std::mem::take(&mut self.clients),
        }
    }

    /// Drops input that was received for the guest, and that the guest has not taken.
    pub fn forget_input(&mut self) {
        self.input.clear();
    }

    /// Carries out what the guest has written so far, before the process ends. Waits for a slow
    /// standard output, not for socket clients. Also done on drop.
    pub fn finish(&mut self) {
        self.distribute();
        if let Some(output) = &mut self.std_output
            && let Err(error) = output.finish()
        {
            tracing::warn!(%error, "console output lost");
        }
        for client in self.clients.values_mut() {
            // One that cannot take it now has lost it.
            let _ = client.send();
        }
    }

    /// Gives new output to everybody who wants it.
    fn distribute(&mut self) {
        let fresh = self.output.take_fresh();
        if fresh.is_empty() {
            return;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(&fresh);
        }
        if let Some(output) = &mut self.std_output {
            output.push(&fresh);
        }
        for client in self.clients.values_mut() {
            client.push(&fresh);
        }
    }

    fn accept(&mut self, ops: &mut EventOps) {
        let Some(socket) = &self.socket else { return };
        let mut accepted = Vec::new();
        loop {
            match socket.listener.accept() {
                Ok((stream, _)) => accepted.push(stream),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a console client");
                    break;
                }
            }
        }
        for stream in accepted {
            if let Err(error) = self.add_client(stream, ops) {
                tracing::warn!(%error, "cannot serve a console client");
            }
        }
    }

    fn add_client(&mut self, stream: UnixStream, ops: &mut EventOps) -> io::Result<()> {
        if self.clients.len() >= CLIENTS_MAX {
            return Err(io::Error::other(format!(
                "{CLIENTS_MAX} are connected already"
            )));
        }
        // With the fresh output given to those who were there before, the scroll-back is what this
        // one has missed.
        let scrollback = self.output.catch_up(|fresh| {
            if let Some(kept) = &mut self.kept {
                kept.push(fresh);
            }
            if let Some(output) = &mut self.std_output {
                output.push(fresh);
            }
            for client in self.clients.values_mut() {
                client.push(fresh);
            }
        });
        let mut client = Client::new(stream, &scrollback)?;
        watch(&mut client, ops)?;
        self.clients.insert(client.as_raw_fd(), client);
        Ok(())
    }

    fn client_event(&mut self, fd: RawFd, events: EventSet, ops: &mut EventOps) {
        let Some(client) = self.clients.get_mut(&fd) else {
            return;
        };
        let gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        // Of one that is gone, the last words still count; how many there can be is the socket
        // buffer's limit.
        let limit_bytes = if gone { usize::MAX } else { INPUT_BYTES };
        let received = client.receive(&mut self.input, limit_bytes);
        if gone || received.is_err() {
            self.drop_client(fd, ops);
        }
    }

    fn drop_client(&mut self, fd: RawFd, ops: &mut EventOps) {
        if let Some(client) = self.clients.remove(&fd) {
            let _ = ops.remove(Events::empty(&client));
        }
    }

    fn receive_std_input(&mut self, limit_bytes: usize, ops: &mut EventOps) {
        let Some(source) = &mut self.std_input else {
            return;
        };
        match source.receive(&mut self.input, limit_bytes) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "console input"),
        }
        source.stop(ops);
        self.std_input = None;
    }

    /// Gives the guest what it has room for.
    fn feed(&mut self) {
        if self.input.is_empty() {
            return;
        }
        let mut serial = lock(&self.serial);
        while !self.input.is_empty() {
            let taken = serial.enqueue_input(self.input.as_slices().0);
            if taken == 0 {
                break;
            }
            self.input.drain(..taken);
        }
    }

    fn send(&mut self, ops: &mut EventOps) {
        if let Some(output) = &mut self.std_output
            && let Err(error) = output.send()
        {
            tracing::warn!(%error, "console output is closed");
            output.stop(ops);
            self.std_output = None;
        }
        let mut gone = Vec::new();
        for (fd, client) in &mut self.clients {
            if client.send().is_err() {
                gone.push(*fd);
            }
        }
        for fd in gone {
            self.drop_client(fd, ops);
        }
    }

    /// Watches every stream for what is of use now.
    fn update_interests(&mut self, ops: &mut EventOps) {
        let want_input = self.input.len() < INPUT_BYTES;
        if let Some(input) = &mut self.std_input {
            input.update_interest(want_input, ops);
        }
        if let Some(output) = &mut self.std_output {
            output.update_interest(ops);
        }
        for client in self.clients.values_mut() {
            let interest = client.interest(want_input);
            if client.watched != interest && ops.modify(Events::new(client, interest)).is_ok() {
                client.watched = interest;
            }
        }
    }

    /// Moves everything that can move, whatever the event was.
    fn pump(&mut self, ops: &mut EventOps) {
        self.distribute();
        self.send(ops);
        self.receive_std_input(INPUT_BYTES, ops);
        self.feed();
        self.update_interests(ops);
    }
}

/// Has the event thread watch a client; for what is decided as it is served.
fn watch(client: &mut Client, ops: &mut EventOps) -> io::Result<()> {
    client.watched = EventSet::empty();
    ops.add(Events::new(client, EventSet::empty()))
        .map_err(io::Error::other)
}

impl MutEventSubscriber for Console {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        let gone = events
            .event_set()
            .intersects(EventSet::HANG_UP | EventSet::ERROR);
        if fd == self.room.as_raw_fd() {
            let _ = self.room.read();
        } else if self
            .socket
            .as_ref()
            .is_some_and(|socket| socket.listener.as_raw_fd() == fd)
        {
            self.accept(ops);
        } else if self.clients.contains_key(&fd) {
            self.client_event(fd, events.event_set(), ops);
        } else if gone
            && self
                .std_input
                .as_ref()
                .is_some_and(|input| input.as_raw_fd() == fd)
        {
            // What is left in a pipe that was closed still counts; the event would come again until
            // it is read.
            self.receive_std_input(usize::MAX, ops);
        } else if gone
            && self
                .std_output
                .as_ref()
                .is_some_and(|output| output.as_raw_fd() == fd)
            && let Some(mut output) = self.std_output.take()
        {
            tracing::warn!("nobody reads the console output any more");
            output.stop(ops);
        }
        self.pump(ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        for event in [self.output.wake_event(), &self.room] {
            if let Err(error) = ops.add(Events::new(event, EventSet::IN)) {
                tracing::error!(%error, "cannot watch the console");
            }
        }
        if let Some(socket) = &self.socket
            && let Err(error) = ops.add(Events::new(&socket.listener, EventSet::IN))
        {
            tracing::error!(%error, "cannot watch the console socket");
        }
        self.clients.retain(|_, client| watch(client, ops).is_ok());
        if let Some(input) = &mut self.std_input {
            input.start(ops);
        }
        if let Some(output) = &mut self.std_output {
            output.start(ops);
        }
        self.pump(ops);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish();
    }
}
