//! Ten thousand nodes in one process: the agent's library is their agent, the server for tests their API server.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Config;
use nvme_agent::exec;
use nvme_agent::node::report::{self, Access, Options, Outcome};
use nvme_agent::node::{Keys, Readiness};
use nvme_agent::root::Root;
use nvme_agent::state::{Health, State};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::apiserver::Server;
use crate::apiserver::auth::User;
use crate::apiserver::cluster::{kubelet_conditions, registration};
use crate::apiserver::kubeconfig::{Authority, Exec, Login, kubeconfig};
use crate::apiserver::store::PatchKind;

/// Prints the credential, which is in a file: the cheapest process that is one.
const PLUGIN: &str = "/bin/cat";

/// The nodes, and what they ask.
pub struct Fleet {
    pub server: Server,
    members: Vec<Member>,
    runtime: Runtime,
    /// Kubeconfigs, credentials, memories.
    _dir: TempDir,
}

/// What one report of every node came to.
#[derive(Debug, Default)]
pub struct Round {
    /// From the first start to the last end.
    pub wall: Duration,
    /// How long each report took that succeeded, shortest first.
    pub times: Vec<Duration>,
    /// Of each that did not: why.
    pub failed: Vec<String>,
    /// Most requests of one node, those that got 429 not counted: they are the server's doing.
    pub most_requests: u32,
    /// Requests of all, the same way.
    pub requests: u32,
    /// Requests that got 429.
    pub throttled: u32,
    /// Most that were not throttled within one second.
    pub busiest_second: u32,
    /// Most credential processes of one node.
    pub most_processes: u32,
    /// Processes that were started, by anybody in this process.
    pub processes: u64,
}

impl Fleet {
    /// `count` nodes that nobody has registered yet.
    pub fn new(count: usize) -> Result<Fleet> {
        let server = Server::start()?;
        let dir = tempfile::tempdir().context("a directory for the nodes")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("start the nodes' threads")?;
        let members =
            (0..count).map(|number| Member::new(&server, &dir, number)).collect::<Result<Vec<_>>>()?;
        Ok(Fleet { server, members, runtime, _dir: dir })
    }

    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The same nodes, less patient.
    #[cfg(test)]
    pub fn set_patience(&mut self, patience: Duration) {
        for member in &mut self.members {
            member.options.patience = patience;
        }
    }

    /// What kubelet of each node does, with the labels that the drop-in gives it: the agent has a part in the words only.
    pub fn register(&self, state: &State) -> Result<Round> {
        let started = Instant::now();
        let processes = exec::count();
        for Member { options, .. } in &self.members {
            let words = Readiness::of(state, &options.keys, "").node_labels();
            let mut node = registration(&options.node);
            for (key, value) in words.split(',').filter_map(|pair| pair.split_once('=')) {
                node["metadata"]["labels"][key] = json!(value);
            }
            let user = User::node(&options.node);
            let status = json!({"status": {"conditions": kubelet_conditions()}});
            let store = self.server.store();
            store
                .create(&user, node)
                .and_then(|_| store.patch(&user, &options.node, true, PatchKind::Strategic, &status))
                .map_err(|failure| anyhow::anyhow!("register {}: {}", options.node, failure.message))?;
        }
        let mut round = Round { processes: exec::count() - processes, ..Round::default() };
        round.wall = started.elapsed();
        self.asked(&mut round);
        Ok(round)
    }

    /// A tick of every node, some at a time, each with a credential process where it needs one.
    ///
    /// Not all together: a fork copies the page tables of this whole process, and many connections make those large.
    pub fn tick(&self, state: &State) -> Round {
        const TOGETHER: usize = 100;
        let mut round = Round::default();
        for members in self.members.chunks(TOGETHER) {
            let runs = members.iter().map(|member| (Duration::ZERO, member.ticking()));
            self.run(state, runs, &mut round);
        }
        round
    }

    /// A report of every node, each begun at a random time within `spread`, with a credential that needs no process: ten
    /// thousand of those on one machine are what would be measured.
    pub fn report(&self, state: &State, spread: Duration) -> Round {
        // Random, but the same in every run.
        let mut random = fastrand::Rng::with_seed(1);
        let mut round = Round::default();
        let runs = self.members.iter().map(|member| (spread.mul_f64(random.f64()), member.with_token()));
        self.run(state, runs, &mut round);
        round
    }

    /// Each after its delay, all of them to their end.
    fn run(&self, state: &State, runs: impl Iterator<Item = (Duration, Options)>, round: &mut Round) {
        let (started, processes) = (Instant::now(), exec::count());
        let state = Arc::new(state.clone());
        let tasks: Vec<_> = runs
            .map(|(delay, options)| {
                let state = state.clone();
                self.runtime.spawn(async move {
                    tokio::time::sleep(delay).await;
                    let started = Instant::now();
                    let outcome = report::report(&options, &state).await;
                    (started.elapsed(), outcome)
                })
            })
            .collect();
        for task in tasks {
            match self.runtime.block_on(task) {
                Ok((time, Ok(Outcome { processes, .. }))) => {
                    round.times.push(time);
                    round.most_processes = round.most_processes.max(processes);
                }
                Ok((_, Err(error))) => round.failed.push(error.to_string()),
                Err(error) => round.failed.push(format!("a panic: {error}")),
            }
        }
        round.times.sort_unstable();
        round.processes += exec::count() - processes;
        round.wall += started.elapsed();
        self.asked(round);
    }

    /// Takes over what the server was asked since the last time, by its own record and not by the clients' word.
    fn asked(&self, round: &mut Round) {
        let mut by_node: HashMap<String, u32> = HashMap::new();
        let mut by_second: HashMap<u64, u32> = HashMap::new();
        let entries = self.server.take_requests();
        let first = entries.iter().map(|entry| entry.at).min();
        for entry in entries {
            if entry.status == Some(429) {
                round.throttled += 1;
                continue;
            }
            round.requests += 1;
            *by_node.entry(entry.user).or_default() += 1;
            let second = first.map(|first| (entry.at - first).as_secs()).unwrap_or_default();
            *by_second.entry(second).or_default() += 1;
        }
        let most = by_node.into_values().max().unwrap_or_default();
        round.most_requests = round.most_requests.max(most);
        let busiest = by_second.into_values().max().unwrap_or_default();
        round.busiest_second = round.busiest_second.max(busiest);
    }

    /// Nodes that do not say `state`, or lack what kubelet wrote: what is wrong with each.
    pub fn wrong(&self, state: &State) -> Vec<String> {
        let problem = |Member { options, .. }: &Member| {
            let node = self.server.store().node(&options.node).map_err(|failure| failure.message);
            let words = Readiness::of(state, &options.keys, "");
            let problem = node.and_then(|node| check(&node, &words, &options.keys)).err()?;
            Some(format!("Node {}: {problem}", options.node))
        };
        self.members.iter().filter_map(problem).collect()
    }
}

fn check(node: &Value, words: &Readiness, keys: &Keys) -> Result<(), String> {
    for (key, value) in &words.labels {
        let found = &node["metadata"]["labels"][key];
        if *found != **value {
            return Err(format!("label {key}: expected {value}, found {found}"));
        }
    }
    let conditions = node["status"]["conditions"].as_array().ok_or("no conditions")?;
    let ours = conditions.iter().find(|condition| condition["type"] == keys.condition());
    let reason = ours.map(|ours| &ours["reason"]);
    if reason.is_none_or(|reason| *reason != *words.condition.reason) {
        return Err(format!("condition: expected {}, found {ours:?}", words.condition.reason));
    }
    let kubelets = kubelet_conditions();
    let kept = |condition: &Value| conditions.contains(condition);
    if kubelets.as_array().is_some_and(|all| all.iter().all(kept)) {
        Ok(())
    } else {
        Err("kubelet's own conditions are not as they were".into())
    }
}

/// One node.
struct Member {
    /// With a credential plugin, as on EKS.
    options: Options,
    /// With the token that the plugin prints.
    token: Access,
}

impl Member {
    fn new(server: &Server, dir: &TempDir, number: usize) -> Result<Member> {
        let name = format!("ip-10-{}-{}-{}.ec2.internal", number >> 16, number >> 8 & 255, number & 255);
        let token = format!("t0ken-0f-fleet-{number:05}-9c1d4e7ab3");
        server.tokens().add(&token, User::node(&name));
        // Each its own: whoever replaces a file looks for what others have left in its directory.
        let dir = dir.path().join(number.to_string());
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let write = |kind: &str, text: String| {
            let path = dir.join(kind);
            fs::write(&path, text).with_context(|| format!("write {}", path.display())).map(|()| path)
        };
        let credential = json!({
            "apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential", "status": {"token": token},
        });
        let file = write("credential", credential.to_string())?.display().to_string();
        let plugin = Exec { command: PLUGIN, args: &[&file], env: &[] };
        let memory = dir.join("reported.json");
        let text = kubeconfig(&server.url(), &Authority::Data(&server.pki().ca), &Login::Exec(plugin));
        let access = Access::read(&Root::default(), Some(&write("kubeconfig", text)?))?;
        let mut config = Config::new(server.url().parse().context("the server's URL")?);
        let ca = CertificateDer::from_pem_slice(server.pki().ca.as_bytes()).context("the CA")?;
        config.root_cert = Some(vec![ca.to_vec()]);
        config.auth_info.token = Some(token.into());
        Ok(Member { options: Options::new(access, name, memory), token: Access::with(config) })
    }

    fn ticking(&self) -> Options {
        Options { if_changed: true, ..self.options.clone() }
    }

    fn with_token(&self) -> Options {
        Options { access: self.token.clone(), ..self.options.clone() }
    }
}

/// What setup came to, as every node of the fleet says it.
pub fn state(health: Health, reason: &str, message: &str) -> State {
    State {
        state: health,
        reason: reason.into(),
        message: message.into(),
        since: "2026-01-02T03:04:05Z".into(),
        boot_id: "3f8b3e9c-6c1a-4d5e-9f20-5a1b2c3d4e5f".into(),
        agent: env!("CARGO_PKG_VERSION").into(),
        layout: "single".into(),
        target: "/tmp".into(),
        device: "nvme1n1".into(),
        serials: vec!["AWS0006638E38E390087".into()],
        drives: 1,
        capacity_gib: 435,
        ..State::default()
    }
}
