//! A card at a TAP device of the host: one end of a cable whose other end is the guest's card.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::backend::{Accepted, HEADER_BYTES, NetBackend, Offloads, PACKET_BYTES_MAX};
use crate::sys::{self, TapFlags};

const DEVICE: &str = "/dev/net/tun";
/// Flags of each queue: Ethernet frames, nothing before them but a virtio header.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
const CHECKSUM: libc::c_uint = libc::TUN_F_CSUM;
const TCP: libc::c_uint = libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
/// Linux 6.2 and newer.
const UDP: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// The queues of a TAP device, opened.
pub struct TapBackend {
    name: String,
    queues: Vec<File>,
    offloads: Offloads,
    mtu: Option<u16>,
    /// Queues that the device spreads its frames over: the first ones.
    used: usize,
}

impl TapBackend {
    /// Opens `pairs` queues of the TAP device `name`, in the network namespace of this thread.
    ///
    /// # Errors
    /// There is no such device, somebody uses it, it has fewer queues, or this user may not.
    pub fn open(name: &str, pairs: usize) -> io::Result<Self> {
        // The kernel would make one that ends with this process.
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let flags = |extra: libc::c_int| TapFlags {
            name: name.as_bytes().to_vec(),
            flags: (FLAGS | extra) as u16,
        };
        let mtu = sys::interface_mtu(&socket, &flags(0))?;
        let open = |extra| {
            let tun = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(DEVICE)?;
            sys::attach_tap(&tun, &flags(extra)).map(|()| tun)
        };
        let multi = libc::IFF_MULTI_QUEUE;
        let first = match pairs {
            // A device that was made with several queues takes the flag only.
            1 => open(0).or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => open(multi),
                _ => Err(error),
            })?,
            _ => open(multi)?,
        };
        let mut queues = vec![first];
        for _ in 1..pairs {
            queues.push(open(multi)?);
        }
        let mut tap = Self::of(queues, format!("tap {name}"))?;
        tap.mtu = u16::try_from(mtu).ok();
        Ok(tap)
    }

    /// Takes a TAP device with one queue that somebody has opened. It must have been made with a
    /// virtio header (`IFF_VNET_HDR`) and without `IFF_TUN`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when it is not such a device.
    pub fn of_file(file: File) -> io::Result<Self> {
        let found = sys::tap_flags(&file)?;
        if i32::from(found.flags) & FLAGS != FLAGS {
            return Err(ErrorKind::InvalidInput.into());
        }
        let name = String::from_utf8_lossy(&found.name).into_owned();
        Self::of(vec![file], format!("tap {name}"))
    }

    fn of(queues: Vec<File>, name: String) -> io::Result<Self> {
        let mut offloads = Offloads {
            checksum: true,
            tcp: true,
            udp: true,
        };
        for queue in &queues {
            sys::set_tap_header_bytes(queue, HEADER_BYTES as libc::c_int)?;
            if sys::set_tap_offloads(queue, CHECKSUM | TCP | UDP).is_err() {
                offloads.udp = false;
            }
            // Until there is a driver.
            sys::set_tap_offloads(queue, 0)?;
        }
        Ok(Self {
            name,
            used: queues.len(),
            queues,
            offloads,
            mtu: None,
        })
    }
}

impl NetBackend for TapBackend {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn pairs(&self) -> usize {
        self.queues.len()
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    fn fd(&self, pair: usize) -> Option<RawFd> {
        self.queues.get(pair).map(AsRawFd::as_raw_fd)
    }

    fn send(&mut self, pair: usize, packet: &[u8]) -> io::Result<()> {
        let queue = self.queues.get_mut(pair);
        let queue = queue.ok_or(ErrorKind::InvalidInput)?;
        // The kernel takes a packet wholly.
        queue.write(packet).map(drop)
    }

    fn receive(&mut self, pair: usize, packet: &mut Vec<u8>) -> io::Result<()> {
        let queue = self.queues.get_mut(pair);
        let queue = queue.ok_or(ErrorKind::BrokenPipe)?;
        packet.resize(PACKET_BYTES_MAX, 0);
        let read = queue.read(packet);
        packet.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(read) if read <= HEADER_BYTES => Err(ErrorKind::InvalidData.into()),
            Ok(_) => Ok(()),
            // The device was removed.
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                Err(ErrorKind::BrokenPipe.into())
            }
            Err(error) => Err(error),
        }
    }

    fn prepare(&mut self, accepted: Accepted, pairs: usize) -> io::Result<()> {
        let bits = |has, bits| if has { bits } else { 0 };
        let offloads = bits(accepted.checksum, CHECKSUM)
            | bits(accepted.tcp4, libc::TUN_F_TSO4)
            | bits(accepted.tcp6, libc::TUN_F_TSO6)
            | bits(accepted.udp && self.offloads.udp, UDP);
        let used = pairs.clamp(1, self.queues.len());
        let (low, high) = (used.min(self.used), used.max(self.used));
        for queue in &self.queues[low..high] {
            sys::use_tap_queue(queue, used > self.used)?;
        }
        self.used = used;
        // They are the device's, whatever queue they are told to.
        sys::set_tap_offloads(&self.queues[0], offloads)
    }
}
