//! An instance as EC2 launches it: userData by its metadata service, run by real cloud-init, with nodeadm's stand-in after it
//! and a server to fetch the agent from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::boot::{BlankDrives, Boot};
use crate::cache;
use crate::runner::agent_binary;
use crate::scenarios::node::eks::{Eks, NODE_CONFIG, Registered};
use crate::vm::Vm;
use crate::web;

/// The files that the server hands out, in a directory of the scenario's logs.
const BINARY: &str = "nvme-agent";

/// Two networks, as the units of this guest know them by the order of their devices: the instance's own, where this machine is
/// 10.0.2.2, and that of the metadata service.
const NETWORK: &str = "\
[Unit]
DefaultDependencies=no
After=systemd-udevd.service
Before=cloud-init-local.service cloud-init-main.service cloud-init.service nodeadm-config.service shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'modprobe virtio_net; udevadm settle -t 20; for i in 0 1; do ip link set eth$$i up; done; \
ip addr add 10.0.2.15/24 dev eth0; ip addr add 169.254.169.15/24 dev eth1'
[Install]
WantedBy=sysinit.target
";

/// cloud-init as AL2023 has it: EC2 is where it asks, nodeadm's first unit comes before it, and its last part does not wait
/// for multi-user.target, to which nodeadm-run belongs.
const CLOUD: &str = "\
rm -rf /var/lib/cloud
printf 'datasource_list: [ Ec2 ]\\ndatasource: {Ec2: {strict_id: false, timeout: 10, max_wait: 60}}\\nnetwork: {config: disabled}\\nssh_genkeytypes: []\\n' \
    > /etc/cloud/cloud.cfg.d/99-lab.cfg
for unit in cloud-final cloud-config; do
    sed '/^After=multi-user.target/d' /usr/lib/systemd/system/$unit.service > /etc/systemd/system/$unit.service
done
mkdir -p /etc/systemd/system/nodeadm-config.service.d
printf '[Unit]\\nBefore=cloud-final.service\\n' > /etc/systemd/system/nodeadm-config.service.d/cloud.conf
";

/// An instance that is launched with this userData.
pub struct Launch<'v, 'lab> {
    pub eks: Eks<'v, 'lab>,
    /// What the server hands out.
    files: PathBuf,
    /// `http://10.0.2.2:PORT`.
    url: String,
    imds: PathBuf,
}

impl<'v, 'lab> Launch<'v, 'lab> {
    /// Makes the image, with the agent on the server alone. The guest is up still.
    pub fn image(vm: &'v mut Vm<'lab>) -> Result<Launch<'v, 'lab>> {
        let work = vm.logs().join("served");
        let (files, imds) = (work.join("files"), work.join("imds"));
        let program = work.join(web::NAME);
        for dir in [&files, &imds.join("meta-data/placement"), &imds.join("dynamic/instance-identity")] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        // By this name, since cargo may have put another file in the place of the one that runs.
        fs::copy("/proc/self/exe", &program).context("copy this program")?;
        let agent = agent_binary().context("no agent has been built: `cargo lab dist`")?;
        fs::copy(&agent, files.join(BINARY)).with_context(|| format!("copy {}", agent.display()))?;
        let id = vm.instance.id.clone();
        let document = format!("{{\"instanceId\": \"{id}\", \"region\": \"eu-central-1\"}}\n");
        let facts = [
            ("meta-data/instance-id", id.as_str()),
            ("meta-data/local-hostname", "ip-10-0-2-15.ec2.internal"),
            ("meta-data/placement/availability-zone", "eu-central-1a"),
            ("meta-data/placement/region", "eu-central-1"),
            ("dynamic/instance-identity/document", document.as_str()),
        ];
        for (name, value) in facts {
            fs::write(imds.join(name), value).with_context(|| format!("write {name}"))?;
        }
        vm.ok(&format!("rm /usr/bin/nvme-agent; {CLOUD}"))?;
        let mut eks = Eks::image(vm)?;
        // cloud-init is a program in Python, which is slow under emulation.
        eks.patience = Duration::from_secs(240);
        eks.vm.write("/etc/systemd/system/stand-in-network.service", 0o644, NETWORK.as_bytes())?;
        eks.vm.ok("systemctl -q reenable stand-in-network.service; sync")?;
        let service =
            format!("guestfwd=tcp:169.254.169.254:80-cmd:{} imds {}", program.display(), imds.display());
        eks.vm.extra.extend([
            "-netdev".into(),
            format!("user,id=imds,net=169.254.169.0/24,host=169.254.169.2,{service}"),
            "-device".into(),
            "virtio-net-pci,netdev=imds,romfile=".into(),
        ]);
        let port = web::serve(&files)?.port();
        Ok(Launch { eks, files, url: format!("http://10.0.2.2:{port}"), imds })
    }

    /// The agent, as the server has it.
    pub fn agent(&self) -> PathBuf {
        self.files.join(BINARY)
    }

    /// What `nvme-agent render WHAT` prints with the server's agent.
    pub fn render(&self, what: &str, more: &[&str]) -> Result<String> {
        let (url, sum) = (format!("{}/{BINARY}", self.url), sha256(&self.agent())?);
        let agent = [what, "--url-x86-64", &url, "--sha256-x86-64", &sum];
        render(&[&agent[..], more].concat())
    }

    /// The launch of an instance where nothing is registered.
    pub fn boot_alone(&mut self, user_data: &str) -> Result<Boot> {
        let order = self.hand_out(user_data)?;
        self.eks.vm.boot_again(&order, BlankDrives::Keep)
    }

    /// For the boot that comes; returns the order of its drives, which is that of their making.
    fn hand_out(&self, user_data: &str) -> Result<Vec<usize>> {
        let path = self.imds.join("user-data");
        fs::write(&path, user_data).with_context(|| format!("write {}", path.display()))?;
        Ok((0..self.eks.vm.drives.len()).collect())
    }

    /// The launch: what the Node was registered with, where nodeadm-run got that far.
    pub fn boot(&mut self, user_data: &str) -> Result<(Boot, Option<Registered>)> {
        let order = self.hand_out(user_data)?;
        self.eks.boot(&order, BlankDrives::Keep)
    }
}

/// As Karpenter merges them for AL2023: ours first, its NodeConfig last.
pub fn karpenter(script: &str) -> String {
    mime(&[("text/x-shellscript; charset=\"us-ascii\"", script), ("application/node.eks.aws", NODE_CONFIG)])
}

/// Parts of a MIME document, with their types.
pub fn mime(parts: &[(&str, &str)]) -> String {
    let mut text = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"//\"\n\n".to_owned();
    for (kind, part) in parts {
        text.push_str(&format!("--//\nContent-Type: {kind}\n\n{part}\n"));
    }
    text + "--//--\n"
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(cache::digest(&bytes))
}

/// The agent's own word: `nvme-agent render ARGS`, on this machine, as whoever writes a node class runs it.
pub fn render(args: &[&str]) -> Result<String> {
    let agent = agent_binary().context("no agent has been built: `cargo lab dist`")?;
    let output = Command::new(&agent).arg("render").args(args).output();
    let output = output.with_context(|| format!("run {}", agent.display()))?;
    ensure!(output.status.success(), "render {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("what render printed")
}
