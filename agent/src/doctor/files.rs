//! The host's files that have lines of ours, and our own records.

use super::subject::Subject;
use super::{Check, Verdict};
use crate::exec;
use crate::intent::INTENT_PATH;
use crate::observe::files;
use crate::persist::fstab::{self, Entry, Source};
use crate::persist::{FSTAB_PATH, atomic, mdadm_conf};
use crate::root::Root;
use crate::state::Health;

const SET_UP: &str = "Run `nvme-agent setup`: it puts its line right, and touches no other.";

const MDADM_CONF: [&str; 2] = ["/etc/mdadm.conf", "/etc/mdadm/mdadm.conf"];

/// Parseable, one line for the target, and that is ours, with nofail.
pub fn fstab(subject: &Subject<'_>) -> Check {
    const NAME: &str = "fstab";
    let at = match subject.at(FSTAB_PATH) {
        Ok(at) => at,
        Err(why) => return Check::unknown(NAME, why),
    };
    let text = match atomic::read_text(&at) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            return Check::problem(
                NAME,
                error.to_string(),
                format!("Mend {FSTAB_PATH}; setup refuses until then."),
            );
        }
    };
    let entries = match fstab::parse(&text) {
        Ok(entries) => entries,
        Err(problem) => {
            return Check::problem(
                NAME,
                format!("{FSTAB_PATH}: {problem}"),
                format!(
                    "Mend line {} of {FSTAB_PATH}; until then setup makes nothing and leaves the file alone.",
                    problem.line_no()
                ),
            );
        }
    };
    let target = subject.target();
    let (ours, others): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().filter(|entry| entry.is_at(target)).partition(|entry| entry.is_owned());
    if let Some(other) = others.first() {
        return in_the_way(NAME, subject, other, target);
    }
    // A line of ours for another target, or a second one: left of another configuration.
    let owned: Vec<String> = entries.iter().filter(|e| e.is_owned()).map(|e| e.line_no.to_string()).collect();
    if owned.len() > 1 || owned.len() > ours.len() {
        return Check::problem(
            NAME,
            format!("lines {} are ours; expected one, for {target}", owned.join(", ")),
            SET_UP,
        );
    }
    match (ours.first(), subject.mounted_by_setup()) {
        (Some(entry), state) => {
            ours_is_right(NAME, subject, entry, state.map(|state| state.fs_uuid.as_str()))
        }
        (None, Some(state)) if !state.fs_uuid.is_empty() => {
            Check::problem(NAME, format!("no line mounts UUID={} on {target}", state.fs_uuid), SET_UP)
        }
        (None, _) if fstab::owned(&text).iter().any(|entry| entry.disabled) => {
            Check::ok(NAME, "our line is out of force, as after a setup that failed")
        }
        (None, _) => Check::ok(NAME, format!("no line for {target} yet")),
    }
}

fn in_the_way(name: &str, subject: &Subject<'_>, entry: &Entry, target: &str) -> Check {
    let mounted = subject.mounted_by_setup().map(|state| state.fs_uuid.as_str());
    let found = format!("line {} mounts {} on {target}, and is not ours", entry.line_no, entry.spec);
    match (entry.source(), mounted) {
        (Source::Uuid(uuid), Some(mounted)) if uuid.eq_ignore_ascii_case(mounted) => {
            Check::problem(name, found, SET_UP)
        }
        // Of a tmpfs never.
        (Source::Other(_), _) | (Source::Uuid(_), Some(_)) => Check::problem(
            name,
            found,
            format!(
                "Take line {} out of {FSTAB_PATH}, or choose another target: setup refuses it.",
                entry.line_no
            ),
        ),
        // The old script's line, or one by a name that may be that of what is there, which plan finds out.
        _ => Check::warning(
            name,
            found,
            "Setup takes the line over where it names the filesystem that it finds, and else refuses: `nvme-agent plan`.",
        ),
    }
}

fn ours_is_right(name: &str, subject: &Subject<'_>, entry: &Entry, wanted: Option<&str>) -> Check {
    let line = entry.line_no;
    if !subject.running {
        return Check::problem(
            name,
            format!("line {line} is ours, of the machine that the image was made on"),
            "Run ami/clean.sh (or take the line out) before the image is made.",
        );
    }
    let filesystem = subject.mounted_by_setup().map(|state| state.filesystem.as_str());
    if let Some(why) = entry.unlike_ours(filesystem.unwrap_or(&entry.vfstype)) {
        return Check::problem(name, format!("line {line}, ours, {why}"), SET_UP);
    }
    let Source::Uuid(uuid) = entry.source() else {
        return Check::problem(name, format!("line {line}, ours, is not by UUID but {}", entry.spec), SET_UP);
    };
    match wanted.filter(|wanted| !wanted.is_empty() && !wanted.eq_ignore_ascii_case(uuid)) {
        Some(wanted) => Check::problem(
            name,
            format!("line {line}, ours, has UUID={uuid}, but {wanted} is mounted"),
            SET_UP,
        ),
        None => Check::ok(name, format!("line {line} is ours, by UUID, nofail")),
    }
}

pub fn mdadm_conf(subject: &Subject<'_>) -> Check {
    const NAME: &str = "mdadm-conf";
    // Which of them it is depends on which is there.
    if let Some(why) = MDADM_CONF.into_iter().find_map(|path| subject.at(path).err()) {
        return Check::unknown(NAME, why);
    }
    let path = files::mdadm_conf_path(subject.root);
    let text = match atomic::read_text(&subject.root.follow(path)) {
        Ok(Some(text)) => text,
        Ok(None) if exec::find_program(subject.root, "mdadm").is_none() => {
            return Check::ok(NAME, "mdadm is not installed; nothing needs it");
        }
        Ok(None) => return Check::ok(NAME, format!("no {path} yet; setup makes it")),
        Err(error) => {
            return Check::problem(
                NAME,
                error.to_string(),
                format!("Mend {path}; setup refuses until then."),
            );
        }
    };
    let arrays = match mdadm_conf::parse(&text) {
        Ok(arrays) => arrays,
        Err(problem) => {
            return Check::problem(
                NAME,
                format!("{path}: {problem}"),
                format!("Mend line {} of {path}; setup refuses until then.", problem.line_no()),
            );
        }
    };
    let ours: Vec<_> = arrays.iter().filter(|array| array.owned).collect();
    if let [_, second, ..] = ours.as_slice() {
        return Check::problem(
            NAME,
            format!("{path}: line {} is a second one of ours", second.line_no),
            SET_UP,
        );
    }
    let device = ours.first().and_then(|array| array.device.as_deref());
    let device =
        device.or(subject.mounted_by_setup().map(|s| s.device.as_str()).filter(|d| d.starts_with("md")));
    let uuid = ours.first().and_then(|array| array.uuid);
    let uuid = uuid.or(subject.mounted_by_setup().and_then(|state| state.array_uuid));
    if let Some(device) = device
        && let Some(other) =
            arrays.iter().find(|array| !array.owned && array.is_device(device) && array.uuid != uuid)
    {
        return Check::problem(
            NAME,
            format!("{path}: line {} gives {device} to another set", other.line_no),
            format!(
                "Take line {} out of {path} if that set is gone; else our array gets another name.",
                other.line_no
            ),
        );
    }
    match (ours.first(), subject.running) {
        (Some(array), false) => Check::problem(
            NAME,
            format!("{path}: line {} is ours, of the machine that the image was made on", array.line_no),
            "Run ami/clean.sh (or take the line out) before the image is made.",
        ),
        (Some(array), true) => Check::ok(NAME, format!("{path}: line {} is ours", array.line_no)),
        (None, _) => Check::ok(NAME, format!("{path} has no line of ours, and parses")),
    }
}

/// State, intent and record: whether they can be understood, and what they are of.
pub fn records(subject: &Subject<'_>) -> Check {
    const NAME: &str = "records";
    let at = match subject.at(INTENT_PATH) {
        Ok(at) => at.display().to_string(),
        Err(why) => return Check::unknown(NAME, why),
    };
    let mut unread = subject.unread.clone();
    // The root is in it already.
    let intent = files::identity(&Root::default(), &at, &mut unread).unwrap_or_else(|error| {
        unread.push(error.to_string());
        None
    });
    if !unread.is_empty() {
        let (text, next) =
            (unread.join("; "), "Remove the file if it is one of ours and damaged; setup writes it anew.");
        // What root alone may read is no damage.
        return if subject.privileged {
            Check::warning(NAME, text, next)
        } else {
            Check::unknown(NAME, text)
        };
    }
    if !subject.running && (intent.is_some() || subject.record.is_some()) {
        return Check::problem(
            NAME,
            "/var/lib/nvme-agent has records of the machine that the image was made on",
            "Run ami/clean.sh before the image is made.",
        );
    }
    if intent.is_some() {
        return Check::warning(
            NAME,
            format!("{INTENT_PATH}: a setup was interrupted before it was done"),
            "Run `nvme-agent setup`: it finishes what was begun.",
        );
    }
    match &subject.state {
        Some(state) if state.state == Health::Failed => Check::of(
            NAME,
            Verdict::Warning,
            format!("setup of this boot failed ({})", state.reason),
            Some("`nvme-agent status` says why.".into()),
        ),
        Some(state) => Check::ok(NAME, format!("setup of this boot: {} ({})", state.state, state.reason)),
        None => Check::ok(NAME, "setup has not run in this boot"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{Machine, UUID};

    fn with_fstab(machine: &Machine, lines: &str) -> Check {
        machine.write("/etc/fstab", &format!("UUID=1 / xfs defaults 0 1\n{lines}\n"));
        machine.check(fstab)
    }

    fn ours() -> String {
        format!("UUID={UUID} /tmp ext4 noatime,nofail,x-nvme-agent 0 0")
    }

    #[test]
    fn before_setup_fstab_may_not_be_malformed_nor_have_another_line_for_the_target() {
        let machine = Machine::new();
        machine.check(fstab).is(Verdict::Ok, &["no line for /tmp yet"]);
        with_fstab(&machine, "/dev/x").is_problem(&["line 2 is malformed", "Mend line 2 of /etc/fstab"]);
        with_fstab(&machine, "tmpfs /tmp tmpfs size=1g 0 0").is_problem(&["line 2 mounts tmpfs on /tmp"]);
        // What the old script left may be taken over.
        with_fstab(&machine, "/dev/md0 /tmp ext4 defaults 0 2").is(Verdict::Warning, &["/dev/md0", "plan"]);
        with_fstab(&machine, "/dev/md0 /data ext4 defaults 0 2").is(Verdict::Ok, &[]);
        let disabled = format!("# nvme-agent: disabled, setup failed: {}", ours());
        with_fstab(&machine, &disabled).is(Verdict::Ok, &["out of force"]);
        machine.remove("/etc/fstab");
        std::fs::create_dir(machine.root.join("/etc/fstab")).unwrap();
        machine.check(fstab).is_problem(&["/etc/fstab", "a directory"]);
    }

    #[test]
    fn after_setup_our_line_is_there_once_by_the_right_uuid_and_with_nofail() {
        let machine = Machine::set_up();
        machine.check(fstab).is(Verdict::Ok, &["line 2 is ours, by UUID, nofail"]);
        with_fstab(&machine, "").is_problem(&["no line mounts UUID=", UUID]);
        with_fstab(&machine, &ours().replace("nofail,", "")).is_problem(&["lacks `nofail`", "emergency"]);
        with_fstab(&machine, &ours().replace("3f8b", "0000")).is_problem(&["has UUID=0000", "is mounted"]);
        with_fstab(&machine, &ours().replace(&format!("UUID={UUID}"), "/dev/md0"))
            .is_problem(&["not by UUID"]);
        with_fstab(&machine, &ours().replace("0 0", "0 2")).is_problem(&["ours", "pass 2"]);
        // What setup takes over, and what it refuses.
        let taken = with_fstab(&machine, &ours().replace(",x-nvme-agent", ""));
        taken.is_problem(&["is not ours", "Run `nvme-agent setup`"]);
        let refused = with_fstab(&machine, "UUID=0000 /tmp ext4 defaults 0 2");
        refused.is_problem(&["is not ours", "Take line 2 out"]);
        with_fstab(&machine, &format!("{0}\n{0}", ours())).is_problem(&["lines 2, 3 are ours"]);
        let left = ours().replace("/tmp", "/data");
        with_fstab(&machine, &format!("{}\n{left}", ours())).is_problem(&["lines 2, 3 are ours"]);
        let other = format!("{}\n/dev/md0 /tmp ext4 defaults 0 2", ours());
        with_fstab(&machine, &other)
            .is(Verdict::Warning, &["line 3 mounts /dev/md0 on /tmp, and is not ours", "plan"]);
        let tmpfs = format!("{}\ntmpfs /tmp tmpfs defaults 0 0", ours());
        with_fstab(&machine, &tmpfs).is_problem(&["line 3 mounts tmpfs on /tmp", "Take line 3 out"]);
    }

    #[test]
    fn an_image_has_no_line_of_ours() {
        let machine = Machine::new();
        machine.image(fstab).is(Verdict::Ok, &[]);
        with_fstab(&machine, &ours());
        machine.image(fstab).is_problem(&["line 2 is ours", "ami/clean.sh"]);
        machine.write(
            "/etc/mdadm.conf",
            &format!("ARRAY /dev/md0 metadata=1.2 UUID={0}:{0}:{0}:{0} # nvme-agent", "01234567"),
        );
        machine.image(mdadm_conf).is_problem(&["line 1 is ours", "ami/clean.sh"]);
        machine.check(mdadm_conf).is(Verdict::Ok, &["line 1 is ours"]);
    }

    #[test]
    fn mdadm_conf_is_optional_and_else_has_one_line_of_ours() {
        let machine = Machine::set_up();
        machine.check(mdadm_conf).is(Verdict::Ok, &["not installed"]);
        let ours =
            format!("ARRAY /dev/md0 metadata=1.2 name=any:md0 UUID={0}:{0}:{0}:{0} # nvme-agent", "01234567");
        let with = |text: &str| {
            machine.write("/etc/mdadm.conf", text);
            machine.check(mdadm_conf)
        };
        with("MAILADDR root").is(Verdict::Ok, &["no line of ours"]);
        with(&ours).is(Verdict::Ok, &["line 1 is ours"]);
        with(&format!("{ours}\n{ours}")).is_problem(&["line 2 is a second one of ours"]);
        with("ARRAY /dev/md0 UUID=nonsense").is_problem(&["line 1 is malformed", "Mend line 1"]);
        let other = ours.replace(" # nvme-agent", "").replace("01234567", "89abcdef");
        with(&format!("{ours}\n{other}")).is_problem(&["line 2 gives /dev/md0 to another set"]);
        with(&other).is_problem(&["line 1 gives md0 to another set"]);
        with(&format!("{ours}\n{}", other.replace("md0", "md7"))).is(Verdict::Ok, &[]);
    }

    #[test]
    fn records_that_make_no_sense_and_runs_that_were_interrupted() {
        let machine = Machine::new();
        machine.check(records).is(Verdict::Ok, &["has not run in this boot"]);
        Machine::set_up().check(records).is(Verdict::Ok, &["ready (SetupComplete)"]);
        let identity = format!(
            r#"{{"version":1,"serials":["AWS1"],"array_uuid":null,"fs_uuid":"{UUID}","filesystem":"ext4","target":"/tmp"}}"#
        );
        machine.write(INTENT_PATH, &identity);
        machine.check(records).is(Verdict::Warning, &["interrupted", "nvme-agent setup"]);
        machine.image(records).is_problem(&["ami/clean.sh"]);
        machine.write(INTENT_PATH, "{");
        machine.check(records).is(Verdict::Warning, &["intent.json"]);
        machine.remove(INTENT_PATH);
        machine.write("/run/nvme-agent/state.json", "[]");
        machine.check(records).is(Verdict::Warning, &["state.json"]);
        crate::state::State::new(&machine.root, Health::Failed, "ForeignData", "")
            .write(&machine.root)
            .unwrap();
        machine.check(records).is(Verdict::Warning, &["ForeignData", "nvme-agent status"]);
    }
}
