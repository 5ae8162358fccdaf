//! kubelet's arguments on one line, split as systemd splits `$NODEADM_KUBELET_ARGS` (systemd.service(5), COMMAND LINES:
//! at whitespace, quotes taken off).

/// Bytes that mean the same to systemd, nodeadm and kubelet, quoted or not.
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=,:".contains(&b))
}

/// The arguments of a line, without their quotes.
///
/// # Errors
/// A quote that is not closed, or a backslash, whose meaning depends on who reads it.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        match (quote, c) {
            (_, '\\') => return Err("a backslash, whose meaning depends on who reads it".into()),
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                current.get_or_insert_default();
            }
            (None, c) if c.is_ascii_whitespace() => arguments.extend(current.take()),
            (_, c) => current.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote that is not closed".into());
    }
    arguments.extend(current);
    Ok(arguments)
}

/// The value of `flag` as the last of several gives it (pflag lets the last one win): `--flag=value` or `--flag value`.
/// kubelet takes underscores in a flag's name for dashes (k8s.io/component-base/cli/flag, WordSepNormalizeFunc).
pub fn last_value(arguments: &[String], flag: &str) -> Option<String> {
    let mut found = None;
    for (at, argument) in arguments.iter().enumerate() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument.as_str(), None),
        };
        if name.replace('_', "-") == flag {
            let next = || arguments.get(at + 1).map(String::as_str);
            found = Some(value.or_else(next).unwrap_or_default().to_owned());
        }
    }
    found
}

/// The line may have `flag`: where it has not, nothing needs to be understood of what else is on it.
pub fn may_have(line: &str, flag: &str) -> bool {
    line.replace('_', "-").contains(flag.trim_start_matches('-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_group_and_go() {
        let line = r#"--a=b  --node-labels="x=y,z" '--c=d e'  --f """#;
        assert_eq!(split(line).unwrap(), ["--a=b", "--node-labels=x=y,z", "--c=d e", "--f", ""]);
        assert!(split("--a=\"b").unwrap_err().contains("not closed"));
        assert!(split("--a=b\\").unwrap_err().contains("backslash"));
    }

    #[test]
    fn the_last_of_several_counts() {
        let of = |line: &str| last_value(&split(line).unwrap(), "--register-with-taints");
        assert_eq!(of("--a --register-with-tain=x --register-with-taints-x=y"), None);
        assert_eq!(of("--register-with-taints=a:NoSchedule --b").as_deref(), Some("a:NoSchedule"));
        assert_eq!(of("--register-with-taints=a --register-with-taints 'b'").as_deref(), Some("b"));
        assert_eq!(of("--register-with-taints").as_deref(), Some(""));
        assert_eq!(of("--register_with_taints=a --a=b").as_deref(), Some("a"), "as kubelet reads it");
    }

    proptest! {
        #[test]
        fn plain_arguments_come_back(arguments in proptest::collection::vec("[-a-zA-Z0-9_./=,:]{1,12}", 0..6)) {
            prop_assert!(arguments.iter().all(|a| is_plain(a)));
            prop_assert_eq!(split(&arguments.join(" ")).unwrap(), arguments);
        }

        #[test]
        fn outside_text_never_panics(text in "\\PC{0,60}") {
            let _ = split(&text).map(|arguments| last_value(&arguments, "--x"));
        }
    }
}
