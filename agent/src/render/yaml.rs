//! JSON as YAML for people: blocks instead of braces, a script as it is. Pure.
//!
//! Every object here is made as a value and only then written, so that nothing in it can break out of its place.

use serde_json::Value;

/// One document, with a line feed at its end.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut text),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut text),
        other => text.push_str(&scalar(other)),
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The lines of a map or a list that is not empty.
fn block(value: &Value, indent: usize, text: &mut String) {
    let blanks = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                text.push_str(&format!("{blanks}{}:", word(key)));
                after(value, indent + 2, text);
            }
        }
        Value::Array(list) => {
            for value in list {
                let mut item = String::new();
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        block(value, indent + 2, &mut item);
                        // Its first line begins beside the dash.
                        text.push_str(&format!("{blanks}- {}", &item[indent + 2..]));
                    }
                    _ => {
                        text.push_str(&format!("{blanks}-"));
                        after(value, indent + 2, text);
                    }
                }
            }
        }
        other => text.push_str(&scalar(other)),
    }
}

/// What comes behind a key or a dash, with the end of its line.
fn after(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(value, indent, text);
        }
        Value::Array(list) if !list.is_empty() => {
            text.push('\n');
            block(value, indent, text);
        }
        Value::String(lines) if is_literal(lines) => {
            text.push_str(" |\n");
            for line in lines.lines() {
                if !line.is_empty() {
                    text.push_str(&" ".repeat(indent));
                    text.push_str(line);
                }
                text.push('\n');
            }
        }
        other => {
            text.push(' ');
            text.push_str(&scalar(other));
            text.push('\n');
        }
    }
}

/// Text that a literal block gives back as it is: lines of printable ASCII, the first not indented, one line feed at the end.
fn is_literal(text: &str) -> bool {
    let lines = text.strip_suffix('\n').unwrap_or_default();
    lines.contains('\n')
        && !lines.starts_with([' ', '\n'])
        && !lines.ends_with('\n')
        && lines.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n'))
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        // Also empty maps and lists, which have no block form.
        other => other.to_string(),
    }
}

/// A string: plain where nobody could take it for anything else, quoted as in JSON otherwise.
fn word(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./@".contains(&b));
    // Of YAML 1.1, which Go's parsers still read.
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    match plain && !words.contains(&text.to_ascii_lowercase().as_str()) {
        true => text.to_owned(),
        false => Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_reads_as_a_person_would_write_it() {
        let object = json!({
            "kind": "NodePool",
            "spec": {
                "limits": {"cpu": 256},
                "on": "yes",
                "none": [],
                "terms": [{"tags": {"karpenter.sh/discovery": "c"}, "x": null}, {"y": [["a"], "1"]}],
                "userData": "#!/bin/sh\n\n  a: b\n",
            }
        });
        let expected = "\
kind: NodePool
spec:
  limits:
    cpu: 256
  none: []
  \"on\": \"yes\"
  terms:
    - tags:
        karpenter.sh/discovery: c
      x: null
    - \"y\":
        -
          - a
        - \"1\"
  userData: |
    #!/bin/sh

      a: b
";
        assert_eq!(document(&object), expected);
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = "([a-z0-9.:@#/$%&*!|>'\"{}, \\\\\n\u{e9}-]{0,12}\n?|y|no|null|1e3|0x1|~|\\.inf)";
        let leaf = prop_oneof![
            text.prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            Just(Value::Null),
            any::<bool>().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z.:/# -]{1,6}|on|1", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(value in values()) {
            let text = document(&value);
            let read: Value = serde_saphyr::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
