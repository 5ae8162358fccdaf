use proptest::prelude::*;

use super::edit::{REPLACED, Role, role};
use super::*;
use crate::persist::Edited;

const AL2023: &str = "#\nUUID=0f1a7a55-6d1c-4c1b-9d1a-3f0f5cf7b2a1     /           xfs    defaults,noatime  1   1\nUUID=8B1D-4C3A        /boot/efi       vfat    defaults,noatime,uid=0,gid=0,umask=0077,shortname=winnt,x-systemd.automount 0 2\n";
const UBUNTU: &str = "LABEL=cloudimg-rootfs\t/\t ext4\tdiscard,commit=30,errors=remount-ro\t0 1\nLABEL=BOOT\t/boot\text4\tdefaults\t0 2\nLABEL=UEFI\t/boot/efi\tvfat\tumask=0077\t0 1\n";
const DEBIAN: &str = "# /etc/fstab: static file system information\nPARTUUID=5e0dbd0c-9b5b-4cd1-a8f1-02a6d6a5a1c6 / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\nPARTUUID=a0b1c2d3-0000-4444-8888-aabbccddeeff /boot/efi vfat defaults 0 0\n";
const UUID: &str = "6a3c8f5e-11aa-4b7e-9c7d-0123456789ab";
const OURS: &str = "UUID=6a3c8f5e-11aa-4b7e-9c7d-0123456789ab /tmp ext4 noatime,nosuid,nodev,nofail,x-systemd.device-timeout=90s,x-nvme-agent 0 0";

fn want() -> Line {
    let configured = ["noatime", "nosuid", "nodev"].map(str::to_owned);
    Line { uuid: UUID.into(), target: "/tmp".into(), fs_type: "ext4".into(), options: options(&configured) }
}

fn edited(text: &str, ours: &[&str]) -> Edited {
    edit(Some(text), &want(), &|e| ours.contains(&e.spec.as_str())).unwrap().unwrap()
}

fn assert_settled(text: &str) {
    assert_eq!(edit(Some(text), &want(), &|_| true), Ok(None), "a second run has nothing to do:\n{text}");
}

#[test]
fn real_files_get_one_line_and_lose_nothing() {
    for text in [AL2023, UBUNTU, DEBIAN, "", "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n"] {
        let new = edited(text, &[]);
        assert_eq!(new.text, format!("{text}{OURS}\n"));
        assert_settled(&new.text);
        assert_eq!(remove(&new.text).unwrap(), text, "teardown gives the old file back");
    }
    assert_eq!(edit(None, &want(), &|_| false).unwrap().unwrap().text, format!("{OURS}\n"));
}

#[test]
fn the_old_scripts_line_becomes_a_comment_in_its_place() {
    for spec in [
        "/dev/md0",
        "/dev/nvme1n1",
        "/dev/md127",
        "/dev/md/md0",
        "LABEL=scratch",
        "/dev/disk/by-id/md-uuid-aaaaaaaa:bbbbbbbb:cccccccc:dddddddd",
        "UUID=11111111-2222-3333-4444-555555555555",
    ] {
        let old = format!("{spec} /tmp ext4 defaults,noatime,nofail 0 2");
        let new = edited(&format!("{AL2023}{old}\n/dev/sdb /data xfs defaults 0 0\n"), &[spec]);
        assert_eq!(
            new.text,
            format!("{AL2023}# nvme-agent: replaced: {old}\n{OURS}\n/dev/sdb /data xfs defaults 0 0\n")
        );
        assert_eq!(new.change, format!("line 4 ({spec}) is replaced and kept as a comment"));
        assert_settled(&new.text);
    }
}

#[test]
fn the_old_script_ran_three_times_and_all_its_lines_go() {
    let old = "/dev/md0 /tmp ext4 defaults,noatime,nofail 0 2\n";
    let new = edited(&format!("{AL2023}{old}{old}{old}"), &["/dev/md0"]);
    let comment = format!("# nvme-agent: replaced: {old}");
    assert_eq!(new.text, format!("{AL2023}{comment}{OURS}\n{comment}{comment}"));
    // And once more after us, by userData.
    let again = edited(&format!("{}{old}", new.text), &["/dev/md0"]);
    assert_eq!(again.text, format!("{}{comment}", new.text));
}

#[test]
fn a_line_by_the_filesystems_own_uuid_is_taken_over_without_asking() {
    for spec in [
        format!("UUID={}", UUID.to_uppercase()),
        format!("UUID=\"{UUID}\""),
        format!("/dev/disk/by-uuid/{UUID}"),
    ] {
        let old = format!("{spec} //tmp/ ext4 defaults 0 2\n");
        let new = edit(Some(&old), &want(), &|_| false).unwrap().unwrap();
        assert_eq!(new.text, format!("# nvme-agent: replaced: {old}{OURS}\n"));
    }
}

#[test]
fn anything_else_on_the_target_is_refused_by_number() {
    for line in [
        "/dev/sdb1 /tmp ext4 defaults 0 2",
        "tmpfs /tmp tmpfs defaults,size=2G 0 0",
        "/data/tmp /tmp none bind 0 0",
        "/dev/sdb1 /tmp/ ext4 noauto 0 0",
        "UUID=ffffffff-2222-3333-4444-555555555555 /tmp xfs defaults 0 0",
        "/dev/sdb1 /\\164mp ext4",
    ] {
        let text = format!("{AL2023}\n{line}\n{OURS}\n");
        let problem = edit(Some(&text), &want(), &|_| false).unwrap_err();
        assert!(matches!(problem, Problem::Conflict { line_no: 5, .. }), "{line}: {problem}");
        assert!(problem.to_string().contains("take the line out"), "{problem}");
    }
}

#[test]
fn lines_elsewhere_are_nobodys_business() {
    let text = "/dev/md0 /mnt/fast ext4 noauto 0 0\n/swapfile none swap sw 0 0\n/dev/sdb /tmp2 ext4\n/dev/sdd swap swap defaults\n";
    assert_eq!(edited(text, &[]).text, format!("{text}{OURS}\n"));
}

#[test]
fn ours_stands_before_what_needs_it() {
    // `mount -a` goes from the first line to the last.
    let before = "/dev/sdb /data xfs\n";
    for after in
        ["/tmp /var/tmp none bind 0 0\n/dev/sdb /srv ext4\n", "/dev/sdc /tmp/x ext4\n/tmp/x /mnt none bind\n"]
    {
        assert_eq!(edited(&format!("{before}{after}"), &[]).text, format!("{before}{OURS}\n{after}"));
    }
    // A line above the target covers what stands below, wherever ours is: behind it is the only place.
    let text = "/dev/sdc /srv/x/y ext4\n/dev/sdb /srv xfs\n";
    let line = Line { target: "/srv/x".into(), ..want() };
    let new = edit(Some(text), &line, &|_| false).unwrap().unwrap();
    assert_eq!(new.text, format!("{text}{}\n", line.render()));
}

#[test]
fn style_of_the_file_is_kept() {
    let crlf = AL2023.replace('\n', "\r\n");
    let new = edited(&crlf, &[]);
    assert_eq!(new.text, format!("{crlf}{OURS}\r\n"));
    assert_settled(&new.text);

    let crlf = "/dev/md0\t/tmp\text4\tdefaults\r\n# end";
    let new = edited(crlf, &["/dev/md0"]);
    assert_eq!(
        new.text,
        format!("# nvme-agent: replaced: /dev/md0\t/tmp\text4\tdefaults\r\n{OURS}\r\n# end")
    );
    assert_settled(&new.text);
}

#[test]
fn an_unfinished_last_line_stays_so_and_teardown_gives_the_file_back() {
    for last in [
        "/dev/sda1 / ext4 defaults 0 1",
        "# end",
        "/dev/sdb /tmpfs ext4",
        "/tmp /var/tmp none bind",
        " ",
        "x\r",
    ] {
        for start in ["", "# one\n", AL2023] {
            let text = format!("{start}{last}");
            if parse(&text).is_err() {
                continue;
            }
            let new = edited(&text, &[]);
            assert_eq!(new.text, format!("{start}{OURS}\n{last}"));
            assert_settled(&new.text);
            assert_eq!(remove(&new.text).unwrap(), text);
            assert_eq!(remove(&disable(&new.text).unwrap()).unwrap(), text);
            // What somebody adds, edits or finishes meanwhile is his.
            assert_eq!(remove(&format!("{}\n# more", new.text)).unwrap(), format!("{text}\n# more"));
        }
    }
}

#[test]
fn an_unfinished_last_line_is_finished_and_ours_is() {
    // `mount -a` would mount /tmp first, and then cover it.
    let line = Line { target: "/opt/data".into(), ..want() };
    for text in ["/dev/sda1 /opt ext4", "# a\n/dev/sda1 //opt/ ext4 defaults 0 1"] {
        let new = edit(Some(text), &line, &|_| false).unwrap().unwrap().text;
        assert_eq!(new, format!("{text}\n{}\n", line.render()));
    }
    let text = "/dev/md0 /tmp ext4 defaults 0 1";
    let new = edited(text, &["/dev/md0"]);
    assert_eq!(new.text, format!("# nvme-agent: replaced: {text}\n{OURS}\n"));
    // Ours in force but unfinished, as the last one: left alone.
    assert_settled(OURS);
}

#[test]
fn our_line_is_corrected_moved_and_collapsed() {
    let other = OURS.replace(UUID, "00000000-1111-2222-3333-444444444444").replace("/tmp", "/data");
    let new = edited(&format!("{AL2023}{other}\n# end\n"), &[]);
    assert_eq!(new.text, format!("{AL2023}{OURS}\n# end\n"));

    let new = edited(&format!("{other}\n# a\n{OURS}\n# b\n{OURS}\n"), &[]);
    assert_eq!(new.text, format!("# a\n{OURS}\n# b\n"), "the right one stays where it is");
    assert_eq!(
        new.change,
        "line 1 of ours (UUID=00000000-1111-2222-3333-444444444444) is dropped; \
         line 5 of ours (UUID=6a3c8f5e-11aa-4b7e-9c7d-0123456789ab) is dropped"
    );
    assert_settled(&format!("{}\n", OURS.replace(' ', "\t ")));
}

#[test]
fn a_failed_setup_puts_the_line_out_of_force_and_the_next_one_in_again() {
    let before = edited(&format!("{AL2023}/dev/md0 /tmp ext4 defaults 0 2\n# end\n"), &["/dev/md0"]).text;
    let off = disable(&before).unwrap();
    assert!(parse(&off).unwrap().iter().all(|e| !e.is_at("/tmp")), "nothing waits:\n{off}");
    assert_eq!(off.lines().count(), before.lines().count());
    assert_eq!(disable(&off), None);
    let seen = evidence(&off, "/tmp");
    assert_eq!(seen.len(), 1);
    assert!(seen[0].disabled);
    assert_eq!(seen[0].source(), Source::Uuid(UUID), "what it says about whose filesystem it is counts on");

    assert_eq!(edited(&off, &[]).text, before, "no comments pile up");
    assert_eq!(remove(&off), remove(&before));
    // Put in by hand after it was put out: one comment remains.
    assert_eq!(disable(&format!("{off}{OURS}\n")).unwrap(), off);
}

#[test]
fn out_of_force_also_in_a_file_with_malformed_lines() {
    let text = format!("junk\n{OURS}\n");
    assert!(disable(&text).unwrap().starts_with("junk\n# nvme-agent: disabled"));
    assert_eq!(remove(&text).unwrap(), "junk\n");
    assert_eq!(disable(AL2023), None);
    assert_eq!(remove(AL2023), None);
}

#[test]
fn a_malformed_line_hides_neither_what_the_others_say_nor_what_it_means() {
    let text = format!("junk\nUUID={UUID} /data ext4 noatime, nofail 0 2\n{OURS}\n/dev/sdb /tmp xfs\n");
    let at: Vec<usize> = evidence(&text, "/tmp").iter().map(|e| e.line_no).collect();
    assert_eq!(at, [3, 4], "none of it is by a malformed line");
    let meant = meant(&text);
    assert_eq!(meant.len(), 4);
    assert_eq!((meant[1].source(), meant[1].file.as_str()), (Source::Uuid(UUID), "/data"));
    let problem = conflict(&text, &want(), &|_| false).unwrap();
    assert!(matches!(problem, Problem::Conflict { line_no: 4, .. }), "{problem}");
    assert_eq!(conflict(&text, &want(), &|_| true), None);
}

/// Each verdict is that of `findmnt --verify` of util-linux 2.38.
#[test]
fn lines_are_judged_as_libmount_does() {
    for good in [
        "/dev/sda1 /x ext4",
        "/dev/sda1 /x ext4 nofail",
        "/dev/sda1 /x ext4 nofail 0",
        "/dev/sda1 /x ext4 nofail 0 0 7",
        "/dev/sda1 /x ext4 nofail 0 0 # why",
        "/dev/sda1 /x ext4 nofail -1 +2",
        " \t/dev/sda1\t\t/x  ext4 nofail 0 0\r",
    ] {
        assert_eq!(parse(good).unwrap().len(), 1, "{good}");
    }
    for bad in [
        "junk",
        "/dev/sda1 /x",
        "/dev/sda1 /x ext4 nofail x 0",
        "/dev/sda1 /x ext4 nofail 0 y",
        "/dev/sda1 /x ext4 nofail 0 0\u{c}",
        "\"/dev/x y\" /x ext4 nofail 0 0",
    ] {
        let text = format!("# one\n\n{bad}\n{OURS}\n");
        let problem = edit(Some(&text), &want(), &|_| true).unwrap_err();
        assert!(matches!(problem, Problem::Malformed { line_no: 3, .. }), "{bad}: {problem}");
    }
    for nothing in ["", "   ", "\t# x", "#/dev/sda1 /x ext4", "\r"] {
        assert_eq!(parse(nothing), Ok(vec![]), "{nothing:?}");
    }
}

#[test]
fn a_password_in_the_options_is_never_repeated() {
    let malformed = parse("//nas/share /mnt cifs user=me, password=hunter2 0 0").unwrap_err();
    let text = "//nas/share /tmp cifs user=me,password=hunter2 0 0";
    let conflict = edit(Some(text), &want(), &|_| false).unwrap_err();
    for problem in [malformed, conflict] {
        assert!(!format!("{problem} {problem:?}").contains("hunter2"), "{problem}");
        assert!(problem.to_string().contains("//nas/share /"), "{problem}");
    }
}

#[test]
fn escapes_are_read_and_written() {
    let entries = parse("LABEL=my\\040disk /mnt/a\\040b\\134c ext4 x=\\011y 0 0").unwrap();
    assert_eq!((entries[0].spec.as_str(), entries[0].file.as_str()), ("LABEL=my disk", "/mnt/a b\\c"));
    assert_eq!(entries[0].source(), Source::Label("my disk"));
    assert_eq!(entries[0].options, "x=\ty");
    let line = Line { target: "/mnt/a b\\c".into(), ..want() };
    let text = edit(None, &line, &|_| false).unwrap().unwrap().text;
    assert!(text.contains(" /mnt/a\\040b\\134c ext4 "));
    assert_eq!(edit(Some(&text), &line, &|_| false), Ok(None));
}

#[test]
fn what_a_spec_names() {
    let source = |spec: &str| format!("{:?}", parse(&format!("{spec} / ext4")).unwrap()[0].source());
    assert_eq!(source("/dev/md127"), "Kernel(\"md127\")");
    assert_eq!(source("/dev/md/any:md0"), "MdName(\"any:md0\")");
    assert_eq!(source("/dev/disk/by-id/md-name-h:md0"), "MdName(\"h:md0\")");
    assert_eq!(
        source("/dev/disk/by-id/md-uuid-aaaaaaaa:bbbbbbbb:cccccccc:dddddddd"),
        "MdUuid(aaaaaaaa-bbbb-bbbb-cccc-ccccdddddddd)"
    );
    assert_eq!(source("PARTUUID=1"), "Other(\"PARTUUID=1\")");
    assert_eq!(source("tmpfs"), "Other(\"tmpfs\")");
    assert_eq!(source("/dev/"), "Other(\"/dev/\")");
}

#[test]
fn options_keep_the_operators_order_and_timeout() {
    let of = |list: &[&str]| options(&list.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
    assert_eq!(of(&[]), "nofail,x-systemd.device-timeout=90s,x-nvme-agent");
    assert_eq!(
        of(&["nofail", "x-systemd.device-timeout=30s", "noatime"]),
        "x-systemd.device-timeout=30s,noatime,nofail,x-nvme-agent"
    );
}

fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(OURS.to_owned()),
        Just(format!("{DISABLED}{OURS}")),
        Just(OURS.replace(UUID, "00000000-1111-2222-3333-444444444444")),
        Just("/dev/md0 /tmp ext4 defaults,noatime,nofail 0 2".to_owned()),
        Just("/dev/sda1 /data xfs defaults".to_owned()),
        Just("  # comment \t".to_owned()),
        Just(String::new()),
        "[ \t]{0,2}/dev/[a-z0-9]{1,6}[ \t]{1,3}/[a-z0-9\\\\/]{0,8}[ \t](ext4|swap)( [a-z,=]{1,9}( [0-9]( [0-9])?)?)?[ \t]{0,2}",
    ]
}

fn any_file() -> impl Strategy<Value = String> {
    (proptest::collection::vec((any_line(), prop_oneof![Just("\n"), Just("\r\n")]), 0..12), any::<bool>())
        .prop_map(|(lines, finished)| {
            let mut text: String = lines.into_iter().map(|(line, ending)| line + ending).collect();
            if !finished {
                text.truncate(text.trim_end_matches(['\r', '\n']).len());
            }
            text
        })
}

/// The lines of a text that are not ours and not at the target.
fn others(text: &str) -> Vec<String> {
    let foreign = |line: &lines::Line<'_>| match role(*line) {
        Ok(Role::Owned(_)) => false,
        Ok(Role::TakenOver(e)) => !e.is_at("/tmp"),
        _ => !line.body.starts_with(REPLACED),
    };
    lines::split(text).filter(foreign).map(|l| l.body.to_owned()).collect()
}

proptest! {
    #[test]
    fn editing_twice_is_editing_once_and_touches_no_other_line(text in any_file()) {
        if let Ok(Some(new)) = edit(Some(&text), &want(), &|_| true) {
            prop_assert_ne!(&new.text, &text);
            prop_assert_eq!(others(&new.text), others(&text));
            let at: Vec<Entry> = parse(&new.text).unwrap().into_iter().filter(|e| e.is_at("/tmp")).collect();
            prop_assert_eq!(at.len(), 1);
            prop_assert!(want().is_said_by(&at[0]));
            prop_assert_eq!(edit(Some(&new.text), &want(), &|_| true), Ok(None));
        } else {
            let at = parse(&text).unwrap().into_iter().filter(|e| e.is_at("/tmp")).count();
            prop_assert_eq!(at, 1);
        }
    }

    #[test]
    fn away_again_the_file_is_what_it_was(text in any_file()) {
        let is_others = |line: &lines::Line<'_>| match role(*line) {
            Ok(Role::TakenOver(entry)) => !entry.is_at("/tmp"),
            Ok(Role::Other) => true,
            _ => false,
        };
        let text: String =
            lines::split(&text).filter(is_others).map(|line| format!("{}{}", line.body, line.ending)).collect();
        let new = edit(Some(&text), &want(), &|_| false).unwrap().unwrap();
        prop_assert_eq!(remove(&new.text), Some(text));
    }

    #[test]
    fn off_and_on_again_and_away(text in any_file()) {
        let on = edit(Some(&text), &want(), &|_| true).unwrap().map_or(text, |e| e.text);
        let off = disable(&on).unwrap();
        prop_assert_eq!(others(&off), others(&on));
        prop_assert_eq!(disable(&off), None);
        prop_assert!(evidence(&off, "/tmp").iter().all(|e| e.disabled));
        let again = edit(Some(&off), &want(), &|_| false).unwrap().unwrap().text;
        // But for the end of an unfinished last line of ours.
        prop_assert_eq!(again.trim_end(), on.trim_end());
        let gone = remove(&off).unwrap();
        prop_assert_eq!(others(&gone), others(&on));
        prop_assert_eq!(remove(&gone), None);
        prop_assert_eq!(remove(&on), Some(gone));
    }

    #[test]
    fn fields_survive_rendering(target in "(/[ a-z\\\\\t#é]{1,6}){1,3}", option in "[a-z ,\\\\#]{1,12}") {
        let line = Line { target, options: options(&[option]), ..want() };
        let entries = parse(&line.render()).unwrap();
        prop_assert!(line.is_said_by(&entries[0]), "{:?}", entries);
    }

    #[test]
    fn no_bytes_make_it_panic(flips in proptest::collection::vec((0..600_usize, any::<u8>()), 1..8)) {
        let mut bytes = format!("{AL2023}{DISABLED}{OURS}\n{OURS}\r\n").into_bytes();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let text = String::from_utf8_lossy(&bytes);
        let _ = evidence(&text, "/tmp");
        let _ = disable(&text);
        let _ = remove(&text);
        if let Ok(Some(new)) = edit(Some(&text), &want(), &|_| true) {
            prop_assert_eq!(edit(Some(&new.text), &want(), &|_| true), Ok(None));
            prop_assert_eq!(others(&new.text), others(&text));
        }
    }
}
