//! QEMU's control socket: one command at a time, JSON lines.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection that has left negotiation behind.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    /// Connects to a socket of a QEMU that may not have opened it yet.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Qmp> {
        let stream = connect_when_there(path, deadline)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut qmp = Qmp { stream: BufReader::new(stream), events: Vec::new() };
        qmp.line().context("QEMU's greeting")?;
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream
            .get_mut()
            .write_all(line.as_bytes())
            .with_context(|| format!("send {command} to QEMU"))?;
        loop {
            let mut answer = self.line().with_context(|| format!("QEMU's answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!(
                    "QEMU refuses {command} {arguments}: {}",
                    error["desc"].as_str().unwrap_or("no reason given")
                );
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
            self.events.push(answer);
        }
    }

    /// Waits for an event that `wanted` accepts; one that came earlier counts.
    pub fn event(&mut self, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(at) = self.events.iter().position(&wanted) {
                return Ok(self.events.remove(at));
            }
            if Instant::now() > end {
                bail!("QEMU did not report within {} s", deadline.as_secs());
            }
            // Cheap, and it fetches what came meanwhile.
            self.call("query-status", json!({}))?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Polls migration until it has completed.
    pub fn migrated(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let state = self.call("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("saving or restoring the machine failed: {state}"),
                _ if Instant::now() > end => bail!("saving or restoring the machine takes too long: {state}"),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("read")? == 0 {
            bail!("QEMU closed its control socket");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}

/// Connects to a Unix socket as soon as somebody listens there.
pub fn connect_when_there(path: &Path, deadline: Duration) -> Result<UnixStream> {
    let end = Instant::now() + deadline;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("connect to {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
