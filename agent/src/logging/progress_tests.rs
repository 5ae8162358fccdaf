//! The line as it is seen on a terminal, which is what is there after all the erasing.

use std::io::Read;
use std::process::{Command, Stdio};

use nix::pty::{Winsize, openpty};
use tracing::level_filters::LevelFilter;

use super::*;
use crate::apply;
use crate::config::Config;
use crate::logging::{self, Kind};
use crate::observe::Inventory;
use crate::plan::{Outcome, Plan, Step};
use crate::root::Root;

/// What a terminal shows of these bytes, a string a line; of escape codes it knows the one that is used here.
fn shown(bytes: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut rest = bytes;
    let mut at = 0;
    while let Some(c) = rest.chars().next() {
        let line = lines.last_mut().unwrap();
        if let Some(after) = rest.strip_prefix("\u{1b}[K") {
            line.truncate(at);
            rest = after;
            continue;
        }
        match c {
            '\r' => at = 0,
            '\n' => {
                lines.push(String::new());
                at = 0;
            }
            c => {
                line.truncate(at);
                line.push(c);
                at += 1;
            }
        }
        rest = &rest[c.len_utf8()..];
    }
    lines
}

/// What was written to a terminal, and when its other end is closed.
struct Seen {
    bytes: Arc<Mutex<Vec<u8>>>,
    end: JoinHandle<()>,
}

impl Seen {
    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }

    fn waits_for_steps(&self, count: usize) {
        let begun = Instant::now();
        while self.text().matches("step 2 of 9").count() < count {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", self.text());
            std::thread::sleep(TICK / 10);
        }
    }

    fn all(self) -> String {
        self.end.join().unwrap();
        String::from_utf8(std::mem::take(&mut self.bytes.lock().unwrap())).unwrap()
    }
}

/// A terminal of so many columns.
fn pty(columns: u16) -> (File, Seen) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = openpty(&size, None).unwrap();
    let mut master = File::from(pair.master);
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let kept = bytes.clone();
    let end = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        // EIO at the end: Linux has no end of file there.
        while let Ok(n @ 1..) = master.read(&mut bytes) {
            kept.lock().unwrap().extend_from_slice(&bytes[..n]);
        }
    });
    (File::from(pair.slave), Seen { bytes, end })
}

#[test]
fn a_step_ticks_is_cut_to_the_terminal_and_leaves_nothing_behind() {
    let (file, seen) = pty(60);
    let screen = Arc::new(Screen::new(file));
    let long = "make ext4 on /dev/md0\n\u{1b}[31m".repeat(9);
    let step = Progress::on(Some(&screen), 2, Some(9), &long);
    seen.waits_for_steps(3);
    Lines(screen.clone()).write_all(b"nvme-agent: info: meanwhile\n").unwrap();
    seen.waits_for_steps(5);
    drop(step);
    drop(screen);
    let all = seen.all();
    let drawn: Vec<&str> =
        all.split("\r\u{1b}[K").filter(|text| text.starts_with("nvme-agent: step")).collect();
    assert!(drawn.len() >= 3, "{drawn:?}");
    assert!(drawn[0].starts_with("nvme-agent: step 2 of 9, 0.0 s: make ext4 on /dev/md0; \\"), "{drawn:?}");
    assert!(drawn.iter().all(|text| text.len() == 59), "{drawn:?}");
    let mut different = drawn.clone();
    different.dedup();
    assert!(different.len() >= 3, "the time goes on: {drawn:?}");
    assert_eq!(shown(&all), ["nvme-agent: info: meanwhile", ""]);
}

#[test]
fn a_terminal_that_takes_nothing_does_not_hold_up_the_work() {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // Nobody reads.
    let pair = openpty(&size, None).unwrap();
    let screen = Arc::new(Screen::new(File::from(pair.slave)));
    let begun = Instant::now();
    for n in 0..2000 {
        drop(Progress::on(Some(&screen), n, None, &"x".repeat(70)));
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    drop(pair.master);
}

const CHILD: &str = "NVME_AGENT_TEST_APPLIES";

/// No test by itself: [`steps_of_a_run_are_seen_on_a_terminal_and_in_nothing_else`] runs it as a process of its own.
#[test]
fn applies() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let root = Root::new(dir);
    logging::init(&root, Kind::Acts, LevelFilter::INFO);
    let mut context = apply::Context::new(root, &Config::default(), &Inventory::default());
    let target = |path: &str| Step::CreateTarget { path: path.into() };
    let plan = Plan::of(Outcome::Create, vec![target("/one"), target("/two")]);
    apply::apply(&plan, &mut context).unwrap();
}

#[test]
fn steps_of_a_run_are_seen_on_a_terminal_and_in_nothing_else() {
    let run = |stderr: Stdio, term: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["logging::progress::tests::applies", "--exact", "--nocapture"]);
        child.env_clear().env(CHILD, dir.path()).env("TERM", term).stdout(Stdio::null()).stderr(stderr);
        let child = child.spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && dir.path().join("two").is_dir());
        String::from_utf8(output.stderr).unwrap()
    };
    let expected = |line: &str, n: usize| {
        let name = ["one", "two"][n];
        line.starts_with(&format!("nvme-agent: info: make the directory /{name}"))
    };
    let plain = |text: &[String]| {
        let text: Vec<&String> = text.iter().filter(|line| line.starts_with("nvme-agent")).collect();
        assert!(text.len() == 2 && expected(text[0], 0) && expected(text[1], 1), "{text:?}");
    };
    for term in ["xterm", "dumb"] {
        let (slave, seen) = pty(200);
        run(slave.into(), term);
        let all = seen.all();
        assert_eq!(all.contains("step 2 of 2, 0.0 s: make the directory /two"), term == "xterm", "{all:?}");
        assert_eq!(all.contains('\u{1b}'), term == "xterm", "{all:?}");
        plain(&shown(&all));
    }
    let piped = run(Stdio::piped(), "xterm");
    assert!(!piped.contains("step 1") && !piped.contains(['\u{1b}', '\r']), "{piped:?}");
    plain(&shown(&piped));
}
