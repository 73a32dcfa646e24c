//! Options of network cards.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use nvvmm::spec::{NetChoice, Published};

use super::JsonFlag;
use crate::{completion, net_values, values};

/// Options of the network card, which `run` and `restore` share.
#[derive(Clone, Debug, Args)]
pub struct NetArguments {
    /// Give the guest a network card
    ///
    /// 'passt', or nothing, gives it the network of this host's user, by the program passt: no
    /// root, no setup; the guest gets its addresses by DHCP. 'tap=NAME' connects it to a TAP device
    /// of yours, and 'fd=N' to an open one, or to a stream socket that speaks the protocol of
    /// passt. 'none' is no card, or for a restored guest that has one a link that is down.
    ///
    /// More options, separated by commas: 'netns=NAME' opens it in that network namespace; 'mac=',
    /// 'mtu=' and 'queues=' are of the card; 'rate=10M' limits the bytes per second of each
    /// direction (powers of 1024), and 'pps=1000' the frames; what a second allows can be saved up.
    /// 'deny=NETWORK' and 'allow=NETWORK', as often as needed, say where the guest may send to:
    /// the longest prefix decides. The address 169.254.169.254 and the host's loopback are denied
    /// unless they are allowed.
    ///
    /// A restored guest keeps its card. Without this option it is at passt again, or at the same
    /// TAP device.
    #[arg(
        long,
        value_name = "NETWORK[,OPTION...]",
        num_args = 0..=1,
        default_missing_value = "passt",
        value_parser = net_values::network
    )]
    pub net: Option<NetChoice>,
    /// Have a port of this host lead into the guest: 8080:80, 127.0.0.1:8080:80,
    /// 8000-8010:8000-8010, 5353:53/udp. Repeat it for more
    ///
    /// It needs passt, which --publish alone gives, too. Without an address the port is open on
    /// all addresses of this host. A restored VM publishes only what is given here.
    #[arg(
        short,
        long = "publish",
        value_name = "[ADDRESS:]PORT:GUEST_PORT[/udp]",
        value_parser = net_values::published
    )]
    pub publish: Vec<Published>,
}

/// `nvvmm port`.
#[derive(Clone, Debug, Args)]
pub struct PortArguments {
    /// Name of the VM (default: all)
    #[arg(value_parser = values::vm_name, add = ArgValueCandidates::new(completion::vms))]
    pub vm: Option<String>,
    /// The form of the output.
    #[command(flatten)]
    pub json: JsonFlag,
}
