use proptest::prelude::*;

use super::*;

const DEBIAN: &str = "\
# mdadm.conf
#
# !NB! Run update-initramfs -u after updating this file.
#DEVICE partitions containers

# automatically tag new arrays as belonging to the local system
HOMEHOST <system>

# instruct the monitoring daemon where to send mail alerts
MAILADDR root

# definitions of existing MD arrays
";
const OURS: &str =
    "ARRAY /dev/md0 metadata=1.2 name=any:md0 UUID=0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9 # nvme-agent";
const SCAN: &str =
    "ARRAY /dev/md0 metadata=1.2 name=ip-10-0-0-1.ec2.internal:md0 UUID=0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9";

fn want() -> Line {
    Line {
        device: "/dev/md0".into(),
        name: Some("any:md0".into()),
        uuid: parse_mdadm_uuid("0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9").unwrap(),
    }
}

fn edited(text: &str) -> Edited {
    edit(Some(text), &want(), &|_| false).unwrap().unwrap()
}

#[test]
fn one_line_is_added_and_taken_out_again() {
    for text in ["", DEBIAN, "DEVICE partitions\n"] {
        let new = edited(text);
        assert_eq!(new.text, format!("{text}{OURS}\n"));
        assert_eq!(edit(Some(&new.text), &want(), &|_| true), Ok(None));
        assert_eq!(remove(&new.text).unwrap(), text);
    }
    assert_eq!(edit(None, &want(), &|_| false).unwrap().unwrap().text, format!("{OURS}\n"));
    assert_eq!(remove(DEBIAN), None);
}

#[test]
fn the_old_scripts_scan_of_the_same_set_is_taken_over_each_time_it_ran() {
    let new = edited(&format!("{DEBIAN}{SCAN}\n{SCAN}\n"));
    assert_eq!(
        new.text,
        format!("{DEBIAN}# nvme-agent: replaced: {SCAN}\n{OURS}\n# nvme-agent: replaced: {SCAN}\n")
    );
    assert_eq!(
        new.change,
        "line 13 is replaced and kept as a comment; line 14 is replaced and kept as a comment"
    );
}

#[test]
fn another_set_on_our_device_is_a_conflict_unless_it_is_said_to_be_ours() {
    for device in ["/dev/md0", "md0", "/dev/md/0", "/dev/md/md0", "0"] {
        let line = format!("arr {device} uuid=ffffffff.ffffffff.ffffffff.ffffffff");
        let text = format!("{DEBIAN}{line}\n");
        let problem = edit(Some(&text), &want(), &|_| false).unwrap_err();
        assert!(matches!(problem, Problem::Conflict { line_no: 13, .. }), "{device}: {problem}");
        let new = edit(Some(&text), &want(), &|a| a.minor.is_none()).unwrap().unwrap();
        assert_eq!(new.text, format!("{DEBIAN}# nvme-agent: replaced: {line}\n{OURS}\n"));
    }
    let text = "ARRAY /dev/md1 UUID=ffffffff:ffffffff:ffffffff:ffffffff\nARRAY /dev/md/md00\n";
    assert_eq!(edited(text).text, format!("{text}{OURS}\n"), "others stay, whatever they are");
}

#[test]
fn our_line_follows_the_set_and_its_device() {
    let old = OURS.replace("0a1b2c3d", "00000000").replace("/dev/md0", "/dev/md7");
    let new = edited(&format!("{old}\nMAILADDR root\n{old}\n"));
    assert_eq!(new.text, format!("{OURS}\nMAILADDR root\n"));
    let adopted = Line { name: None, device: "/dev/md127".into(), ..want() };
    let text = edit(Some(&new.text), &adopted, &|_| false).unwrap().unwrap().text;
    assert!(text.starts_with("ARRAY /dev/md127 metadata=1.2 UUID=0a1b2c3d:"), "{text}");
}

#[test]
fn continued_lines_are_one() {
    let text = "ARRAY /dev/md0\n# a comment between\n\n\tUUID=0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9 'spare-group=a b'\nMAILADDR root\n";
    let array = &parse(text).unwrap()[0];
    assert_eq!(array.uuid, Some(want().uuid));
    let new = edited(text);
    assert_eq!(
        new.text,
        format!(
            "# nvme-agent: replaced: ARRAY /dev/md0\n{OURS}\n# a comment between\n\n\
             # nvme-agent: replaced: \tUUID=0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9 'spare-group=a b'\nMAILADDR root\n"
        )
    );
    assert_eq!(edit(Some(&new.text), &want(), &|_| false), Ok(None));
    // Somebody continued our line: with it goes what would otherwise attach itself to the line before.
    let text = format!("MAILADDR root\n{OURS}\n  spares=1\n# end\n");
    assert_eq!(remove(&text).unwrap(), "MAILADDR root\n# end\n");
    assert_eq!(edited(&text).text, format!("MAILADDR root\n{OURS}\n# end\n"));
}

#[test]
fn words_are_those_of_mdadm() {
    let (found, owned) = words("ARRAY  \"/dev/md/my array\" UUID='a'b:#c # nvme-agent ");
    assert_eq!(found, ["ARRAY", "/dev/md/my array", "UUID=ab:#c"]);
    assert!(owned);
    assert!(!words("ARRAY /dev/md0 # nvme-agent: replaced").1);
    for (word, is) in
        [("array", true), ("ARR", true), ("Arra", true), ("ar", false), ("arrays", false), ("aut", false)]
    {
        assert_eq!(is_array_keyword(word), is, "{word}");
    }
    assert_eq!(parse(" ARRAY /dev/md3\n").unwrap().len(), 1, "an indented first line continues nothing");
}

#[test]
fn what_mdadm_would_drop_is_refused_by_number() {
    for bad in [
        "ARRAY /dev/md0 /dev/md1",
        "ARRAY /dev/md5 UUID=123",
        "ARRAY UUID=0a1b2c3d:4e5f6071:8293a4b5:c6d7e8fg",
    ] {
        let text = format!("{DEBIAN}{bad}\n");
        let problem = edit(Some(&text), &want(), &|_| true).unwrap_err();
        assert!(matches!(problem, Problem::Malformed { line_no: 13, .. }), "{bad}: {problem}");
        assert!(evidence(&text).is_empty());
        assert_eq!(remove(&format!("{bad}\n{OURS}\n")).unwrap(), format!("{bad}\n"));
    }
}

#[test]
fn a_file_with_carriage_returns_is_read_and_gets_none() {
    let text = format!("MAILADDR root\r\n{SCAN}\r\n");
    let new = edited(&text);
    assert_eq!(new.text, format!("MAILADDR root\r\n# nvme-agent: replaced: {SCAN}\r\n{OURS}\n"));
    assert_eq!(edit(Some(&new.text), &want(), &|_| false), Ok(None));
}

fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(OURS.to_owned()),
        Just(SCAN.to_owned()),
        Just(OURS.replace("0a1b2c3d", "00000000")),
        Just("ARRAY /dev/md3".to_owned()),
        Just("\tspares=1".to_owned()),
        Just("# text".to_owned()),
        Just(String::new()),
        "[ \t]{0,1}(ARRAY|DEVICE|mail) [a-z/'\"#=]{1,9}",
    ]
}

proptest! {
    #[test]
    fn editing_twice_is_editing_once(rows in proptest::collection::vec(any_line(), 0..10), finished: bool) {
        let text = rows.join("\n") + if finished { "\n" } else { "" };
        let ours = |_: &ArrayLine| true;
        if let Ok(Some(new)) = edit(Some(&text), &want(), &ours) {
            prop_assert_eq!(edit(Some(&new.text), &want(), &ours), Ok(None));
            let arrays = parse(&new.text).unwrap();
            prop_assert_eq!(arrays.iter().filter(|a| a.owned).count(), 1);
            prop_assert_eq!(arrays.iter().filter(|a| a.uuid == Some(want().uuid)).count(), 1);
            let foreign = |text: &str| -> Vec<Option<String>> {
                let arrays = parse(text).unwrap().into_iter();
                arrays.filter(|a| !a.owned && a.uuid.is_none() && !a.is_device("md0")).map(|a| a.device).collect()
            };
            prop_assert_eq!(foreign(&new.text), foreign(&text));
            let gone = remove(&new.text).unwrap();
            prop_assert_eq!(remove(&gone), None);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(flips in proptest::collection::vec((0..600_usize, any::<u8>()), 1..8)) {
        let mut bytes = format!("{DEBIAN}{SCAN}\n  spares=1\n{OURS}\n").into_bytes();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let text = String::from_utf8_lossy(&bytes);
        let _ = remove(&text);
        if let Ok(Some(new)) = edit(Some(&text), &want(), &|_| true) {
            prop_assert_eq!(edit(Some(&new.text), &want(), &|_| true), Ok(None));
        }
    }
}

#[test]
fn a_file_lacks_our_set_where_no_line_names_it() {
    let line = Line { device: "/dev/md0".into(), name: None, uuid: Uuid::from_u128(7) };
    let ours = format!("MAILADDR root\n{}\n", line.render());
    let theirs = ours.replace(OWNED, "# by hand");
    assert_eq!((lacks(&ours, line.uuid), lacks(&theirs, line.uuid)), (None, None));
    let other = lacks(&ours, Uuid::from_u128(8)).unwrap();
    assert_eq!(other, "no ARRAY line names the set 00000000:00000000:00000000:00000008");
    let malformed = lacks("ARRAY /dev/md0 UUID=nonsense\n", line.uuid).unwrap();
    assert!(malformed.contains("line 1 is malformed"), "{malformed}");
}
