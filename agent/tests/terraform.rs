//! packaging/terraform: its core, which has no provider, says what `nvme-agent render` says. Skipped aloud where there is no terraform.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const SUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn core() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/terraform/core")
}

/// terraform in the module's directory, with what it keeps elsewhere.
fn terraform(work: &Path, args: &[&str]) -> Output {
    Command::new("terraform")
        .arg(format!("-chdir={}", core().display()))
        .args(args)
        .env("TF_DATA_DIR", work.join("data"))
        .env("TF_IN_AUTOMATION", "1")
        .output()
        .unwrap()
}

fn good(output: Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// None, said aloud, where there is no terraform.
fn ready() -> Option<tempfile::TempDir> {
    if Command::new("terraform").arg("version").output().is_err() {
        eprintln!("SKIPPED: terraform is not here; packaging/terraform/core is not tested");
        return None;
    }
    let work = tempfile::tempdir().unwrap();
    good(terraform(work.path(), &["init", "-backend=false", "-input=false", "-no-color"]));
    Some(work)
}

/// The module's outputs for these variables.
fn outputs(work: &Path, variables: &Value) -> Value {
    let (file, state) = (work.join("variables.tfvars.json"), work.join("state"));
    let _ = fs::remove_file(&state);
    fs::write(&file, variables.to_string()).unwrap();
    let (file, state) = (format!("-var-file={}", file.display()), format!("-state={}", state.display()));
    good(terraform(work, &["apply", "-auto-approve", "-input=false", "-no-color", &state, &file]));
    serde_json::from_str(&good(terraform(work, &["output", "-json", &state]))).unwrap()
}

fn render(args: &[&str]) -> String {
    good(Command::new(env!("CARGO_BIN_EXE_nvme-agent")).arg("render").args(args).output().unwrap())
}

/// Without indentation, which the module keeps.
fn flat(script: &str) -> Vec<&str> {
    script.lines().map(str::trim_start).collect()
}

#[test]
fn the_module_says_what_render_says() {
    let Some(work) = ready() else { return };
    let amd = json!({"url": "https://artifacts.example.com/nvme-agent-x86_64", "sha256": SUM});
    let arm = json!({"url": "s3://bucket/0.1.0/nvme-agent-aarch64", "sha256": SUM});
    let urls = ["--url-x86-64", amd["url"].as_str().unwrap(), "--sha256-x86-64", SUM];
    let both =
        [&urls[..], &["--url-aarch64", arm["url"].as_str().unwrap(), "--sha256-aarch64", SUM]].concat();
    let config = work.path().join("config.toml");
    fs::write(
        &config,
        "[[directory]]\npath = \"spill\"\nowner = \"1000\"\ngroup = \"root\"\nmode = \"2770\"\n",
    )
    .unwrap();
    let directory = json!([{"path": "spill", "owner": "1000", "group": "root", "mode": "2770"}]);
    let config = ["--config", config.to_str().unwrap()];
    let cases = [
        (
            json!({"binaries": {"x86_64": amd}, "on_failure": "label"}),
            [&urls[..], &["--on-failure", "label"]].concat(),
        ),
        (
            json!({"binaries": {"x86_64": amd}, "on_failure": "taint"}),
            [&urls[..], &["--on-failure", "taint"]].concat(),
        ),
        (
            json!({"binaries": {"x86_64": amd, "aarch64": arm}, "on_failure": "no-join", "region": "eu-west-1", "profile": "nvme",
                "target": "/opt/data", "expect_drives": 2, "directories": directory, "deadline": 301}),
            [
                &both[..],
                &config,
                &[
                    "--on-failure",
                    "no-join",
                    "--region",
                    "eu-west-1",
                    "--profile",
                    "nvme",
                    "--target",
                    "/opt/data",
                    "--expect-drives",
                    "2",
                    "--deadline",
                    "301s",
                ],
            ]
            .concat(),
        ),
    ];
    for (variables, args) in cases {
        let found = outputs(work.path(), &variables);
        let script = render(&[&["userdata"][..], &args].concat());
        let ours = found["userdata"]["value"].as_str().unwrap();
        for (ours, theirs) in flat(ours).into_iter().zip(flat(&script)) {
            assert_eq!(ours, theirs, "{args:?}");
        }
        assert_eq!(flat(ours).len(), flat(&script).len(), "{args:?}");
        let form = render(&[&["launch-template"][..], &args].concat());
        assert_eq!(
            flat(found["launch_template_userdata"]["value"].as_str().unwrap()),
            flat(&form),
            "{args:?}"
        );
    }
}

#[test]
fn its_objects_are_those_of_render() {
    let Some(work) = ready() else { return };
    let amd = json!({"url": "https://artifacts.example.com/nvme-agent-x86_64", "sha256": SUM});
    let variables = json!({
        "binaries": {"x86_64": amd}, "name": "pool", "cluster": "c", "role": "r", "volume_size": 50, "tags": {"team": "t"},
        "workspace": "w", "families": ["i4i", "m6id"], "zones": ["eu-west-1a"], "capacity_types": ["spot"], "cpu_limit": 64,
        "expire_after": "24h", "profile": "nvme", "ami_alias": "al2023@v20251023",
    });
    let found = outputs(work.path(), &variables);
    let class = render(&[
        "nodeclass",
        "--name",
        "pool",
        "--cluster",
        "c",
        "--role",
        "r",
        "--volume-size",
        "50Gi",
        "--tag",
        "team=t",
        "--workspace",
        "w",
        "--profile",
        "nvme",
        "--ami",
        "al2023@v20251023",
        "--url-x86-64",
        amd["url"].as_str().unwrap(),
        "--sha256-x86-64",
        SUM,
    ]);
    let pool = render(&[
        "nodepool",
        "--name",
        "pool",
        "--node-class",
        "pool",
        "--workspace",
        "w",
        "--family",
        "i4i,m6id",
        "--zone",
        "eu-west-1a",
        "--capacity-type",
        "spot",
        "--cpu-limit",
        "64",
        "--expire-after",
        "24h",
        "--profile",
        "nvme",
        "--arch",
        "amd64",
    ]);
    for (output, yaml) in [("node_class", class), ("node_pool", pool)] {
        let mut expected: Value = serde_saphyr::from_str(&yaml).unwrap();
        let mut found = found[output]["value"].clone();
        for object in [&mut expected, &mut found] {
            if let Some(script) = object["spec"].get_mut("userData") {
                *script = flat(script.as_str().unwrap()).join("\n").into();
            }
        }
        assert_eq!(found, expected, "{output}");
    }
}

/// Its own tests: what must not reach a root shell is refused by its variable.
#[test]
fn its_own_tests_pass_and_it_is_formatted() {
    let Some(work) = ready() else { return };
    let said = good(terraform(work.path(), &["test", "-no-color"]));
    assert!(said.contains(" passed, 0 failed"), "{said}");
    good(terraform(work.path(), &["fmt", "-check", "-diff", "-recursive", ".."]));
}
