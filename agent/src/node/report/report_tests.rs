//! How a report ends: in time, whatever the other side does, and without asking where there is nothing new. What it
//! says to a real API server is the suite's business (`tests/tests/apiserver`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::state::Health;

/// Longer than any machine is busy, far shorter than what is waited for in earnest.
const SOON: Duration = Duration::from_secs(20);

fn state(state: Health, reason: &str) -> State {
    State { state, reason: reason.into(), boot_id: "boot".into(), ..State::default() }
}

fn run(options: &Options, state: &State) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(report(options, state));
    runtime.shutdown_background();
    outcome
}

fn options(url: &str, dir: &tempfile::TempDir) -> Options {
    let access = Access::with(kube::Config::new(url.parse().unwrap()));
    Options {
        patience: Duration::from_secs(1),
        ..Options::new(access, "n", dir.path().join("reported.json"))
    }
}

/// A server that does `work` with each connection, on a thread that ends with the test's process.
fn server(work: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            open.push(stream.try_clone().unwrap());
            work(stream);
        }
    });
    address.to_string()
}

/// The Node, and what was asked.
type Kept = Arc<Mutex<(Value, Vec<String>)>>;

/// An API server without TLS that has one Node and notes what it is asked; strategic merges are merges of objects here.
fn api(node: Value) -> (String, Kept) {
    let all = Arc::new(Mutex::new((node, Vec::new())));
    let kept = all.clone();
    let address = server(move |stream| {
        let kept = kept.clone();
        std::thread::spawn(move || while answer(&stream, &kept).is_some() {});
    });
    (format!("http://{address}"), all)
}

fn answer(mut stream: &TcpStream, kept: &Mutex<(Value, Vec<String>)>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).ok()?;
    let asked: Vec<&str> = line.split(' ').take(2).collect();
    let asked = asked.join(" ");
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        match header.to_ascii_lowercase().strip_prefix("content-length:") {
            Some(n) => length = n.trim().parse().ok()?,
            None if header.trim().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut kept = kept.lock().unwrap();
    if asked.starts_with("PATCH") {
        let patch: Value = serde_json::from_slice(&body).ok()?;
        merge(&mut kept.0, &patch);
    }
    kept.1.push(asked);
    let text = kept.0.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(format!("{head}{text}").as_bytes()).ok()
}

fn merge(there: &mut Value, patch: &Value) {
    match (there, patch) {
        (Value::Object(there), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(there.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (there, patch) => *there = patch.clone(),
    }
}

fn node() -> Value {
    json!({ "metadata": { "name": "n", "uid": "one", "labels": {}, "annotations": {} }, "status": { "conditions": [] } })
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing of a TLS handshake, and nothing of HTTP.
    for scheme in ["https", "http"] {
        let address = server(|_| {});
        let started = Instant::now();
        let error =
            run(&options(&format!("{scheme}://{address}"), &dir), &state(Health::Ready, "X")).unwrap_err();
        assert!(started.elapsed() < SOON, "{scheme}: {:?}", started.elapsed());
        assert_eq!(error.exit_code(), 1, "{error}");
        let said = error.to_string();
        assert!(said.starts_with(&format!("{scheme}://{address} was asked once")), "{said}");
        assert!(said.contains("no whole answer within "), "{said}");
    }
    assert!(!dir.path().join("reported.json").exists(), "what was not told is not remembered");
}

#[test]
fn a_port_where_nobody_listens_and_a_name_that_nobody_has_are_tried_again_until_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [format!("https://{closed}"), "https://nobody.invalid".to_owned()] {
        let started = Instant::now();
        let options = Options { patience: Duration::from_secs(2), ..options(&url, &dir) };
        let error = run(&options, &state(Health::Ready, "X")).unwrap_err();
        assert!(started.elapsed() < SOON, "{url}: {:?}", started.elapsed());
        assert_eq!((error.exit_code(), error.reason().as_str()), (1, "ApiUnavailable"), "{error}");
        assert!(error.to_string().contains("there is no time left for another try (of 2 s)"), "{error}");
    }
}

#[test]
fn a_server_that_speaks_no_tls_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let address = server(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let started = Instant::now();
    let options =
        Options { patience: Duration::from_secs(60), ..options(&format!("https://{address}"), &dir) };
    let error = run(&options, &state(Health::Ready, "X")).unwrap_err();
    assert!(started.elapsed() < SOON);
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(error.to_string().contains("no trusted connection"), "{error}");
}

#[test]
fn what_was_told_is_not_told_again_within_the_hour_unless_another_kubelet_may_have_made_the_node_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (url, server) = api(node());
    let now = Arc::new(Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)));
    let time = now.clone();
    let mut options = Options {
        if_changed: true,
        kubelet: Some("7/1".into()),
        patience: SOON,
        clock: Arc::new(move || *time.lock().unwrap()),
        ..options(&url, &dir)
    };
    let ready = state(Health::Ready, "SetupComplete");
    let asked = |options: &Options, state: &State| {
        let outcome = run(options, state).unwrap();
        let asked: Vec<String> = std::mem::take(&mut server.lock().unwrap().1);
        assert_eq!(asked.len(), outcome.requests as usize);
        (asked.join(", "), outcome.line)
    };
    let (get, patch) = ("GET /api/v1/nodes/n", "PATCH /api/v1/nodes/n/status?");
    assert_eq!(
        asked(&options, &ready),
        (format!("{get}, {patch}"), "Node n: state none -> ready (SetupComplete)".into())
    );
    let nothing_new = "Node n: nothing new: ready (SetupComplete)".to_owned();
    assert_eq!(asked(&options, &ready), (String::new(), nothing_new.clone()));
    // kubelet is down: it registers nothing.
    options.kubelet = None;
    assert_eq!(asked(&options, &ready).0, "");
    // It comes again: the Node that it registered anew says what it was started with.
    options.kubelet = Some("8/2".into());
    server.lock().unwrap().0 = node();
    server.lock().unwrap().0["metadata"]["labels"] = json!({ "nvme-agent.e6data.com/state": "failed" });
    server.lock().unwrap().0["metadata"]["uid"] = json!("two");
    let (asked_now, said) = asked(&options, &ready);
    assert!(asked_now.starts_with(&format!("{get}, {patch}, POST ")), "{asked_now}");
    assert_eq!(said, "Node n: state failed -> ready (SetupComplete)");
    assert_eq!(Memory::load(&options.memory).unwrap().uid, "two");
    assert_eq!(asked(&options, &ready), (String::new(), nothing_new.clone()));
    // After an hour it is read again, and the condition's heartbeat is renewed.
    *now.lock().unwrap() += Duration::from_secs(3600);
    let (asked_now, said) = asked(&options, &ready);
    assert_eq!(asked_now, format!("{get}, {patch}"));
    assert_eq!(said, "Node n: state ready (SetupComplete); wrote condition");
    // Without --if-changed it is read, and nothing is written.
    options.if_changed = false;
    assert_eq!(asked(&options, &ready), (get.to_owned(), nothing_new));
}

#[test]
fn the_heartbeat_is_never_older_than_an_hour_however_ticks_fall() {
    const LONGEST: u64 = 285;
    let dir = tempfile::tempdir().unwrap();
    let (url, server) = api(node());
    let begin = 2_000_000_000;
    let now = Arc::new(Mutex::new(begin));
    let time = now.clone();
    let mut options = Options {
        if_changed: true,
        patience: SOON,
        clock: Arc::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(*time.lock().unwrap())),
        ..options(&url, &dir)
    };
    let ready = state(Health::Ready, "SetupComplete");
    let (mut oldest, mut asked) = (0, 0);
    for tick in 0..100 {
        // A kubelet that starts anew has the Node read, when its heartbeat is nearly due and when it is not.
        options.kubelet = Some(format!("7/{}", tick / 11));
        asked += run(&options, &ready).unwrap().requests;
        let beat = server.lock().unwrap().0["status"]["conditions"][0]["lastHeartbeatTime"].clone();
        let beat: jiff::Timestamp = beat.as_str().unwrap().parse().unwrap();
        *now.lock().unwrap() += LONGEST;
        oldest = oldest.max(*now.lock().unwrap() - beat.as_second() as u64);
    }
    assert!(oldest <= 3600, "{oldest} s");
    // Not by asking at every tick: 100 of them are eight hours.
    assert!(asked <= 40, "{asked} requests");
}

#[test]
fn an_answer_about_another_node_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (url, server) = api(json!({ "metadata": { "name": "other", "uid": "u" } }));
    let error = run(&options(&url, &dir), &state(Health::Ready, "X")).unwrap_err().to_string();
    assert!(error.contains("the answer is not this Node"), "{error}");
    assert!(server.lock().unwrap().1.iter().all(|asked| asked.starts_with("GET")));
}

fn seen(url: &str) -> Result<Seen> {
    let access = Access::with(kube::Config::new(url.parse().unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(look::seen(&access, "n", &Keys::default(), Duration::from_secs(1)))
}

#[test]
fn whoever_only_looks_sees_what_the_node_says_by_one_get() {
    let mut there = node();
    assert_eq!(seen(&api(there.clone()).0).unwrap(), Seen { node: "n".into(), ..Seen::default() });
    let domain = "nvme-agent.e6data.com";
    there["metadata"]["labels"][format!("{domain}/state")] = json!("failed");
    there["spec"] = json!({ "taints": [
        { "key": "other", "effect": "NoSchedule" },
        { "key": format!("{domain}/failed"), "effect": "NoSchedule" },
    ] });
    there["status"]["conditions"] = json!([
        { "type": "Ready", "status": "True" },
        { "type": format!("{domain}/LocalStorageReady"), "status": "False", "reason": "DriveLost" },
    ]);
    let (url, server) = api(there);
    let expected = Seen {
        node: "n".into(),
        state: Some("failed".into()),
        condition: Some(("False".into(), "DriveLost".into())),
        tainted: true,
    };
    assert_eq!(seen(&url).unwrap(), expected);
    assert_eq!(server.lock().unwrap().1, ["GET /api/v1/nodes/n"]);
}

#[test]
fn whoever_only_looks_does_not_wait_for_a_server_that_says_nothing() {
    let started = Instant::now();
    let error = seen(&format!("http://{}", server(|_| {}))).unwrap_err().to_string();
    assert!(started.elapsed() < SOON && error.contains("no whole answer within "), "{error}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(seen(&format!("http://{closed}")).unwrap_err().to_string().contains("refused"));
}

#[test]
fn the_line_says_what_changed() {
    let change = |before: Option<&str>| Change {
        uid: "u".into(),
        metadata: Some(json!({ "labels": {} })),
        condition: Some(Value::Null),
        gone: None,
        before: before.map(str::to_owned),
        tells: true,
    };
    let failed = state(Health::Failed, "DriveLost");
    for (change, expected) in [
        (change(Some("ready")), "Node n: state ready -> failed (DriveLost)"),
        (change(None), "Node n: state none -> failed (DriveLost)"),
        (change(Some("failed")), "Node n: state failed (DriveLost); wrote labels, condition"),
        (Change::default(), "Node n: nothing new: failed (DriveLost)"),
    ] {
        assert_eq!(line("n", &failed, &change), expected);
    }
}
