//! What goes wrong on purpose.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// 404, as before the Node is registered.
    NotFound,
    /// 409.
    Conflict,
    /// 429 with Retry-After in seconds; in plain text, as priority and fairness says it.
    TooMany(u32),
    /// Any other refusal with a `Status`: 401, 403, 422, 500, 503.
    Refuse(StatusCode),
    /// The connection is closed and nothing done.
    CloseBefore,
    /// The request is carried out; then the connection is closed without an answer.
    CloseAfter,
    /// No answer, ever.
    Hang,
    /// The right answer byte by byte, with a pause before each.
    Slow(Duration),
    /// The answer's length, and half of it; then the connection is closed.
    Truncated,
    /// 200 and something that is not JSON.
    Malformed,
    /// 200 and so many bytes of JSON.
    Huge(u64),
    /// Just before the request is carried out, the Node is deleted and registered again.
    Recreated,
    /// A webhook gives this label this value, whatever the request says.
    Relabel(&'static str, &'static str),
}

/// When a fault happens.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    method: Option<Method>,
    path: String,
    skip: u32,
    times: Option<u32>,
}

impl Rule {
    /// To every request, for ever.
    pub fn new(fault: Fault) -> Rule {
        Rule { fault, method: None, path: String::new(), skip: 0, times: None }
    }

    /// So often only.
    pub fn times(self, times: u32) -> Rule {
        Rule { times: Some(times), ..self }
    }

    /// Not to the first so many that fit.
    pub fn after(self, skip: u32) -> Rule {
        Rule { skip, ..self }
    }

    /// To requests of this method only.
    pub fn on(self, method: Method) -> Rule {
        Rule { method: Some(method), ..self }
    }

    /// To requests whose path contains this only.
    pub fn path(self, path: &str) -> Rule {
        Rule { path: path.into(), ..self }
    }
}

/// All rules of a server, and its throttle.
#[derive(Default)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    throttle: Mutex<Option<Throttle>>,
}

impl Faults {
    /// Adds a rule. The first that fits counts.
    pub fn add(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    /// Takes all of them away.
    pub fn clear(&self) {
        lock(&self.rules).clear();
        *lock(&self.throttle) = None;
    }

    /// Not more than so many requests a second: what is over gets 429 and Retry-After.
    pub fn throttle(&self, per_second: u32) {
        *lock(&self.throttle) = Some(Throttle::new(per_second, Instant::now()));
    }

    /// What befalls this request.
    pub fn of(&self, method: &Method, path: &str) -> Option<Fault> {
        if let Some(throttle) = lock(&self.throttle).as_mut()
            && !throttle.pass(Instant::now())
        {
            return Some(Fault::TooMany(1));
        }
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| {
            rule.times != Some(0)
                && rule.method.as_ref().is_none_or(|wanted| wanted == method)
                && path.contains(&rule.path)
        })?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times = rule.times.map(|times| times - 1);
        Some(rule.fault.clone())
    }
}

/// A bucket that holds a second's worth and starts with a tenth of it: no burst at the beginning.
struct Throttle {
    per_second: f64,
    level: f64,
    then: Instant,
}

impl Throttle {
    fn new(per_second: u32, now: Instant) -> Throttle {
        let per_second = f64::from(per_second);
        Throttle { per_second, level: per_second / 10.0, then: now }
    }

    fn pass(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.then).as_secs_f64() * self.per_second;
        self.level = (self.level + earned).min(self.per_second);
        self.then = now;
        let pass = self.level >= 1.0;
        if pass {
            self.level -= 1.0;
        }
        pass
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_fits_by_method_and_path_after_some_and_for_some_times() {
        let faults = Faults::default();
        faults.add(Rule::new(Fault::Conflict).on(Method::PATCH).path("/nodes/a").after(1).times(2));
        let of = |method: Method, path: &str| faults.of(&method, path);
        assert_eq!(of(Method::GET, "/nodes/a"), None);
        assert_eq!(of(Method::PATCH, "/nodes/b"), None);
        let patches: Vec<bool> = (0..4).map(|_| of(Method::PATCH, "/nodes/a/status").is_some()).collect();
        assert_eq!(patches, [false, true, true, false]);
    }

    #[test]
    fn a_throttle_lets_so_many_pass_a_second() {
        let begin = Instant::now();
        let mut throttle = Throttle::new(500, begin);
        let passed = (0..10_000).filter(|i| throttle.pass(begin + Duration::from_micros(i * 1000))).count();
        assert!((5000..=5050).contains(&passed), "{passed} in ten seconds");
    }
}
