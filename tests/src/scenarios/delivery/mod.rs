//! Ways for the agent to come to a node: userData in each form that an instance gets it, and what becomes of the node when
//! that goes wrong.

mod bake;
mod channel;
mod faults;
mod forms;
mod launch;
mod upgrade;

use crate::runner::{Scenario, Tier};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "delivery-faults", tier: Tier::Full, run: faults::faults },
    Scenario { name: "delivery-channel", tier: Tier::Full, run: channel::channel },
    Scenario { name: "delivery-ami", tier: Tier::Full, run: bake::bake },
    Scenario { name: "delivery-upgrade", tier: Tier::Full, run: upgrade::upgrade },
    Scenario { name: "delivery-karpenter", tier: Tier::Full, run: forms::karpenter },
    Scenario { name: "delivery-al2", tier: Tier::Full, run: forms::al2 },
    Scenario { name: "delivery-managed", tier: Tier::Full, run: forms::managed },
    Scenario { name: "delivery-baked", tier: Tier::Full, run: forms::baked },
];
