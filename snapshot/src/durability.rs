//! Durability of committed snapshots, as pools promise it and users ask for it.

use serde::{Deserialize, Serialize};

/// An event that a committed snapshot must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The end of any process, however it ends.
    Process,
    /// A crash or restart of the host's kernel too.
    Host,
    /// A power cut too.
    Power,
}

impl Durability {
    /// From the weakest to the strongest.
    pub const ALL: [Durability; 3] = [Durability::Process, Durability::Host, Durability::Power];

    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Process => "process",
            Durability::Host => "host",
            Durability::Power => "power",
        }
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.pad(self.name())
    }
}

impl std::str::FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Durability, String> {
        let found = Durability::ALL
            .into_iter()
            .find(|durability| durability.name() == text);
        found.ok_or_else(|| format!("'{text}' is none of process, host, power"))
    }
}

/// The strongest durability that a pool can have where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DurabilityLimit {
    /// The strongest durability.
    pub strongest: Durability,
    /// Why that, and why not more, as a sentence for people.
    pub reason: String,
}
