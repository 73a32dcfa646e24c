//! Operations of the machine on every device: pause, save, restore, resume.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A device that can be stopped between two instants of the guest, and carried over into another
/// machine.
///
/// A new device runs. The order is `pause`, any number of `save`s, `resume`; or, in a machine that
/// was built with the same devices, `restore` (which leaves the device paused) and `resume`. vCPUs
/// are paused before devices are, and resumed after them, so no register is accessed in between.
pub trait Device: Send {
    /// Kind of the device, as written into its saved state: "serial", "virtio-mmio".
    fn kind(&self) -> &'static str;

    /// Name of the device among those of its kind in this machine: "com1", "disk0".
    fn instance(&self) -> &str;

    /// Stops the device. After this returns, and until `resume`: it accesses no guest memory,
    /// raises no interrupt, and has no I/O in flight. Waits for I/O that is in flight. So the
    /// write-fault handler must be running, which I/O to write-protected guest memory needs.
    /// Pausing a paused device does nothing.
    ///
    /// # Errors
    /// The device is still running.
    fn pause(&mut self) -> Result<(), LifecycleError>;

    /// Lets a paused device go on. Raises the interrupts that are pending in its registers and
    /// looks at its queues once, because a signal may have been lost on the way into or out of
    /// a snapshot. Resuming a running device does nothing.
    ///
    /// # Errors
    /// A pending interrupt or notification could not be sent. The device runs.
    fn resume(&mut self) -> Result<(), LifecycleError>;

    /// Looks at the host's side of the device anew, for example at the size of a disk, and tells
    /// the driver if it changed; that of a paused device at its resume. Answers whether it did.
    ///
    /// # Errors
    /// The host fails; the device is as before.
    fn look_anew(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// The device's whole state.
    ///
    /// # Errors
    /// [`LifecycleError::NotPaused`] when it is running.
    fn save(&self) -> Result<SavedDevice, LifecycleError>;

    /// Takes over a saved state and leaves the device paused.
    ///
    /// # Errors
    /// The state is of another kind, instance or version, is damaged, or does not fit this machine.
    /// The device is then in no defined state and must not be resumed.
    fn restore(&mut self, saved: &SavedDevice) -> Result<(), LifecycleError>;
}

/// The state of one device: a postcard-encoded `...StateV<version>` struct, and the device's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDevice {
    /// Kind of the device; see [`Device::kind`].
    pub kind: String,
    /// Version of the state struct that `payload` encodes.
    pub version: u16,
    /// Name among those of its kind; see [`Device::instance`].
    pub instance: String,
    /// The state struct, encoded with postcard.
    pub payload: Vec<u8>,
}

impl SavedDevice {
    /// Encodes `state`.
    ///
    /// # Errors
    /// [`LifecycleError::Malformed`] when postcard cannot encode it.
    pub fn encode<T: Serialize>(
        kind: &str,
        version: u16,
        instance: &str,
        state: &T,
    ) -> Result<Self, LifecycleError> {
        let payload = postcard::to_allocvec(state).map_err(|source| LifecycleError::Malformed {
            kind: kind.to_owned(),
            version,
            instance: instance.to_owned(),
            source,
        })?;
        Ok(Self {
            kind: kind.to_owned(),
            version,
            instance: instance.to_owned(),
            payload,
        })
    }

    /// Decodes the state of device `kind` / `instance`, which must be of `version` and leave no
    /// byte over.
    ///
    /// # Errors
    /// One error for each of: other kind, other instance, unknown version, undecodable, bytes left
    /// over.
    pub fn decode<T: DeserializeOwned>(
        &self,
        kind: &str,
        version: u16,
        instance: &str,
    ) -> Result<T, LifecycleError> {
        if self.kind != kind || self.instance != instance {
            return Err(LifecycleError::WrongDevice {
                kind: kind.to_owned(),
                instance: instance.to_owned(),
                found_kind: self.kind.clone(),
                found_instance: self.instance.clone(),
            });
        }
        if self.version != version {
            return Err(LifecycleError::UnknownVersion {
                kind: kind.to_owned(),
                instance: instance.to_owned(),
                found: self.version,
                known: version,
            });
        }
        let (state, rest) = postcard::take_from_bytes(&self.payload).map_err(|source| {
            LifecycleError::Malformed {
                kind: kind.to_owned(),
                version,
                instance: instance.to_owned(),
                source,
            }
        })?;
        if !rest.is_empty() {
            return Err(LifecycleError::LeftOver {
                kind: kind.to_owned(),
                version,
                instance: instance.to_owned(),
                left_over_bytes: rest.len(),
            });
        }
        Ok(state)
    }
}

/// Reasons why a device cannot be paused, resumed, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The state belongs to another device.
    #[error(
        "this machine has {kind} {instance:?} where the snapshot has {found_kind} \
         {found_instance:?}; \
         restore with the devices that the snapshot was taken with"
    )]
    WrongDevice {
        /// Kind of the device that was to be restored.
        kind: String,
        /// Instance of the device that was to be restored.
        instance: String,
        /// Kind in the saved state.
        found_kind: String,
        /// Instance in the saved state.
        found_instance: String,
    },
    /// The state is of a version that this program does not know.
    #[error(
        "{kind} {instance:?}: saved state has version {found}, this program knows version {known}; \
         use the program version that wrote the snapshot, or a newer one"
    )]
    UnknownVersion {
        /// Kind of the device.
        kind: String,
        /// Instance of the device.
        instance: String,
        /// Version in the saved state.
        found: u16,
        /// Version known here.
        known: u16,
    },
    /// The state cannot be encoded or decoded.
    #[error("{kind} {instance:?}: saved state (version {version}) is damaged: {source}")]
    Malformed {
        /// Kind of the device.
        kind: String,
        /// Version of the state.
        version: u16,
        /// Instance of the device.
        instance: String,
        /// The error of postcard.
        source: postcard::Error,
    },
    /// There is more in the state than was decoded.
    #[error(
        "{kind} {instance:?}: the saved state (version {version}) has {left_over_bytes} B too \
         many; it is damaged or was written by another program version"
    )]
    LeftOver {
        /// Kind of the device.
        kind: String,
        /// Version of the state.
        version: u16,
        /// Instance of the device.
        instance: String,
        /// Number of bytes that were not decoded.
        left_over_bytes: usize,
    },
    /// The state is well-formed but this device cannot take it over.
    #[error("{kind} {instance:?}: the snapshot does not fit this machine: {reason}")]
    Rejected {
        /// Kind of the device.
        kind: String,
        /// Instance of the device.
        instance: String,
        /// The difference, and the remedy.
        reason: String,
    },
    /// Only a paused device can be saved.
    #[error("{kind} {instance:?} is running; pause it before saving")]
    NotPaused {
        /// Kind of the device.
        kind: String,
        /// Instance of the device.
        instance: String,
    },
    /// The host refused something.
    #[error("{kind} {instance:?}: {op}: {source}")]
    Io {
        /// Kind of the device.
        kind: String,
        /// Instance of the device.
        instance: String,
        /// The step that failed.
        op: &'static str,
        /// The host's error.
        source: io::Error,
    },
}

impl LifecycleError {
    /// For `map_err`: a pending interrupt could not be raised.
    pub(crate) fn interrupt(kind: &str, instance: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            kind: kind.to_owned(),
            instance: instance.to_owned(),
            op: "raise the pending interrupt",
            source,
        }
    }
}

#[cfg(test)]
#[path = "lifecycle_test.rs"]
mod lifecycle_test;
