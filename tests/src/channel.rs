//! The host's end of the command channel (`tests/guest/channel.pl` is the other): scripts into the guest, their output
//! and exit codes out of it, several at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

/// What a script left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 + n for signal n.
    pub rc: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

#[derive(Debug, Default)]
struct Job {
    out: Vec<u8>,
    err: Vec<u8>,
    rc: Option<i32>,
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<u64, Job>,
    answered: u64,
    closed: Option<String>,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

/// A connection to a guest's channel.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    shared: Shared,
    next: u64,
}

impl Channel {
    /// Takes over a connected socket. Nobody need listen in the guest yet: what is sent waits there.
    pub fn new(stream: UnixStream) -> Result<Channel> {
        let shared: Shared = Arc::default();
        let (reader, theirs) = (stream.try_clone().context("clone the channel's socket")?, shared.clone());
        std::thread::spawn(move || {
            let reason = match read_frames(BufReader::new(reader), &theirs) {
                Ok(()) => "the VM is gone".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            lock(&theirs.0).closed = Some(reason);
            theirs.1.notify_all();
        });
        // Ids of one connection must not meet those of an earlier one: a restored guest may still run a job.
        let next = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as u64;
        Ok(Channel { stream, shared, next })
    }

    /// Waits until the guest's end answers.
    pub fn ready(&mut self, deadline: Duration) -> Result<()> {
        let id = self.send("PING", "", &[])?;
        self.wait_for(deadline, |state| (state.answered >= id).then_some(()))
            .context("the guest's command channel does not answer")
    }

    /// Starts a script under bash with these options (`-e`); does not wait.
    pub fn start(&mut self, script: &str, options: &str) -> Result<u64> {
        self.job("RUN", options, script.as_bytes())
    }

    /// Waits for a script's end. When the deadline passes it is killed, and the error shows what it had said.
    pub fn wait(&mut self, id: u64, deadline: Duration) -> Result<Output> {
        let ended = self.wait_for(deadline, |state| {
            let done = state.jobs.get(&id).is_none_or(|job| job.rc.is_some());
            if done { Some(state.jobs.remove(&id)) } else { None }
        });
        match ended {
            Ok(job) => Ok(output(job.with_context(|| format!("job {id} is not known"))?)),
            Err(error) => {
                let so_far = output(lock(&self.shared.0).jobs.remove(&id).unwrap_or_default());
                let _ = self.stream.write_all(format!("KILL {id} 0\n").as_bytes());
                Err(error.context(format!("no end; so far\n--- out\n{}--- err\n{}", so_far.out, so_far.err)))
            }
        }
    }

    /// Writes a file in the guest, with its directories.
    pub fn put(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let id = self.job("PUT", &format!("{mode:o} {path}"), bytes)?;
        let output = self.wait(id, Duration::from_secs(60))?;
        if output.rc != 0 {
            bail!("could not write {path} in the guest: {}", output.err);
        }
        Ok(())
    }

    /// Sets the guest's clock to now and stirs its random numbers.
    pub fn stir(&mut self) -> Result<()> {
        let mut entropy = [0; 256];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut entropy))
            .context("read /dev/urandom")?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let id = self.job("STIR", &format!("{} {}", now.as_secs(), now.subsec_nanos()), &entropy)?;
        self.wait(id, Duration::from_secs(30)).map(drop)
    }

    fn job(&mut self, verb: &str, rest: &str, bytes: &[u8]) -> Result<u64> {
        lock(&self.shared.0).jobs.insert(self.next + 1, Job::default());
        self.send(verb, rest, bytes)
    }

    fn send(&mut self, verb: &str, rest: &str, bytes: &[u8]) -> Result<u64> {
        self.next += 1;
        let header = format!("{verb} {} {} {rest}\n", self.next, bytes.len());
        self.stream
            .write_all(header.as_bytes())
            .and_then(|()| self.stream.write_all(bytes))
            .with_context(|| format!("send {verb} to the guest"))?;
        Ok(self.next)
    }

    fn wait_for<T>(&self, deadline: Duration, mut done: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let end = Instant::now() + deadline;
        let mut state = lock(&self.shared.0);
        loop {
            if let Some(value) = done(&mut state) {
                return Ok(value);
            }
            if let Some(reason) = &state.closed {
                bail!("{reason}");
            }
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                bail!("nothing within {:.0} s", deadline.as_secs_f64());
            };
            state = match self.shared.1.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The reader cannot panic while it holds the lock; were it to, what was received is still right.
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn output(job: Job) -> Output {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { rc: job.rc.unwrap_or(-1), out: text(job.out), err: text(job.err) }
}

fn read_frames(mut from: BufReader<UnixStream>, shared: &Shared) -> Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line).context("read from the guest's channel")? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, id, number] = words[..] else { continue };
        let (Ok(id), Ok(number)) = (id.parse::<u64>(), number.parse::<usize>()) else { continue };
        let mut bytes = vec![0; if matches!(kind, "O" | "E") { number } else { 0 }];
        from.read_exact(&mut bytes).context("read from the guest's channel")?;
        let mut state = lock(&shared.0);
        match (kind, state.jobs.get_mut(&id)) {
            ("O", Some(job)) => job.out.extend(bytes),
            ("E", Some(job)) => job.err.extend(bytes),
            ("X", Some(job)) => job.rc = Some(number as i32),
            ("P", _) => state.answered = id,
            _ => {}
        }
        shared.1.notify_all();
    }
}

/// Connects to the socket of a QEMU that has just been started.
pub fn connect(path: &Path, deadline: Duration) -> Result<Channel> {
    Channel::new(crate::qmp::connect_when_there(path, deadline)?)
}
