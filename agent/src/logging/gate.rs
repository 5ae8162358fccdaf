//! Keeps a journald that does not read from hanging us, and with us the boot.
//!
//! tracing-journald writes to a blocking socket. systemd listens on it long before journald reads from it, and a
//! journald that hangs leaves its queue full (net.unix.max_dgram_qlen; systemd sets 512). So before every event the
//! kernel is asked whether there is room, and the journal is given up where there is none for [`PATIENCE`] in all.
//! What is left is another process that takes the last place just then, and, under `--log-level debug`, more than
//! 208 KiB of ours unread (net.core.wmem_default); then `TimeoutStartSec=` of the unit ends it, and nothing requires
//! the unit.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// How long a process waits for room in the queue, in all.
const PATIENCE: Duration = Duration::from_millis(500);

/// Open while journald takes events; once shut it stays so.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    /// Connected, because poll(2) tells of the receiver's queue for a connected datagram socket only; never sent to.
    socket: UnixDatagram,
    patience: Mutex<Duration>,
    shut: AtomicBool,
}

impl Gate {
    /// None where nobody listens at `path`, or there is no room now.
    pub fn at(path: &Path) -> Option<Gate> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(path).ok()?;
        let gate =
            Gate(Arc::new(Inner { socket, patience: Mutex::new(PATIENCE), shut: AtomicBool::new(false) }));
        gate.has_room().then_some(gate)
    }

    pub fn is_shut(&self) -> bool {
        self.0.shut.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        if self.is_shut() {
            return false;
        }
        let mut patience = self.0.patience.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let start = Instant::now();
        let millis = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        let room = loop {
            let mut sockets = [PollFd::new(self.0.socket.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut sockets, PollTimeout::from(millis)) {
                Err(nix::Error::EINTR) if start.elapsed() < *patience => {}
                Ok(n) => break n > 0,
                Err(_) => break false,
            }
        };
        *patience = patience.saturating_sub(start.elapsed());
        self.0.shut.store(!room, Ordering::Relaxed);
        room
    }
}

/// The journal's filter: what journald has room for.
pub struct Takes(pub Gate);

impl<S: Subscriber> Filter<S> for Takes {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, _: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.has_room()
    }
}

/// The filter of what stands in: what [`Takes`] has refused. Its layer goes below the journal's, to be asked after it.
pub struct Refuses(pub Gate);

impl<S: Subscriber> Filter<S> for Refuses {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, _: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.is_shut()
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, Registry};

    use super::*;

    /// Says to a socket and remembers that it did.
    struct Sink {
        to: Option<(UnixDatagram, std::path::PathBuf)>,
        said: Arc<Mutex<usize>>,
    }

    impl<S: Subscriber> Layer<S> for Sink {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            if let Some((socket, path)) = &self.to {
                socket.send_to(b"x", path).unwrap();
            }
            *self.said.lock().unwrap() += 1;
        }
    }

    #[test]
    fn a_journald_that_does_not_read_costs_half_a_second_and_then_each_event_goes_to_the_other_sink_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let gate = Gate::at(&path).unwrap();
        let (journal, other) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        // It blocks, as tracing-journald's does.
        let to = Some((UnixDatagram::unbound().unwrap(), path.clone()));
        let subscriber = Registry::default()
            .with(Sink { to: None, said: other.clone() }.with_filter(Refuses(gate.clone())))
            .with(Sink { to, said: journal.clone() }.with_filter(Takes(gate.clone())));
        let start = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..150 {
                tracing::info!("event");
            }
        });
        assert!(start.elapsed() < 4 * PATIENCE, "{:?}", start.elapsed());
        let (journal, other) = (*journal.lock().unwrap(), *other.lock().unwrap());
        let queue: usize =
            std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap().trim().parse().unwrap();
        assert_eq!(journal + other, 150, "none lost, none twice");
        assert_eq!(journal, 150.min(queue + 1), "all that there was room for");
        assert_eq!(gate.is_shut(), other > 0);
        drop(listener);
    }

    #[test]
    fn no_listener_no_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(Gate::at(&path).is_none());
        drop(UnixDatagram::bind(&path).unwrap());
        assert!(Gate::at(&path).is_none(), "a socket that nobody listens on");
    }
}
