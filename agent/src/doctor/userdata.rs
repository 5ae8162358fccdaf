//! The instance's userData, as cloud-init keeps it: its parts. Never quoted: it may hold secrets.
//!
//! MIME multipart (RFC 2046) as Karpenter and EKS make it, or one bare document. Only what they write is understood: what
//! is not is no part.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::subject::Subject;
use crate::persist::atomic;

/// What cloud-init made of it (includes fetched, compression undone), else as it came (cloud-init, `Paths`).
pub const PATHS: [&str; 2] =
    ["/var/lib/cloud/instance/user-data.txt.i", "/var/lib/cloud/instance/user-data.txt"];
/// EC2 allows 16 KiB, compressed perhaps; what it includes may be more. In bytes.
const LONGEST: u64 = 4 << 20;
/// Multiparts within multiparts are read this deep: merged by Karpenter, wrapped by cloud-init.
const DEEPEST: usize = 4;

/// The type of a NodeConfig (amazon-eks-ami, nodeadm/internal/configprovider).
pub const NODE_CONFIG: &str = "application/node.eks.aws";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Media type, lower case; empty where nothing says it.
    pub kind: String,
    pub text: String,
}

impl Part {
    pub fn is_node_config(&self) -> bool {
        let says =
            |line: &str| line.trim_start().starts_with("apiVersion:") && line.contains("node.eks.aws/");
        self.kind == NODE_CONFIG || self.text.lines().any(says)
    }

    pub fn is_script(&self) -> bool {
        self.text.trim_start().starts_with("#!") || self.kind == "text/x-shellscript"
    }
}

/// Which file it is in, and its parts; none where there is no userData.
///
/// # Errors
/// It is there and cannot be read, in words.
pub fn read(subject: &Subject<'_>) -> Result<Option<(&'static str, Vec<Part>)>, String> {
    for path in PATHS {
        let mut bytes = Vec::new();
        // cloud-init's `instance` is a link.
        let opened = atomic::open(&subject.at(path)?);
        match opened.and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)) {
            Ok(_) => return Ok(Some((path, parts(&String::from_utf8_lossy(&bytes))))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{path}: cannot be read: {e}")),
        }
    }
    Ok(None)
}

/// Its parts, those of inner multiparts too.
pub fn parts(text: &str) -> Vec<Part> {
    let mut found = Vec::new();
    collect(text, true, 0, &mut found);
    found
}

/// `bare`: nothing has said yet that it begins with headers.
fn collect(text: &str, bare: bool, depth: usize, found: &mut Vec<Part>) {
    let text = text.trim_start_matches(['\r', '\n', ' ', '\t']);
    let looks_like_mime = ["mime-version:", "content-type:"]
        .iter()
        .any(|start| text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start)));
    if bare && !looks_like_mime {
        return found.push(Part { kind: String::new(), text: text.to_owned() });
    }
    let (headers, body) = split_headers(text);
    let kind = header(&headers, "content-type").unwrap_or_default();
    let media = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if let Some(boundary) = boundary(&kind).filter(|_| media.starts_with("multipart/") && depth < DEEPEST) {
        let mut part: Option<String> = None;
        for line in body.split_inclusive('\n') {
            let end =
                line.trim_end().strip_prefix("--").and_then(|rest| rest.strip_prefix(boundary.as_str()));
            match end {
                Some("" | "--") => {
                    let done = part.replace(String::new());
                    if let Some(done) = done {
                        collect(&done, false, depth + 1, found);
                    }
                    if end == Some("--") {
                        return;
                    }
                }
                _ => {
                    if let Some(part) = &mut part {
                        part.push_str(line);
                    }
                }
            }
        }
        // One that was cut off before its end.
        if let Some(last) = part {
            collect(&last, false, depth + 1, found);
        }
        return;
    }
    let encoded = header(&headers, "content-transfer-encoding")
        .is_some_and(|how| how.trim().eq_ignore_ascii_case("base64"));
    let text = if encoded { decoded(body) } else { Some(body.to_owned()) };
    found.extend(text.map(|text| Part { kind: media, text }));
}

/// Headers, each on one line, and what follows the empty line after them.
fn split_headers(text: &str) -> (Vec<String>, &str) {
    let mut headers: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            return (headers, rest);
        }
        match headers.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => headers.push(line.to_owned()),
        }
    }
    (headers, "")
}

fn header(headers: &[String], name: &str) -> Option<String> {
    headers
        .iter()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(found, value)| found.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
}

fn boundary(kind: &str) -> Option<String> {
    let value = kind.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then_some(value.trim())
    })?;
    Some(value.trim_matches('"').to_owned()).filter(|value| !value.is_empty())
}

fn decoded(body: &str) -> Option<String> {
    let text: String = body.split_ascii_whitespace().collect();
    Some(String::from_utf8_lossy(&STANDARD.decode(text).ok()?).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Karpenter merges them, ours first.
    pub const MERGED: &str = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"//\"\n\n--//\n\
        Content-Type: text/x-shellscript; charset=\"us-ascii\"\n\n#!/bin/bash\necho one\n--//\n\
        Content-Type: application/node.eks.aws\n\n# Karpenter\napiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\n\n--//--\nrest\n";

    #[test]
    fn parts_of_what_karpenter_merges_and_of_what_is_bare() {
        let found = parts(MERGED);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].is_script() && !found[0].is_node_config());
        assert_eq!(found[0].text, "#!/bin/bash\necho one\n");
        assert!(found[1].is_node_config() && found[1].text.starts_with("# Karpenter\napiVersion:"));
        assert_eq!(parts(&MERGED.replace('\n', "\r\n")).len(), 2);
        let bare = parts("\n#!/bin/sh\nexit 0\n");
        assert!(bare.len() == 1 && bare[0].is_script());
        assert!(parts("apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\n")[0].is_node_config());
    }

    #[test]
    fn parts_that_are_nested_encoded_or_cut_off() {
        let inner = STANDARD.encode("#!/bin/sh\nmkfs\n");
        let text = format!(
            "Content-Type: multipart/mixed;\n boundary=outer\n\n--outer\nContent-Type: multipart/mixed; boundary=inner\n\n\
             --inner\nContent-Transfer-Encoding: base64\nContent-Type: text/x-shellscript\n\n{inner}\n--inner--\n--outer\n\
             Content-Type: {NODE_CONFIG}\n\nspec: {{}}\n"
        );
        let found = parts(&text);
        let kinds: Vec<&str> = found.iter().map(|part| part.kind.as_str()).collect();
        assert_eq!(kinds, ["text/x-shellscript", NODE_CONFIG]);
        assert_eq!(found[0].text, "#!/bin/sh\nmkfs\n");
    }

    proptest! {
        #[test]
        fn outside_text_never_panics(text in "(?s).{0,200}", lines in proptest::collection::vec("(--a|--a--|Content-Type: multipart/x; boundary=a||x)", 0..12)) {
            let _ = parts(&text);
            let _ = parts(&lines.join("\n"));
        }
    }
}
