//! The network that a user asks for.

use nvvmm_devices::virtio::{Mac, NetPolicy, NetRate, NetSource, NetSpec};

/// MTU of a card at passt, which puts no frames on a wire: the longest that it can have.
const PASST_MTU: u16 = 65520;

/// A network that a user asks for, for a new card or for one that a guest has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetChoice {
    /// Its place on the host.
    pub source: NetSource,
    /// The card's address. By default a new card has one that is made up.
    pub mac: Option<Mac>,
    /// Longest IP packet, in bytes.
    pub mtu: Option<u16>,
    /// Queue pairs.
    pub queues: Option<u8>,
    /// Network namespace of the host.
    pub netns: Option<String>,
    /// Limits of each direction.
    pub rate: NetRate,
    /// Destinations that the guest may send to.
    pub policy: NetPolicy,
}

impl NetChoice {
    /// A card at this place, and nothing else.
    pub fn of(source: NetSource) -> Self {
        Self {
            source,
            mac: None,
            mtu: None,
            queues: None,
            netns: None,
            rate: NetRate::default(),
            policy: NetPolicy::default(),
        }
    }

    /// A new card; with the address `made_up`, if none was asked for.
    pub fn new_card(self, made_up: Mac) -> NetSpec {
        let default_mtu = match self.source {
            NetSource::Passt { .. } => PASST_MTU,
            NetSource::Tap { .. } | NetSource::Fd { .. } | NetSource::None => 0,
        };
        NetSpec {
            source: self.source,
            mac: self.mac.unwrap_or(made_up),
            mtu: self.mtu.unwrap_or(default_mtu),
            queues: self.queues.unwrap_or(1),
            netns: self.netns,
            rate: self.rate,
            policy: self.policy,
        }
    }

    /// Has a card that a guest knows be at this place. The guest keeps what it knows of it.
    pub fn put_into(&self, card: &mut NetSpec) {
        card.source = self.source.clone();
        card.netns.clone_from(&self.netns);
        card.rate = self.rate;
        card.policy = self.policy.clone();
    }
}
