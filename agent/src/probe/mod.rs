//! Questions to devices and filesystems that may never be answered: each is asked by a child of its own, all at once, and
//! whoever has not answered in time is left behind.
//!
//! Reads only. What asks by a child: [`filesystem`] (stat and statfs of what is mounted) and [`drive`] (log pages and a
//! read).

pub mod drive;
pub mod filesystem;
mod hanging;
pub mod smart;
pub mod statistics;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::ioctl::apart;
use crate::observe::Drive;
use crate::root::Root;
use hanging::Hanging;

/// Bytes of an answer that are read: some 9 KiB are a drive's.
const MAX_ANSWER: usize = 64 << 10;

/// How often to see whether an earlier child has got its answer by now.
const EARLIER: Duration = Duration::from_millis(50);

/// What came of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was said, all of it or up to where it went silent.
    pub said: T,
    /// Why it is not the whole answer, such as `does not answer within 1.2 s`; none where it is.
    pub silent: Option<String>,
}

impl<T> Answer<T> {
    fn map<U>(self, understand: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { said: understand(self.said), silent: self.silent }
    }
}

/// The answers of all that were asked.
#[derive(Debug, Default)]
pub struct Answers {
    /// In the order of the drives.
    pub drives: Vec<Result<Answer<drive::Said>>>,
    /// None where there was none to be asked.
    pub filesystem: Option<Result<Answer<filesystem::Said>>>,
}

/// Asks these drives and the filesystem mounted on `target`, all at once.
///
/// Each answer by itself is an error where no process could be started to get it, or that was ended by somebody else.
pub fn ask(root: &Root, drives: &[Drive], target: Option<&str>, patience: Duration) -> Answers {
    let target = target.map(|target| filesystem::Mounted::on(root, target));
    let devices: Vec<drive::Device> = drives.iter().map(drive::Device::of).collect();
    let mut questions: Vec<&dyn Question> = devices.iter().map(|device| device as &dyn Question).collect();
    questions.extend(target.as_ref().map(|target| target as &dyn Question));
    let mut answers = ask_all(root, &questions, patience).into_iter();
    let drives = answers.by_ref().take(drives.len());
    Answers {
        drives: drives.map(|answer| Ok(answer?.map(|bytes| drive::Said::understand(&bytes)))).collect(),
        filesystem: answers
            .next()
            .map(|answer| Ok(answer?.map(|bytes| filesystem::Said::understand(&bytes)))),
    }
}

/// A question whose answer comes as bytes.
trait Question {
    /// Who is asked, for people and as a file's name: `nvme1n1`, `tmp`.
    fn name(&self) -> &str;
    /// Asks, in a child: see [`apart::start`].
    fn ask(&self, answer: &mut File);
}

/// Asks all of them at once and waits until each has answered, for `patience` at most.
///
/// Who was asked before and has not answered that is asked again only once it has: a timer must not gather processes that
/// nobody can kill.
///
/// Each is an error by itself where no process could be started, or where it was ended by somebody else.
fn ask_all(root: &Root, questions: &[&dyn Question], patience: Duration) -> Vec<Result<Answer<Vec<u8>>>> {
    let deadline = Instant::now() + patience;
    let hanging = Hanging::look(root);
    let mut asked: Vec<Result<Asked>> =
        questions.iter().map(|question| Asked::begin(&hanging, *question)).collect();
    loop {
        let mut waiting = false;
        for (asked, question) in asked.iter_mut().zip(questions) {
            if let Ok(before) = asked
                && before.hangs.is_some()
            {
                *asked = Asked::begin(&hanging, *question);
            }
            waiting |= asked.as_ref().is_ok_and(|asked| asked.hangs.is_some());
        }
        let open: Vec<&mut Asked> = asked.iter_mut().flatten().filter(|asked| asked.is_open()).collect();
        if open.is_empty() && !waiting {
            break;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Also at the deadline what is there is read: it may be we who were kept from it.
        if !hear(open, if waiting { left.min(EARLIER) } else { left }) && left.is_zero() {
            break;
        }
    }
    let end =
        |(asked, question): (Result<Asked>, &&dyn Question)| asked?.end(&hanging, question.name(), patience);
    asked.into_iter().zip(questions).map(end).collect()
}

/// One question under way.
struct Asked {
    /// None where nobody was asked: an earlier child of ours hangs there.
    child: Option<nix::unistd::Pid>,
    /// None at the end of the answer.
    answer: Option<File>,
    bytes: Vec<u8>,
    hangs: Option<String>,
}

impl Asked {
    fn begin(hanging: &Hanging<'_>, question: &dyn Question) -> Result<Asked> {
        let name = question.name();
        let hangs = hanging.since(name);
        let mut asked = Asked { child: None, answer: None, bytes: Vec::new(), hangs };
        if asked.hangs.is_none() {
            let child = apart::start(|answer| question.ask(answer))
                .map_err(Error::io(Path::new(name), "start a process that asks it"))?;
            asked.child = Some(child.pid);
            asked.answer = Some(File::from(child.answer));
        }
        Ok(asked)
    }

    fn is_open(&self) -> bool {
        self.answer.is_some()
    }

    /// Reads what is there.
    fn read(&mut self) {
        let mut chunk = [0; 16 << 10];
        let room = MAX_ANSWER.saturating_sub(self.bytes.len()).min(chunk.len());
        match self.answer.as_mut().map(|answer| answer.read(&mut chunk[..room])) {
            Some(Ok(n @ 1..)) => self.bytes.extend_from_slice(&chunk[..n]),
            _ => self.answer = None,
        }
    }

    /// The bytes, and why they are not all.
    fn end(self, hanging: &Hanging<'_>, name: &str, patience: Duration) -> Result<Answer<Vec<u8>>> {
        let Some(child) = self.child else { return Ok(Answer { said: self.bytes, silent: self.hangs }) };
        if self.is_open() {
            if !apart::end(child) {
                hanging.remember(name, child);
            }
            let silent = format!("does not answer within {:.1} s", patience.as_secs_f64());
            return Ok(Answer { said: self.bytes, silent: Some(silent) });
        }
        if apart::reap(child) {
            return Ok(Answer { said: self.bytes, silent: None });
        }
        Err(Error::Other(format!("{name}: the process that asked it was ended before it had an answer")))
    }
}

/// Waits for so long until some have something to read, and reads it; false where none had.
fn hear(mut open: Vec<&mut Asked>, patience: Duration) -> bool {
    // Up to the next millisecond, so that what is left is waited for and not asked for again and again.
    let timeout = PollTimeout::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
    let ready: Vec<bool> = {
        let mut files: Vec<PollFd> = open
            .iter()
            .filter_map(|asked| asked.answer.as_ref())
            .map(|answer| PollFd::new(answer.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut files, timeout) {
            Ok(_) => files.iter().map(|file| file.any().unwrap_or(true)).collect(),
            // A signal.
            Err(_) => Vec::new(),
        }
    };
    for (asked, _) in open.iter_mut().zip(&ready).filter(|(_, ready)| **ready) {
        asked.read();
    }
    ready.contains(&true)
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
