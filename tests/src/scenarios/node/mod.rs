//! What the Node says of its storage, and what becomes of a node that has none: nodeadm, kubelet and the API server are
//! stand-ins, the rest is the machine.

pub(crate) mod eks;
mod life;
mod pods;
mod policy;
mod runtime;

use crate::runner::{Scenario, Tier};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "node-life", tier: Tier::Normal, run: life::life },
    Scenario { name: "node-older-image", tier: Tier::Full, run: life::older },
    Scenario { name: "node-power-cut", tier: Tier::Full, run: life::power_cut },
    Scenario { name: "node-label", tier: Tier::Full, run: policy::label },
    Scenario { name: "node-taint", tier: Tier::Normal, run: policy::taint },
    Scenario { name: "node-no-join", tier: Tier::Full, run: policy::no_join },
    Scenario { name: "node-without-agent", tier: Tier::Normal, run: policy::without_agent },
    Scenario { name: "node-runtime", tier: Tier::Normal, run: runtime::changes },
    Scenario { name: "node-timer", tier: Tier::Full, run: runtime::timer },
    Scenario { name: "node-absent", tier: Tier::Normal, run: life::absent },
    Scenario { name: "node-pods", tier: Tier::Normal, run: pods::write },
    Scenario { name: "node-aws-token", tier: Tier::Full, run: runtime::aws_token },
];
