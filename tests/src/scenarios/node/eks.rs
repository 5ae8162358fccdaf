//! A guest that is an EKS node as far as the agent sees it: nodeadm's two units with a stand-in for nodeadm, a kubelet that is
//! started by it, a network, and an API server on this machine.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::apiserver::Server;
use crate::apiserver::audit::Entry;
use crate::apiserver::auth::User;
use crate::apiserver::client::{Credential, MERGE, STRATEGIC};
use crate::apiserver::cluster::{Cluster, kubelet_conditions, registration};
use crate::apiserver::kubeconfig::{Authority, Login, kubeconfig};
use crate::apiserver::pki::Pair;
use crate::boot::{BlankDrives, Boot};
use crate::drive::{DriveSpec, GIB};
use crate::nodeadm::{NODE, OLDER, REGISTERED, USER_DATA};
use crate::vm::Vm;

/// The agent's label domain where none is configured.
pub const DOMAIN: &str = "nvme-agent.e6data.com";
/// The taint that Karpenter's NodeConfig has a node register with.
pub const KARPENTERS: &str = "karpenter.sh/unregistered";
const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";
/// QEMU's user network: this machine's loopback, seen from the guest.
const HOST: &str = "10.0.2.2";

/// As Karpenter hands it over: its own taint, a label of its NodePool.
pub const NODE_CONFIG: &str = "\
apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster: {name: lab, apiServerEndpoint: \"https://10.0.2.2\", certificateAuthority: Y2E=, cidr: 172.20.0.0/16}
  kubelet:
    config:
      maxPods: 58
      registerWithTaints: [{key: karpenter.sh/unregistered, effect: NoExecute}]
    flags: [\"--node-labels=karpenter.sh/nodepool=nvme\"]
";

const UNITS: [(&str, &str); 4] = [
    (
        "stand-in-network.service",
        "[Unit]\nBefore=nodeadm-run.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh -c 'modprobe virtio_net; cd /sys/class/net; for i in e*; do ip link set $$i up; \
         ip addr add 10.0.2.15/24 dev $$i; done'\n[Install]\nWantedBy=multi-user.target\n",
    ),
    (
        "nodeadm-config.service",
        "[Unit]\nBefore=cloud-init.service\n[Service]\nType=oneshot\nExecStart=/usr/bin/nodeadm config-phase\n\
         [Install]\nWantedBy=multi-user.target\n",
    ),
    (
        "nodeadm-run.service",
        "[Unit]\nRequires=nodeadm-config.service\nAfter=nodeadm-config.service cloud-final.service\n[Service]\nType=oneshot\n\
         ExecStart=/usr/bin/nodeadm run --config-source file:///etc/eks/nodeadm.d/\n[Install]\nWantedBy=multi-user.target\n",
    ),
    (
        // It leaves what kubelet leaves when it runs first.
        "kubelet.service",
        "[Service]\nExecStart=/bin/sh -c 'mkdir -p /var/lib/kubelet/pods; exec sleep infinity'\nRestart=always\n",
    ),
];

/// The node, and the cluster that it joins.
pub struct Eks<'v, 'lab> {
    pub vm: &'v mut Vm<'lab>,
    pub cluster: Cluster,
    /// What nodeadm-run is waited for.
    pub patience: Duration,
    pair: Arc<Pair>,
}

/// What nodeadm-run left for kubelet: labels and taints of the Node's CREATE.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    pub labels: Value,
    /// Keys only.
    pub taints: Vec<String>,
}

impl Registered {
    /// A label of the agent's domain.
    pub fn label(&self, name: &str) -> &str {
        self.labels[format!("{DOMAIN}/{name}")].as_str().unwrap_or_default()
    }
}

impl<'v, 'lab> Eks<'v, 'lab> {
    /// An image with everything but the agent's installation; the guest is still up, and its next boot is the first that counts.
    pub fn image(vm: &'v mut Vm<'lab>) -> Result<Eks<'v, 'lab>> {
        let cluster = Cluster::test(Server::start()?)?;
        let pair = Arc::new(cluster.pki().client(&User::node(NODE))?);
        // By this name, since cargo may have put another file in the place of the one that runs.
        vm.push(Path::new("/proc/self/exe"), "/usr/bin/nodeadm")?;
        for (name, text) in UNITS {
            vm.write(&format!("/etc/systemd/system/{name}"), 0o644, text.as_bytes())?;
        }
        vm.write(USER_DATA, 0o644, NODE_CONFIG.as_bytes())?;
        vm.ok(
            "mkdir -p /etc/eks/nodeadm.d
               systemctl -q enable stand-in-network.service nodeadm-config.service nodeadm-run.service; sync",
        )?;
        vm.extra = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]
            .map(str::to_owned)
            .to_vec();
        let mut eks = Eks { vm, cluster, patience: Duration::from_secs(100), pair: pair.clone() };
        eks.login(&Login::Certificate(&pair))?;
        Ok(eks)
    }

    /// [`Eks::image`] with two drives and the agent, after its first boot, which was a good one.
    pub fn booted(vm: &'v mut Vm<'lab>, config: &str) -> Result<(Eks<'v, 'lab>, Registered)> {
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        let mut eks = Eks::image(vm)?;
        eks.install(config)?;
        let (boot, registered) = eks.boot(&[0, 1], BlankDrives::Keep)?;
        boot.clean()?;
        Ok((eks, registered.context("nodeadm-run did not get through")?))
    }

    /// Writes kubelet's kubeconfig.
    pub fn login(&mut self, login: &Login<'_>) -> Result<()> {
        let server = self.cluster.url.replace("127.0.0.1", HOST);
        let text = kubeconfig(&server, &Authority::Data(&self.cluster.ca), login);
        let named = format!("server: {server}\n      tls-server-name: localhost");
        let text = text.replace(&format!("server: {server}"), &named);
        self.vm.write(KUBECONFIG, 0o600, text.as_bytes())
    }

    /// The same as an image from before `/etc/eks/nodeadm.d`: its nodeadm-run does not name the directory, which somebody has
    /// made there all the same.
    pub fn older(&mut self) -> Result<()> {
        let unit = "/etc/systemd/system/nodeadm-run.service";
        self.vm
            .ok(&format!(
                "sed -i 's| --config-source .*||' {unit}; if grep nodeadm.d {unit}; then exit 1; fi; touch {OLDER}; ls -d /etc/eks/nodeadm.d"
            ))
            .map(drop)
    }

    /// Configures and installs the agent.
    pub fn install(&mut self, config: &str) -> Result<()> {
        self.vm.write("/etc/nvme-agent/config.toml", 0o644, config.as_bytes())?;
        self.vm.ok("nvme-agent install; sync").map(drop)
    }

    /// Switches off and on; the Node is registered by what nodeadm-run leaves, where it does not exist. None where nodeadm-run
    /// did not get that far.
    pub fn boot(&mut self, order: &[usize], drives: BlankDrives) -> Result<(Boot, Option<Registered>)> {
        self.vm.power_off()?;
        self.power_on(order, drives)
    }

    /// The same with the power cut instead of switching off.
    pub fn power_on(&mut self, order: &[usize], drives: BlankDrives) -> Result<(Boot, Option<Registered>)> {
        let started = Instant::now();
        self.vm.power_on_without_waiting(order, drives)?;
        let script = format!(
            "until [ -e {REGISTERED} -o $SECONDS -gt {} ]; do
                 case $(systemctl is-active nodeadm-run.service) in failed) break;; esac
                 sleep 0.2
             done
             cat {REGISTERED} 2> /dev/null || :",
            self.patience.as_secs()
        );
        let text = self.vm.sh_within(self.patience + Duration::from_secs(20), &script)?.out;
        let registered =
            if text.trim().is_empty() { None } else { Some(self.register(&serde_json::from_str(&text)?)?) };
        let boot = self.vm.booted(started)?;
        Ok((boot, registered))
    }

    /// As kubelet does: creates the Node, and leaves one that exists as it is.
    pub fn register(&mut self, found: &Value) -> Result<Registered> {
        let taints = found["taints"].as_array().context("taints")?;
        let keys = taints.iter().filter_map(|taint| taint["key"].as_str().map(str::to_owned)).collect();
        let registered = Registered { labels: found["labels"].clone(), taints: keys };
        let kubelet = self.cluster.client(Credential::Certificate(self.pair.clone()));
        if self.cluster.admin.get(&format!("/api/v1/nodes/{NODE}"))?.code == 200 {
            return Ok(registered);
        }
        let mut node = registration(NODE);
        for (key, value) in found["labels"].as_object().context("labels")? {
            node["metadata"]["labels"][key] = value.clone();
        }
        node["spec"]["taints"] = found["taints"].clone();
        let reply = kubelet.post("/api/v1/nodes", &node)?;
        ensure!(reply.code == 201, "register: {}", reply.text);
        let status = json!({"status": {"conditions": kubelet_conditions()}});
        let reply = kubelet.patch(&format!("/api/v1/nodes/{NODE}/status"), STRATEGIC, &status)?;
        ensure!(reply.code == 200, "status: {}", reply.text);
        Ok(registered)
    }

    /// A label on the Node, as the cluster has it.
    pub fn label(&self, name: &str) -> Result<String> {
        let node = self.cluster.node(NODE)?;
        let label = node["metadata"]["labels"][format!("{DOMAIN}/{name}")].as_str();
        Ok(label.unwrap_or_default().to_owned())
    }

    /// Status, reason and message of the agent's condition; and kubelet's are all there.
    pub fn condition(&self) -> Result<(String, String, String)> {
        let node = self.cluster.node(NODE)?;
        let conditions = node["status"]["conditions"].as_array().context("conditions")?;
        let of = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind);
        for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            ensure!(of(kind).is_some(), "kubelet's condition {kind} is gone: {conditions:?}");
        }
        let ours = of(&format!("{DOMAIN}/LocalStorageReady")).context("no condition of ours")?;
        let field = |name: &str| ours[name].as_str().unwrap_or_default().to_owned();
        Ok((field("status"), field("reason"), field("message")))
    }

    /// The Node in the cluster says that the storage is ready.
    pub fn told_ready(&self) -> Result<()> {
        let (label, condition) = (self.label("state")?, self.condition()?);
        ensure!(
            label == "ready" && condition.0 == "True",
            "the label is `{label}`, the condition {condition:?}"
        );
        Ok(())
    }

    /// The Node in the cluster says that the storage failed, why, and which drive.
    pub fn told_failed(&self, reason: &str, needle: &str) -> Result<()> {
        let (label, condition) = (self.label("state")?, self.condition()?);
        ensure!(label == "failed", "the label is `{label}`");
        ensure!(
            condition.0 == "False" && condition.1 == reason && condition.2.contains(needle),
            "{condition:?}"
        );
        Ok(())
    }

    /// A person's label on the Node.
    pub fn put_label(&self, key: &str, value: &str) -> Result<()> {
        let patch = json!({"metadata": {"labels": {key: value}}});
        let reply = self.cluster.admin.patch(&format!("/api/v1/nodes/{NODE}"), MERGE, &patch)?;
        ensure!(reply.code == 200, "{}", reply.text);
        Ok(())
    }

    /// A tick of the timer, now. Returns what the API server was asked.
    pub fn tick(&mut self) -> Result<Vec<Entry>> {
        self.cluster.server()?.take_requests();
        self.vm.ok("systemctl start nvme-agent-report.service")?;
        Ok(self.cluster.server()?.take_requests())
    }
}
