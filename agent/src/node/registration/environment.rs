//! kubelet's environment file of older AL2023 images, `/etc/eks/kubelet/environment`: our arguments at the end of
//! `NODEADM_KUBELET_ARGS`, every other byte as it was. Pure.
//!
//! systemd reads the file (systemd.exec(5), `EnvironmentFile=`; src/basic/env-file.c) and splits the value into
//! arguments. nodeadm has written the value without quotes of its own around it and with quotes inside (Karpenter's
//! labels), others wrap the whole of it. What we write has no character that any of these gives a meaning.

use super::args;
use crate::node::labels::Keys;

const VARIABLE: &str = "NODEADM_KUBELET_ARGS";

/// The text with exactly `arguments` of ours, in place of what an earlier call put there; none to take ours out.
///
/// # Errors
/// The file does not set the variable, or in a way that cannot be edited safely, in words.
pub fn edit(text: &str, arguments: &[String], keys: &Keys) -> Result<String, String> {
    let Some((start, end)) = value(text)? else {
        return Err(format!("sets no {VARIABLE}; expected what nodeadm writes"));
    };
    let raw = without_ours(&text[start..end], keys);
    let at = insertion(&raw)?;
    let (head, tail) = raw.split_at(at);
    let mut edited = head.to_owned();
    for argument in arguments {
        if !edited.trim_start_matches(['"', '\'']).is_empty() {
            edited.push(' ');
        }
        edited.push_str(argument);
    }
    edited.push_str(tail);
    let after = args::split(&unwrapped(&edited))?;
    if !arguments.iter().all(|argument| after.contains(argument)) {
        return Err(format!("{VARIABLE} has quotes that would swallow another argument"));
    }
    Ok(format!("{}{edited}{}", &text[..start], &text[end..]))
}

/// kubelet's arguments as the file gives them, without ours.
///
/// # Errors
/// As [`edit`].
pub fn arguments(text: &str, keys: &Keys) -> Result<Vec<String>, String> {
    match value(text)? {
        Some((start, end)) => args::split(&unwrapped(&without_ours(&text[start..end], keys))),
        None => Ok(Vec::new()),
    }
}

/// Where the variable's value is, quotes included and blanks at its end not; the last assignment counts.
fn value(text: &str) -> Result<Option<(usize, usize)>, String> {
    let mut found = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let Some(rest) = line.trim_start().strip_prefix(VARIABLE) else { continue };
        let Some(raw) = rest.trim_start_matches([' ', '\t']).strip_prefix('=') else { continue };
        let blanks = raw.len() - raw.trim_start_matches([' ', '\t']).len();
        let trimmed = raw.trim();
        // A value that goes on in the next line is nothing that nodeadm writes.
        if trimmed.contains('\\') {
            return Err(format!("{VARIABLE} has a backslash, whose meaning depends on who reads it"));
        }
        let offset = line.len() - raw.len() + blanks;
        found = Some((start + offset, start + offset + trimmed.len()));
    }
    Ok(found)
}

/// The quote that is around the whole value, where there is one: it opens at the start, and closes only at the end.
fn wrapping(raw: &str) -> Option<char> {
    let open = raw.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = raw[1..].find(open)?;
    (inner + 2 == raw.len()).then_some(open)
}

/// The value without a quote around the whole of it.
fn unwrapped(raw: &str) -> String {
    match wrapping(raw) {
        Some(_) => raw[1..raw.len() - 1].to_owned(),
        None => raw.to_owned(),
    }
}

/// Where an argument is added: at the end, inside of a quote around the whole.
fn insertion(raw: &str) -> Result<usize, String> {
    match wrapping(raw) {
        Some(_) => Ok(raw.len() - 1),
        // systemd takes the first quote for one around the value, and the rest literally: nobody means that.
        None if raw.starts_with(['"', '\'']) => {
            Err(format!("{VARIABLE} begins with a quote that does not close at its end"))
        }
        None => Ok(raw.len()),
    }
}

/// Without the arguments that we put there: they are plain, and name our keys.
fn without_ours(raw: &str, keys: &Keys) -> String {
    let label = format!("--node-labels={}=", keys.state());
    let taint = super::taints::ours_in_flag(keys);
    let is_ours = |argument: &str| {
        argument.starts_with(&label)
            || (argument.starts_with("--register-with-taints=")
                && argument.split(['=', ',']).any(|part| part == taint))
    };
    let mut kept = String::new();
    let mut rest = raw;
    while let Some(at) = rest.find("--") {
        let (before, from) = rest.split_at(at);
        let length =
            from.find(|c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\'')).unwrap_or(from.len());
        let (argument, after) = from.split_at(length);
        let at_start = before.is_empty() || before.ends_with([' ', '\t', '"', '\'']);
        kept.push_str(before);
        if at_start && is_ours(argument) {
            // With the blank that came with it.
            if kept.ends_with(' ') {
                kept.pop();
            }
        } else {
            kept.push_str(argument);
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: &str = "--node-labels=nvme-agent.e6data.com/state=failed,nvme-agent.e6data.com/drives=0";

    fn with(text: &str) -> Result<String, String> {
        edit(text, &[OURS.to_owned()], &Keys::default())
    }

    #[test]
    fn ours_is_added_to_every_way_of_quoting_and_goes_again_without_a_trace() {
        let nodeadm =
            "NODEADM_KUBELET_ARGS=--v=2 --node-labels=\"a=b,c=d\"\nKUBELET_CONFIG_DROPIN_DIR_ALPHA=on";
        for (text, expected) in [
            (nodeadm.to_owned(), nodeadm.replace("c=d\"", &format!("c=d\" {OURS}"))),
            (
                nodeadm.replace(" --node-labels=\"a=b,c=d\"", ""),
                format!("NODEADM_KUBELET_ARGS=--v=2 {OURS}\nKUBELET_CONFIG_DROPIN_DIR_ALPHA=on"),
            ),
            (
                "# x\nNODEADM_KUBELET_ARGS=\"--v=2 --a='b'\"\n".into(),
                format!("# x\nNODEADM_KUBELET_ARGS=\"--v=2 --a='b' {OURS}\"\n"),
            ),
            (
                "NODEADM_KUBELET_ARGS='--a=\"b c\"'".into(),
                format!("NODEADM_KUBELET_ARGS='--a=\"b c\" {OURS}'"),
            ),
            (
                "A=1\nNODEADM_KUBELET_ARGS=  --v=2  \nB=2\n".into(),
                format!("A=1\nNODEADM_KUBELET_ARGS=  --v=2 {OURS}  \nB=2\n"),
            ),
            ("NODEADM_KUBELET_ARGS=\n".into(), format!("NODEADM_KUBELET_ARGS={OURS}\n")),
            ("NODEADM_KUBELET_ARGS=\"\"\n".into(), format!("NODEADM_KUBELET_ARGS=\"{OURS}\"\n")),
        ] {
            let edited = with(&text).unwrap();
            assert_eq!(edited, expected);
            assert_eq!(with(&edited).unwrap(), edited, "a second time");
            assert_eq!(edit(&edited, &[], &Keys::default()).unwrap(), text);
        }
    }

    #[test]
    fn the_former_state_is_replaced_and_somebody_elses_labels_stay() {
        let before = format!("NODEADM_KUBELET_ARGS=--node-labels=x.com/state=ready {OURS} --v=2\n");
        let ready = OURS.replace("failed", "ready");
        let after = edit(&before, std::slice::from_ref(&ready), &Keys::default()).unwrap();
        assert_eq!(after, format!("NODEADM_KUBELET_ARGS=--node-labels=x.com/state=ready --v=2 {ready}\n"));
    }

    #[test]
    fn our_taint_goes_and_the_flag_it_extended_stays() {
        let text = "NODEADM_KUBELET_ARGS=--register-with-taints=a:NoSchedule\n";
        let taint = "--register-with-taints=a:NoSchedule,nvme-agent.e6data.com/failed:NoSchedule".to_owned();
        let tainted = edit(text, &[OURS.to_owned(), taint], &Keys::default()).unwrap();
        assert!(tainted.ends_with("a:NoSchedule,nvme-agent.e6data.com/failed:NoSchedule\n"), "{tainted}");
        assert_eq!(arguments(&tainted, &Keys::default()).unwrap(), ["--register-with-taints=a:NoSchedule"]);
        assert_eq!(edit(&tainted, &[], &Keys::default()).unwrap(), text);
    }

    #[test]
    fn in_doubt_the_file_stays_as_it_is() {
        for (text, words) in [
            ("", "sets no NODEADM_KUBELET_ARGS"),
            ("#NODEADM_KUBELET_ARGS=x\nXNODEADM_KUBELET_ARGS=y\n", "sets no NODEADM_KUBELET_ARGS"),
            ("NODEADM_KUBELET_ARGS=--a=b \\\n --c\n", "backslash"),
            ("NODEADM_KUBELET_ARGS=\"--a --labels=\"x=y\" --b\"\n", "begins with a quote"),
            ("NODEADM_KUBELET_ARGS=--a='b\n", "not closed"),
        ] {
            let problem = with(text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_there_every_other_byte_stays(text in "(NODEADM_KUBELET_ARGS=)?[-a-z=\"' \n\\\\\u{e9}]{0,60}") {
            if let Ok(edited) = with(&text) {
                // The blank before it is ours, unless there was no argument before it.
                let [with_blank, alone] = [format!(" {OURS}"), OURS.to_owned()].map(|ours| edited.replacen(&ours, "", 1));
                prop_assert!(with_blank == text || alone == text, "{edited:?}");
            }
        }
    }
}
