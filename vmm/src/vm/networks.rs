//! Networks of the host that a restored machine uses.
//!
//! A snapshot says what its guest knows of its card: address, MTU, queues. It also names the place
//! that the card had on the host. A snapshot that came from elsewhere gets none without a word of
//! its user. One of this host gets the same place, without the ports that its VM published: as a
//! rule that VM has them still.

use nvvmm_snapshot::SnapshotEntry;

use super::{RestoreOptions, VmError};
use crate::{
    error::ErrorKind,
    spec::{NetChoice, NetSource, NetSpec, VmSpec},
};

/// Gives the card of a restored machine its network.
///
/// # Errors
/// [`ErrorKind::Refused`] when the network of the snapshot cannot be had without a choice, or there
/// is no card to choose one for.
pub(super) fn choose(
    spec: &mut VmSpec,
    entry: &SnapshotEntry,
    restore: &RestoreOptions,
) -> Result<(), VmError> {
    let name = entry.name.as_str();
    if spec.nets().next().is_none() {
        return check_no_card(name, restore);
    }
    for card in spec.nets_mut() {
        match &restore.net {
            Some(choice) => check_known(card, choice, name)?.put_into(card),
            None if entry.foreign => return Err(from_elsewhere(card, name)),
            None => keep(card, name, restore)?,
        }
    }
    Ok(())
}

fn check_no_card(snapshot: &str, restore: &RestoreOptions) -> Result<(), VmError> {
    let choice = restore.net.as_ref();
    let wants_one = choice.is_some_and(|choice| choice.source != NetSource::None);
    match wants_one || !restore.published.is_empty() {
        false => Ok(()),
        true => Err(VmError::new(
            ErrorKind::Refused,
            format!("the machine of snapshot '{snapshot}' has no network card"),
        )
        .with_remedy("leave --net and -p out; a card is given with 'nvvmm run --net'")),
    }
}

/// Checks that a choice does not want what the guest knows otherwise.
fn check_known<'a>(
    card: &NetSpec,
    choice: &'a NetChoice,
    snapshot: &str,
) -> Result<&'a NetChoice, VmError> {
    let had_tap = matches!(card.source, NetSource::Tap { .. });
    if had_tap && matches!(choice.source, NetSource::Passt { .. }) {
        return Err(VmError::new(
            ErrorKind::Refused,
            format!(
                "the guest of snapshot '{snapshot}' was offered the offloads of {}, which passt \
                 does not have",
                place(card)
            ),
        )
        .with_remedy("give --net tap=NAME, or --net none for a link that is down"));
    }
    let differs = [
        ("mac", choice.mac.is_some_and(|mac| mac != card.mac)),
        ("mtu", choice.mtu.is_some_and(|mtu| mtu != card.mtu)),
        (
            "queues",
            choice.queues.is_some_and(|queues| queues != card.queues),
        ),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        None => Ok(choice),
        Some((option, _)) => Err(VmError::new(
            ErrorKind::Refused,
            format!(
                "the guest of snapshot '{snapshot}' knows its card by another '{option}': it has \
                 {} and {} queue pairs",
                card.mac, card.queues
            ),
        )
        .with_remedy(format!("leave '{option}=' out"))),
    }
}

fn keep(card: &mut NetSpec, snapshot: &str, restore: &RestoreOptions) -> Result<(), VmError> {
    match &mut card.source {
        NetSource::Passt { published } => {
            published.clone_from(&restore.published);
            Ok(())
        }
        NetSource::Fd { fd } => Err(VmError::new(
            ErrorKind::Refused,
            format!(
                "the card of snapshot '{snapshot}' was at descriptor {fd} of the command that \
                 started its VM, which is gone"
            ),
        )
        .with_remedy(
            "give --net fd=N with an open TAP device, --net tap=NAME, or --net none for a link \
             that is down",
        )),
        NetSource::Tap { .. } | NetSource::None if !restore.published.is_empty() => {
            Err(VmError::new(
                ErrorKind::Usage,
                format!(
                    "-p publishes ports of passt, and the card of snapshot '{snapshot}' is at {}",
                    place(card)
                ),
            )
            .with_remedy("leave -p out, or give --net passt, too"))
        }
        NetSource::Tap { .. } | NetSource::None => Ok(()),
    }
}

fn from_elsewhere(card: &NetSpec, snapshot: &str) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!(
            "snapshot '{snapshot}' came from elsewhere, and its guest has a network card: it was \
             at {} there",
            place(card)
        ),
    )
    .with_remedy(format!(
        "give --net passt, --net tap=NAME, or --net none for a link that is down; or 'nvvmm adopt \
         {snapshot}', if you trust its sender"
    ))
}

/// The place of a card on the host, for people.
fn place(card: &NetSpec) -> String {
    let place = match &card.source {
        NetSource::Passt { .. } => "passt".to_owned(),
        NetSource::Tap { name } => format!("the TAP device '{}'", name.escape_debug()),
        NetSource::Fd { fd } => format!("descriptor {fd}"),
        NetSource::None => "no network".to_owned(),
    };
    match &card.netns {
        None => place,
        Some(netns) => format!("{place} in the namespace '{}'", netns.escape_debug()),
    }
}
