//! Which failures pass, and how long to wait before the next try. Pure.

use std::time::Duration;

use http::StatusCode;

use crate::error::Error;
use crate::logging::one_line;

/// The pause before the second try, before jitter; doubled for each further one.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause of our own choosing.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest pause while the Node does not exist: kubelet is about to register it.
const LONGEST_FOR_NODE: Duration = Duration::from_secs(10);
/// What a server may ask for by Retry-After; beyond it we rather ask again.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// How the API server says that the Node of this name is not the one of this UID.
const OTHER_UID: &str = "metadata.uid: Invalid value";
/// Of what a server says, in characters.
const MESSAGE_MAX: usize = 400;

/// Why a try did not work.
#[derive(Debug)]
pub enum Failure {
    /// Trying again may help.
    Again(Again),
    /// It does not.
    Stop(Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// What happened, in words.
    pub why: String,
    /// The Node does not exist (yet).
    pub no_node: bool,
    /// Turned away before anything was done: what was read before still holds.
    pub throttled: bool,
    /// By Retry-After.
    pub after: Option<Duration>,
}

impl Failure {
    pub fn again(why: impl Into<String>) -> Failure {
        Failure::Again(Again { why: why.into(), no_node: false, throttled: false, after: None })
    }
}

/// How long to wait after try number `tries` (from 1) failed; `jitter` is uniform in 0..1.
///
/// The pause grows exponentially up to a limit; half of it, or what the server asked for, is certain, and as much
/// again is left to chance, so that nodes that failed together do not come back together.
pub fn pause(tries: u32, failure: &Again, jitter: f64) -> Duration {
    let longest = if failure.no_node { LONGEST_FOR_NODE } else { LONGEST };
    let ceiling = FIRST.saturating_mul(1_u32 << tries.saturating_sub(1).min(16)).min(longest);
    let asked = failure.after.map(|asked| asked.min(LONGEST_ASKED));
    let certain = asked.unwrap_or(ceiling / 2);
    let chance = asked.unwrap_or_default().max(ceiling) / 2;
    certain + chance.mul_f64(jitter.clamp(0.0, 1.0))
}

/// Retry-After in seconds; its other form, a date, is not what API servers send.
pub fn retry_after(value: Option<&str>) -> Option<Duration> {
    value?.trim().parse().ok().map(Duration::from_secs)
}

/// What an answer other than 2xx to `what` (such as "GET node x") means. `message` is the server's own.
pub fn refused(what: &str, status: StatusCode, message: &str, after: Option<Duration>) -> Failure {
    let said = said(message);
    let stop = |hint: &str| Failure::Stop(Error::ApiRefused(format!("{what}: {status}{said}; {hint}")));
    match status.as_u16() {
        401 => stop(
            "the API server does not know this node's credential: expected what kubelet itself uses; is the node's IAM \
             role in the cluster's access entries (or aws-auth)?",
        ),
        403 => stop(
            "the API server forbids it to this node: expected a credential of system:node:NAME for this very Node, and a \
             label_domain that a node may write",
        ),
        // The patch names the Node by its UID, which nobody can change (apimachinery, ValidateObjectMetaAccessorUpdate):
        // between reading and writing, another Node of that name was made.
        422 if message.contains(OTHER_UID) => {
            Failure::again(format!("{what}: it is another Node by now{said}"))
        }
        422 => stop(
            "the API server does not take this value; this is an error inside nvme-agent or in label_domain",
        ),
        404 => Failure::Again(Again {
            why: format!("{what}: the Node does not exist"),
            no_node: true,
            throttled: false,
            after: None,
        }),
        code @ (408 | 409 | 425 | 429 | 500..=599) => Failure::Again(Again {
            why: format!("{what}: {status}{said}"),
            no_node: false,
            throttled: code == 429,
            after,
        }),
        _ => stop("expected an answer of an API server; is `server` in the kubeconfig the right one?"),
    }
}

/// A server's message, short and on one line.
fn said(message: &str) -> String {
    match one_line(&message.chars().take(MESSAGE_MAX).collect::<String>()).as_str() {
        "" => String::new(),
        text => format!(" ({text})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(no_node: bool, after: Option<u64>) -> Again {
        Again { why: String::new(), no_node, throttled: false, after: after.map(Duration::from_secs) }
    }

    fn range(tries: u32, failure: &Again) -> (u128, u128) {
        (pause(tries, failure, 0.0).as_millis(), pause(tries, failure, 1.0).as_millis())
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_half_of_each_is_chance() {
        let plain = failure(false, None);
        let ranges: Vec<_> = (1..=8).map(|tries| range(tries, &plain)).collect();
        assert_eq!(
            ranges,
            [
                (250, 500),
                (500, 1000),
                (1000, 2000),
                (2000, 4000),
                (4000, 8000),
                (8000, 16000),
                (15000, 30000),
                (15000, 30000),
            ]
        );
        assert_eq!(range(u32::MAX, &plain), (15000, 30000));
        assert_eq!(range(0, &plain), (250, 500));
        assert_eq!(range(20, &failure(true, None)), (5000, 10000));
    }

    #[test]
    fn what_a_server_asks_for_is_kept_within_reason_and_spread() {
        assert_eq!(range(1, &failure(false, Some(7))), (7000, 10500));
        assert_eq!(range(9, &failure(false, Some(1))), (1000, 16000));
        assert_eq!(range(1, &failure(false, Some(86_400))), (60_000, 90_000));
        assert_eq!(retry_after(Some(" 3 ")), Some(Duration::from_secs(3)));
        for odd in [None, Some(""), Some("-1"), Some("1.5"), Some("Wed, 21 Oct 2026 07:28:00 GMT")] {
            assert_eq!(retry_after(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn answers_that_pass_and_answers_that_do_not() {
        let of = |code| refused("PATCH node x", StatusCode::from_u16(code).unwrap(), "why\nnot", None);
        for code in [404, 408, 409, 425, 429, 500, 502, 503, 504, 599] {
            let Failure::Again(again) = of(code) else { panic!("{code}") };
            assert_eq!((again.no_node, again.throttled), (code == 404, code == 429));
            assert!(again.why.starts_with("PATCH node x: "), "{again:?}");
        }
        for code in [301, 400, 401, 403, 405, 406, 410, 413, 415, 422] {
            let Failure::Stop(error) = of(code) else { panic!("{code}") };
            assert_eq!(error.exit_code(), 3, "{code}");
            assert!(error.to_string().starts_with(&format!("PATCH node x: {code} ")), "{error}");
            assert!(error.to_string().contains("(why; not); "), "{error}");
        }
    }

    #[test]
    fn another_node_of_the_same_name_is_read_again() {
        let said = "Node \"x\" is invalid: metadata.uid: Invalid value: \"6b1f\": field is immutable";
        let failure = refused("PATCH node x", StatusCode::UNPROCESSABLE_ENTITY, said, None);
        let Failure::Again(again) = failure else { panic!("{failure:?}") };
        assert!(!again.no_node && !again.throttled && again.why.contains("another Node"), "{again:?}");
    }

    #[test]
    fn a_long_message_is_cut() {
        let Failure::Stop(error) = refused("x", StatusCode::FORBIDDEN, &"y".repeat(1 << 20), None) else {
            panic!()
        };
        assert!(error.to_string().len() < 800);
    }
}
