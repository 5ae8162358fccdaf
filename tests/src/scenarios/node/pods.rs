//! The pods of `packaging/kubernetes/`, as far as a machine without a container runtime can be one: the init container's own
//! script runs as the pod's user, in a mount namespace in which the hostPath is where the container has it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, workspace};
use crate::vm::Vm;

const DIR: &str = "packaging/kubernetes";
const PODS: [&str; 3] = ["pod-e6data-executor.yaml", "pod-trino-worker.yaml", "pod-starburst-worker.yaml"];

pub fn write(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let config =
            std::fs::read(workspace().join(DIR).join("directories.toml")).context("directories.toml")?;
        vm.write("/etc/nvme-agent/config.toml", 0o644, &config)?;
        vm.ok("nvme-agent setup")?;
        for name in PODS {
            let pod = read(name)?;
            let (output, host) = run(vm, &pod)?;
            ensure!(output.rc == 0, "{name}: {output:?}");
            ensure!(vm.ok(&format!("stat -c '%u %U' {host}/written"))? == "1000 UNKNOWN", "{name}");
        }
        // Without our filesystem there is no such directory: hostPath with `type: Directory` keeps the pod waiting. One that is
        // there on another filesystem is refused by the pod itself.
        vm.ok("umount /tmp")?;
        for name in PODS {
            let pod = read(name)?;
            let host = host_path(&pod)?;
            ensure!(vm.sh(&format!("[ -e {host} ]"))?.rc != 0, "{host} is there without our mount");
            vm.ok(&format!("mkdir -p {host}; chown 1000:1000 {host}"))?;
            let (output, _) = run(vm, &pod)?;
            ensure!(
                output.rc == 1 && output.err.contains("is not on the local NVMe drives"),
                "{name}: {output:?}"
            );
        }
        Ok(())
    })
}

fn read(name: &str) -> Result<Value> {
    let text = std::fs::read_to_string(workspace().join(DIR).join(name)).with_context(|| name.to_owned())?;
    // A ConfigMap follows in some.
    let pod = text.split("\n---\n").next().unwrap_or_default();
    let pod: Value = serde_saphyr::from_str(pod).with_context(|| format!("{name} is not YAML"))?;
    ensure!(pod["kind"] == "Pod", "{name}: {pod}");
    Ok(pod)
}

fn host_path(pod: &Value) -> Result<&str> {
    let volumes = pod["spec"]["volumes"].as_array().context("volumes")?;
    let volume = volumes.iter().find_map(|volume| volume.get("hostPath")).context("no hostPath")?;
    ensure!(volume["type"] == "Directory", "{volume}");
    volume["path"].as_str().context("hostPath.path")
}

/// Init container's check, then a file as the main container would write one.
fn run(vm: &mut Vm, pod: &Value) -> Result<(crate::vm::Output, String)> {
    let host = host_path(pod)?.to_owned();
    let spec = &pod["spec"];
    let init = &spec["initContainers"][0];
    let at = init["volumeMounts"][0]["mountPath"].as_str().context("mountPath")?;
    ensure!(spec["containers"][0]["volumeMounts"][0]["mountPath"] == at, "checked where it is not used");
    let (uid, gid) = (&spec["securityContext"]["runAsUser"], &spec["securityContext"]["runAsGroup"]);
    let command = init["command"].as_array().context("command")?;
    ensure!(command.len() == 3 && command[0] == "sh" && command[1] == "-c", "{command:?}");
    let script = command[2].as_str().context("script")?;
    vm.write("/run/pod.sh", 0o755, format!("{script}\necho written > {at}/written\n").as_bytes())?;
    let env: Vec<String> = init["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| Some(format!("{}={}", one["name"].as_str()?, one["value"].as_str()?)))
        .collect();
    let output = vm.sh(&format!(
        "unshare --mount --propagation private bash -ec 'mkdir -p {at}; mount --bind {host} {at}
             exec setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --bounding-set=-all env {} sh /run/pod.sh'",
        env.join(" ")
    ))?;
    Ok((output, host))
}
