use std::io::Write;

use super::*;

fn ask_all(root: &Root, questions: &[Slow], patience: Duration) -> Vec<Answer<String>> {
    let questions: Vec<&dyn Question> = questions.iter().map(|question| question as &dyn Question).collect();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    super::ask_all(root, &questions, patience).into_iter().map(|answer| answer.unwrap().map(text)).collect()
}

/// Says a word and then nothing for so long.
struct Slow(&'static str, Duration);

impl Question for Slow {
    fn name(&self) -> &str {
        self.0
    }

    fn ask(&self, answer: &mut File) {
        let _ = answer.write_all(self.0.as_bytes());
        std::thread::sleep(self.1);
    }
}

#[test]
fn all_are_asked_at_once_and_who_is_silent_is_left_with_what_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let quick = |name| Slow(name, Duration::from_millis(300));
    let questions = [quick("a"), quick("b"), Slow("c", Duration::from_secs(60)), quick("d"), quick("e")];
    let started = Instant::now();
    let answers = ask_all(&root, &questions, Duration::from_millis(1200));
    assert!(started.elapsed() < Duration::from_millis(1900), "{:?}", started.elapsed());
    let said: Vec<&str> = answers.iter().map(|answer| answer.said.as_str()).collect();
    assert_eq!(said, ["a", "b", "c", "d", "e"]);
    let silent: Vec<bool> = answers.iter().map(|answer| answer.silent.is_some()).collect();
    assert_eq!(silent, [false, false, true, false, false]);
    assert_eq!(answers[2].silent.as_deref(), Some("does not answer within 1.2 s"));
    // It sleeps and could be killed: the next look asks again.
    assert_eq!(Hanging::look(&root).since("c"), None);
}

#[test]
fn who_hangs_in_an_earlier_question_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    std::fs::create_dir_all(root.join("/proc/77")).unwrap();
    let stat = "77 (x) D 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0";
    std::fs::write(root.join("/proc/77/stat"), stat).unwrap();
    Hanging::look(&root).remember("stuck", nix::unistd::Pid::from_raw(77));
    let questions = [Slow("stuck", Duration::ZERO), Slow("fine", Duration::ZERO)];
    let answers = ask_all(&root, &questions, Duration::from_millis(700));
    assert_eq!(answers[0].said, "");
    assert!(answers[0].silent.as_ref().unwrap().contains("process 77"), "{answers:?}");
    assert_eq!(answers[1], Answer { said: "fine".into(), silent: None });
    // It gets its answer while somebody else waits.
    let gone = root.join("/proc/77");
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        std::fs::remove_dir_all(gone).unwrap();
    });
    let answers = ask_all(&root, &questions, Duration::from_secs(20));
    assert_eq!(answers[0], Answer { said: "stuck".into(), silent: None });
    later.join().unwrap();
}

#[test]
fn a_child_that_somebody_ends_has_answered_nothing() {
    struct Ended;
    impl Question for Ended {
        fn name(&self) -> &str {
            "ended"
        }
        fn ask(&self, _: &mut File) {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let answer = super::ask_all(&Root::new(dir.path()), &[&Ended], Duration::from_secs(20)).remove(0);
    assert!(answer.unwrap_err().to_string().contains("was ended"));
}
