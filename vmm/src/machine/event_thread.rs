//! The thread that drives the devices: queue doorbells, console, power requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use event_manager::RemoteEndpoint;
use event_manager::{
    EventManager, EventOps, EventSet, Events as FdEvents, MutEventSubscriber, SubscriberOps,
};
use nvvmm_devices::{PowerEvent, PowerSignal};
use nvvmm_snapshot::{Resource, ask_for};

use super::Result;
use super::board::Subscriber;
use super::error::host;
use super::events::MachineEvent;
use super::vcpu::Shared;
use crate::threads::{ThreadKind, begin as begin_thread};

/// The running thread.
pub(super) struct EventThread {
    end: Arc<AtomicBool>,
    endpoint: RemoteEndpoint<Subscriber>,
    handle: JoinHandle<()>,
}

impl EventThread {
    /// Starts it with `subscribers`, and one more for `power`.
    pub(super) fn start(
        subscribers: Vec<Subscriber>,
        power: Arc<PowerSignal>,
        shared: Arc<Shared>,
    ) -> Result<EventThread> {
        let error = |error: event_manager::Error| {
            host("start the event thread")(std::io::Error::other(error))
        };
        let mut manager = EventManager::<Subscriber>::new().map_err(error)?;
        for subscriber in subscribers {
            manager.add_subscriber(subscriber);
        }
        manager.add_subscriber(Arc::new(Mutex::new(PowerSubscriber { power, shared })));
        let endpoint = manager.remote_endpoint();
        let end = Arc::new(AtomicBool::new(false));
        let end_seen = Arc::clone(&end);
        let body = move || {
            begin_thread(ThreadKind::Devices);
            while !end_seen.load(Ordering::SeqCst) {
                if let Err(error) = manager.run() {
                    tracing::error!(%error, "waiting for device events");
                }
            }
        };
        ask_for(Resource::Thread).map_err(host("start the event thread"))?;
        let handle = std::thread::Builder::new()
            .name("nvvmm-devices".into())
            .spawn(body)
            .map_err(host("start the event thread"))?;
        Ok(EventThread {
            end,
            endpoint,
            handle,
        })
    }

    /// Ends it and waits for it.
    pub(super) fn stop(self) {
        self.end.store(true, Ordering::SeqCst);
        if self.endpoint.kick().is_err() || self.handle.join().is_err() {
            tracing::error!("the event thread did not end in order");
        }
    }
}

/// Turns the guest's power requests into the machine's events.
struct PowerSubscriber {
    power: Arc<PowerSignal>,
    shared: Arc<Shared>,
}

impl MutEventSubscriber for PowerSubscriber {
    fn process(&mut self, _events: FdEvents, _ops: &mut EventOps) {
        self.power.drain();
        let requested = || {
            Some(match self.power.requested()? {
                PowerEvent::Off => MachineEvent::PoweredOff,
                PowerEvent::Reset => MachineEvent::Reset,
            })
        };
        self.shared.events.push_found(requested);
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(FdEvents::new(&*self.power, EventSet::IN)) {
            tracing::error!(%error, "cannot watch the power registers; power-off will not be seen");
        }
    }
}
