//! Plugins that behave and plugins that do not. The secret that each of them prints is in no error.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;

const SECRET: &str = "k8s-aws-v1.hunter2";
const V1: &str = "client.authentication.k8s.io/v1";

fn now() -> SystemTime {
    SystemTime::from("2026-07-26T12:00:00Z".parse::<jiff::Timestamp>().unwrap())
}

fn credential(status: &str) -> String {
    format!(r#"{{"kind": "ExecCredential", "apiVersion": "{V1}", "spec": {{}}, "status": {status}}}"#)
}

fn good() -> String {
    credential(&format!(r#"{{"token": "{SECRET}", "expirationTimestamp": "2026-07-26T12:14:00Z"}}"#))
}

/// An executable with this script. Written by a child: see agent/tests/cli.rs.
fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("plugin");
    let source = dir.join("source");
    fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    let copied = std::process::Command::new("cp").arg("-p").arg(&source).arg(&path).status().unwrap();
    assert!(copied.success());
    path
}

fn exec(command: &str) -> ExecConfig {
    ExecConfig {
        api_version: Some(V1.into()),
        command: Some(command.into()),
        args: Some(vec!["--secret".into(), SECRET.into()]),
        ..ExecConfig::default()
    }
}

fn run_within(text: &str, deadline: Duration) -> Result<Credential> {
    let dir = tempfile::tempdir().unwrap();
    script(dir.path(), text);
    let plugin = Plugin::new(&exec("./plugin"), dir.path(), &Cluster::default(), None).unwrap();
    assert!(!format!("{plugin:?}").contains(SECRET));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(plugin.run(deadline, now()))
}

fn run(text: &str) -> Result<Credential> {
    run_within(text, Duration::from_secs(9))
}

/// The error of a plugin, without the secret and what else it printed.
fn fails(text: &str) -> String {
    let error = run(text).unwrap_err();
    let all = format!("{error} {error:?}");
    assert!(!all.contains("hunter2") && !all.contains("printed-by-it"), "{all}");
    assert!(error.to_string().starts_with("credential plugin /"), "{error}");
    error.to_string()
}

#[test]
fn a_token_comes_with_its_end() {
    let credential = run(&format!("echo noise >&2\ncat <<'E'\n{}\nE", good())).unwrap();
    assert_eq!(credential.token.unwrap().expose_secret(), SECRET);
    assert_eq!(credential.expires, Some(now() + Duration::from_secs(14 * 60)));
    assert!(credential.identity.is_none());
}

#[test]
fn it_is_told_what_client_go_tells() {
    let text = format!(
        r#"[ "$1 $2" = "--secret {SECRET}" ] && [ "$LEVEL" = 7 ] && [ -z "$CARGO_MANIFEST_DIR" ] || exit 9
        case "$KUBERNETES_EXEC_INFO" in *'"interactive":false'*) ;; *) exit 8 ;; esac
        case "$KUBERNETES_EXEC_INFO" in *https://api*) ;; *) exit 7 ;; esac
        echo '{}'"#,
        good()
    );
    let dir = tempfile::tempdir().unwrap();
    script(dir.path(), &text);
    let pair =
        |name: &str, value: &str| [("name".into(), name.into()), ("value".into(), value.into())].into();
    let exec = ExecConfig {
        env: Some(vec![pair("LEVEL", "7")]),
        provide_cluster_info: true,
        ..exec(dir.path().join("plugin").to_str().unwrap())
    };
    let cluster = Cluster { server: Some("https://api".into()), ..Cluster::default() };
    let plugin = Plugin::new(&exec, Path::new("/"), &cluster, None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(plugin.run(DEADLINE, now())).is_ok());
}

#[test]
fn one_that_hangs_after_printing_is_killed_at_the_deadline() {
    let started = Instant::now();
    let text = format!("echo '{}'; echo printed-by-it >&2; sleep 300", good());
    let error = run_within(&text, Duration::from_millis(500)).unwrap_err().to_string();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(
        error.contains("was not done within 0.5 s and was killed; what it printed is not shown"),
        "{error}"
    );
    assert!(!error.contains("hunter2") && !error.contains("printed-by-it"), "{error}");
}

#[test]
fn a_grandchild_that_holds_the_pipe_does_not_hold_us_nor_live_on() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let started = Instant::now();
    let text = format!("sleep 300 & echo $! >{}; echo '{}'", pid.display(), good());
    assert!(run(&text).is_ok());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let stat = format!("/proc/{}/stat", fs::read_to_string(&pid).unwrap().trim());
    let end = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < end, "the grandchild lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_that_fails_after_printing_a_token_has_failed() {
    let error = fails(&format!("echo '{}'; echo printed-by-it {SECRET} >&2; exit 3", good()));
    assert!(error.contains("failed with status 3; what it printed is not shown"), "{error}");
    let error = fails(&format!("echo '{}'; kill -9 $$", good()));
    assert!(error.contains("was ended by signal 9"), "{error}");
}

#[test]
fn rubbish_is_named_but_not_repeated() {
    for (text, words) in [
        ("", "printed no ExecCredential in JSON (line 1, column 0), but 0 bytes"),
        ("echo printed-by-it hunter2", "printed no ExecCredential in JSON"),
        ("head -c 300000 /dev/zero", "printed no ExecCredential in JSON"),
        ("printf '\\377\\376'", "printed no ExecCredential in JSON"),
        ("echo '\"hunter2\"'", "printed no ExecCredential in JSON"),
        ("echo '{\"kind\": \"hunter2\", \"apiVersion\": \"x\"}'", "another kind"),
        (
            "echo '{\"kind\": \"ExecCredential\", \"apiVersion\": \"hunter2\"}'",
            "another apiVersion than client.",
        ),
    ] {
        let error = fails(text);
        assert!(error.contains(words), "{text}: {error}");
    }
    for (status, words) in [
        ("null".to_owned(), "without status"),
        ("{}".to_owned(), "neither token nor certificate"),
        ("{\"token\": \"\"}".to_owned(), "neither token nor certificate"),
        ("{\"token\": 5}".to_owned(), "printed no ExecCredential"),
        ("{\"token\": \"hunter2\\nX-Evil: 1\"}".to_owned(), "expected a token of printable ASCII"),
        (format!("{{\"token\": \"{SECRET}\", \"expirationTimestamp\": \"hunter2\"}}"), "is no time"),
        (
            format!("{{\"token\": \"{SECRET}\", \"expirationTimestamp\": \"2026-07-26T11:59:00Z\"}}"),
            "expired 60 s ago",
        ),
        ("{\"clientKeyData\": \"hunter2\"}".to_owned(), "certificate without its key, or a key alone"),
        (
            "{\"clientKeyData\": \"hunter2\", \"clientCertificateData\": \"hunter2\"}".to_owned(),
            "expected certificates in PEM",
        ),
    ] {
        let error = fails(&format!("cat <<'E'\n{}\nE", credential(&status)));
        assert!(error.contains(words), "{status}: {error}");
    }
}

#[test]
fn what_is_wrong_in_the_kubeconfig_names_the_field() {
    let wrong = |exec: &ExecConfig| Plugin::new(exec, Path::new("/"), &Cluster::default(), None).unwrap_err();
    assert!(wrong(&exec("")).starts_with("command: "));
    assert!(
        wrong(&exec("no-such-plugin")).starts_with("command: there is no program `no-such-plugin` in PATH")
    );
    let old = ExecConfig { api_version: Some("client.authentication.k8s.io/v2".into()), ..exec("sh") };
    assert!(wrong(&old).starts_with("apiVersion: "));
    let env = vec![[("name".into(), "A=B".into()), ("value".into(), SECRET.into())].into()];
    let problem = wrong(&ExecConfig { env: Some(env), ..exec("sh") });
    assert!(problem.starts_with("env: ") && !problem.contains("hunter2"), "{problem}");
    let missing = Plugin::new(&exec("/nowhere/aws"), Path::new("/"), &Cluster::default(), None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(missing.run(DEADLINE, now())).unwrap_err().to_string();
    assert!(
        error.starts_with("credential plugin /nowhere/aws could not be started: No such file"),
        "{error}"
    );
}

#[test]
fn of_our_own_environment_it_gets_what_it_needs() {
    let own = ["AWS_REGION", "HTTPS_PROXY", "HOME", "NVME_AGENT_TARGET", "JOURNAL_STREAM", "LD_PRELOAD"];
    let names: Vec<OsString> = environment(own.into_iter().map(|name| (name.into(), "x".into())))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["PATH", "AWS_REGION", "HTTPS_PROXY", "HOME"]);
}

proptest! {
    #[test]
    fn whatever_is_printed_is_a_credential_or_an_error_that_does_not_quote(
        head in "(\\{|\"|\\[| |)",
        pairs in proptest::collection::vec(
            ("kind|apiVersion|status|token|x", "\"ExecCredential\"|\"client.authentication.k8s.io/v1\"|null|1|\\{\"token\": \"zqzq[a-z \\\\\\\\\"]{0,4}\"?\\}|\"zqzq\""),
            0..5,
        ),
        tail in "(\\}|\\]|)",
    ) {
        let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
        let text = format!("{head}{}{tail}", pairs.join(", "));
        match parse(text.as_bytes(), V1, now()) {
            Ok(credential) => prop_assert!(credential.token.is_some() && text.contains(V1)),
            Err(problem) => prop_assert!(!problem.contains("zqzq"), "{problem}"),
        }
    }

    #[test]
    fn any_bytes_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse(&bytes, V1, now()).is_err());
    }
}
