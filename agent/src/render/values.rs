//! What options may be. A value that has one of these types carries no quote, backslash, dollar sign, backtick or line feed: whatever
//! it is rendered into, a root shell or YAML, it stays one value. The errors say what was expected.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

use crate::config::parse_duration;
use crate::node::labels;

/// Types of checked text: name, documentation, and the check, which returns the text as it is to be used.
macro_rules! text {
    ($($(#[$doc:meta])* $name:ident, $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let check: fn(&str) -> Result<String, String> = $check;
                check(text).map($name)
            }
        }

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text! {
    /// Where a binary is: `https://`, `http://` or `s3://`.
    Url, |text| {
        let text = url(text)?;
        match text.splitn(4, '/').nth(3).is_some_and(|path| !path.is_empty()) {
            true => Ok(text),
            false => Err("expected a path of a file after the host or bucket".into()),
        }
    };
    /// The SHA-256 of a binary, as 64 lower-case hexadecimal digits.
    Sha256, |text| all(text, 64..=64, |b| b.is_ascii_hexdigit(), "64 hexadecimal digits, as sha256sum prints them")
        .map(|text| text.to_ascii_lowercase());
    /// An AWS region such as `eu-west-1`.
    Region, |text| place(text, "a region such as eu-west-1");
    /// An availability zone such as `eu-west-1a`.
    Zone, |text| match text.bytes().last() {
        Some(b'a'..=b'z') => place(text, "a zone such as eu-west-1a"),
        _ => Err("expected a zone such as eu-west-1a".into()),
    };
    /// A family of instance types such as `i4i`.
    Family, |text| {
        let expected = "an instance family such as i4i, without a size";
        match labels::is_label_value(text) {
            true => all(text, 1..=32, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-', expected),
            false => Err(format!("expected {expected}")),
        }
    };
    /// Name of a Kubernetes object that is also the value of a label: a NodePool, an EC2NodeClass.
    ObjectName, |text| match labels::domain_problem(text).is_none() && text.len() <= 63 {
        true => Ok(text.to_owned()),
        false => Err("expected a name of lower-case letters, digits, - and . inside, at most 63 characters".into()),
    };
    /// Name of an EKS cluster (EKS API reference, CreateCluster).
    ClusterName, |text| {
        let expected = "the name of a cluster: letters, digits, - and _, at most 100 characters";
        match text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            true => all(text, 1..=100, |b| b.is_ascii_alphanumeric() || b"-_".contains(&b), expected),
            false => Err(format!("expected {expected}")),
        }
    };
    /// Name of an IAM role (IAM API reference, CreateRole).
    RoleName, |text| all(text, 1..=64, |b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b),
        "the name of an IAM role, not its ARN, at most 64 characters");
    /// A label's value that is not empty.
    LabelValue, |text| match labels::is_label_value(text) {
        true => Ok(text.to_owned()),
        false => Err("expected a label value: letters, digits, - _ . inside, at most 63 characters".into()),
    };
    /// Karpenter's `expireAfter`: finite.
    Lifetime, lifetime;
    /// An API server's address: `https://` and nothing that a shell or YAML would take for its own.
    ApiServer, |text| match url(text) {
        Ok(text) if text.starts_with("https://") => Ok(text),
        _ => Err("expected https:// and the API server's name".into()),
    };
    /// A kernel setting such as `fs.aio-max-nr=8388608`.
    Sysctl, |text| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let expected = "a kernel setting such as fs.aio-max-nr=8388608, a number";
        all(value, 1..=20, |b| b.is_ascii_digit(), expected)?;
        match key.contains('.') && key.starts_with(|c: char| c.is_ascii_lowercase()) {
            true => all(key, 3..=64, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b), expected)?,
            false => return Err(format!("expected {expected}")),
        };
        Ok(text.to_owned())
    };
    /// Base64, as EKS prints a cluster's certificate authority.
    Base64, |text| match text.trim_end_matches('=') {
        body if text.len() - body.len() <= 2 && text.len().is_multiple_of(4) => {
            all(body, 2..=8192, |b| b.is_ascii_alphanumeric() || b"+/".contains(&b), "base64")?;
            Ok(text.to_owned())
        }
        _ => Err("expected base64".into()),
    };
    /// A block of addresses such as `10.100.0.0/16`.
    Cidr, |text| {
        let wrong = || "expected a block of addresses such as 10.100.0.0/16".to_owned();
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: std::net::IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        match bits.parse::<u8>() {
            Ok(bits) if digits && bits <= most => Ok(format!("{address}/{bits}")),
            _ => Err(wrong()),
        }
    };
}

/// Between two lengths, of these bytes only.
fn all(
    text: &str,
    length: std::ops::RangeInclusive<usize>,
    byte: fn(u8) -> bool,
    expected: &str,
) -> Result<String, String> {
    match length.contains(&text.len()) && text.bytes().all(byte) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected {expected}")),
    }
}

fn place(text: &str, expected: &str) -> Result<String, String> {
    let letters = text.bytes().take_while(u8::is_ascii_lowercase).count();
    match letters >= 2 && text[letters..].starts_with('-') {
        true => all(text, 4..=32, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-', expected),
        false => Err(format!("expected {expected}")),
    }
}

fn url(text: &str) -> Result<String, String> {
    let expected = "expected https://HOST/PATH, http://HOST/PATH or s3://BUCKET/KEY";
    let schemes = ["https://", "http://", "s3://"];
    let Some(rest) = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) else {
        return Err(expected.into());
    };
    if text.contains(['?', '#']) {
        // What it would carry is a credential, or an address that ends before the node class does.
        return Err(format!("{expected}, without a query: a signed address does not last, and is a secret"));
    }
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err(format!("{expected}, without a user: a password would be readable by every pod"));
    }
    // curl makes several addresses of brackets, but for those around an IPv6 address; S3 has none of those.
    let ipv6 = host.strip_prefix('[').filter(|_| text.starts_with("http")).and_then(|host| {
        let (address, port) = host.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        (port.is_empty() || port.starts_with(':')).then_some(port)
    });
    let checked = ipv6.map_or(rest, |port| &rest[host.len() - port.len()..]);
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:@+,=%".contains(&b);
    // bash puts a home directory there, since the address stands in an assignment.
    let tilde = [":~", "=~"].iter().any(|pair| text.contains(pair));
    let escapes =
        text.split('%').skip(1).all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2);
    let named = ipv6.is_some() || host.starts_with(|c: char| c.is_ascii_alphanumeric());
    match named && !tilde && escapes && checked.bytes().all(known) && text.len() <= 1024 {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{expected}, of letters, digits and - . _ ~ : @ + , = %XX, no ~ after : or =, [ ] around an IPv6 address"
        )),
    }
}

fn lifetime(text: &str) -> Result<String, String> {
    if text == "Never" {
        return Err(
            "expected a time such as 168h: a node that never becomes ready has no other end in Karpenter"
                .into(),
        );
    }
    let expected = "expected a time such as 168h or 30m, at most 999999h";
    let mut number = None;
    let mut seconds: u64 = 0;
    for b in text.bytes() {
        let unit = match b {
            b'0'..=b'9' => {
                number =
                    Some(number.unwrap_or(0) * 10 + u64::from(b - b'0')).filter(|number| *number <= 999_999);
                number.ok_or(expected)?;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            _ => return Err(expected.into()),
        };
        seconds = seconds.saturating_add(number.take().ok_or(expected)? * unit);
    }
    // Go's durations end at 292 years, and with one that is longer Karpenter reads no NodePool any more.
    match number.is_none() && (1..=999_999 * 3600).contains(&seconds) {
        true => Ok(text.to_owned()),
        false => Err(expected.into()),
    }
}

/// `KEY=VALUE` of an AWS tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Tag, String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
        let known = |b: u8| b.is_ascii_alphanumeric() || b" +-=._:/@".contains(&b);
        all(
            key,
            1..=128,
            known,
            "a key of letters, digits, blanks and + - . _ : / @, at most 128 characters",
        )?;
        all(
            value,
            0..=256,
            known,
            "a value of letters, digits, blanks and + - = . _ : / @, at most 256 characters",
        )?;
        match key.trim() == key && value.trim() == value {
            true => Ok(Tag { key: key.into(), value: value.into() }),
            false => Err("expected KEY=VALUE without blanks around either".into()),
        }
    }
}

/// `KEY=VALUE` of a Node's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub key: String,
    pub value: LabelValue,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Label, String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
        let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
        if !labels::is_label_value(name) {
            return Err("expected a key such as app or example.com/app".into());
        }
        if let Some(problem) = domain.and_then(labels::domain_problem) {
            return Err(problem);
        }
        if is_karpenters(key) {
            return Err(
                "expected a key that is not Karpenter's own, which is every one whose domain ends as its do"
                    .into(),
            );
        }
        Ok(Label { key: key.into(), value: value.parse()? })
    }
}

/// Whether a NodePool's definition refuses a label for its key: by how the part before the slash ends, or all of it where there is none.
pub fn is_karpenters(key: &str) -> bool {
    let domain = key.split('/').next().unwrap_or(key);
    domain.ends_with("karpenter.sh") || domain.ends_with("karpenter.k8s.aws")
}

/// Size of a volume in GiB, as the API spells it: `100Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gib(u32);

impl FromStr for Gib {
    type Err = String;

    fn from_str(text: &str) -> Result<Gib, String> {
        let digits = text.strip_suffix("Gi").unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        match digits.parse() {
            // What the EKS images need; the most that the CRD takes.
            Ok(size @ 20..=59_000) if plain => Ok(Gib(size)),
            _ => Err("expected a size in GiB such as 100Gi, from 20 to 59000".into()),
        }
    }
}

impl Gib {
    pub fn count(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Gib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Gi", self.0)
    }
}

/// How long all of userData may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Duration);

impl Deadline {
    pub fn seconds(self) -> u64 {
        self.0.as_secs()
    }

    /// What setup has of it, in whole seconds.
    pub fn setup(self) -> Duration {
        Duration::from_secs(self.seconds() / 2)
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline(Duration::from_secs(600))
    }
}

impl FromStr for Deadline {
    type Err = String;

    fn from_str(text: &str) -> Result<Deadline, String> {
        match parse_duration(text)? {
            // Karpenter ends what has not registered within 15 minutes, and the instance has to boot before.
            time if (60..=780).contains(&time.as_secs()) => Ok(Deadline(time)),
            _ => Err("expected 60s to 13m: Karpenter waits 15 minutes for a node, boot included".into()),
        }
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
