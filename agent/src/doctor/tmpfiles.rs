//! systemd-tmpfiles: whether any of its rules would age or empty the target.

use std::collections::BTreeMap;

use super::subject::Subject;
use super::{Check, Verdict};
use crate::config;
use crate::observe::sysfs;
use crate::persist::{atomic, tmpfiles};

const CONF: &str = "tmp.conf";

pub fn tmpfiles(subject: &Subject<'_>) -> Check {
    const NAME: &str = "tmpfiles";
    let target = subject.target();
    let mut files = match in_force(subject) {
        Ok(files) => files,
        Err(problem) => return Check::unknown(NAME, problem),
    };
    let keep = subject.config.tmpfiles == config::Tmpfiles::Keep;
    let mut to_come = None;
    if keep {
        let (ours, distro) = (subject.text(tmpfiles::PATH), subject.text(tmpfiles::DISTRO_PATH));
        match tmpfiles::edit(ours.as_deref(), distro.as_deref(), target) {
            Ok(None) => {}
            Ok(Some(edited)) => to_come = Some(edited.text),
            Err(problem) => {
                return Check::problem(
                    NAME,
                    format!("{}: {problem}", tmpfiles::PATH),
                    "Setup refuses until the line is changed, or `tmpfiles = \"distro\"` accepts it.",
                );
            }
        }
    }
    if subject.mounted_by_setup().is_none()
        && let Some(text) = &to_come
    {
        // As it will be when something is mounted there.
        files.insert(CONF.into(), text.clone());
    }
    let files: Vec<(String, String)> = files.into_iter().collect();
    match tmpfiles::empties(&files, target) {
        None => Check::ok(NAME, format!("no rule empties {target} or deletes what is old in it")),
        Some((file, line, text)) if keep => {
            let next = match &to_come {
                Some(_) => "Run `nvme-agent setup`: it writes /etc/tmpfiles.d/tmp.conf anew.".to_owned(),
                None => format!(
                    "Mask the file by one of its name in /etc/tmpfiles.d without that line (a link to /dev/null: without any), \
                     or set tmpfiles = \"distro\" to accept that files in {target} are deleted."
                ),
            };
            Check::problem(
                NAME,
                format!("tmpfiles.d/{file}, line {line}, deletes files in {target}: `{text}`"),
                next,
            )
        }
        Some((file, line, _)) => Check::of(
            NAME,
            Verdict::Ok,
            format!(
                "tmpfiles = \"distro\", as configured: tmpfiles.d/{file}, line {line}, deletes files in {target}"
            ),
            None,
        ),
    }
}

/// Name and text of the files that count, by name.
fn in_force(subject: &Subject<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    for dir in tmpfiles::DIRECTORIES {
        for name in sysfs::names(subject.at(dir)?).map_err(|e| e.to_string())? {
            if !name.ends_with(".conf") || files.contains_key(&name) {
                continue;
            }
            // Bytes that are no text are in no path of ours; one that leads nowhere has no rules.
            let bytes = atomic::read(&subject.at(&format!("{dir}/{name}"))?).unwrap_or_default();
            files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Machine;

    const DISTRO: &str = "q /tmp 1777 root root 10d\nq /var/tmp 1777 root root 30d\n";

    #[test]
    fn the_distributions_rule_is_fine_before_setup_which_replaces_it_and_a_problem_after() {
        let machine = Machine::new();
        machine.write(tmpfiles::DISTRO_PATH, DISTRO);
        machine.check(tmpfiles).is(Verdict::Ok, &["no rule empties /tmp"]);
        let machine = Machine::set_up();
        machine.write(tmpfiles::DISTRO_PATH, DISTRO);
        machine.check(tmpfiles).is_problem(&["tmpfiles.d/tmp.conf, line 1", "nvme-agent setup"]);
        let ours = tmpfiles::edit(None, Some(DISTRO), "/tmp").unwrap().unwrap().text;
        machine.write(tmpfiles::PATH, &ours);
        machine.check(tmpfiles).is(Verdict::Ok, &[]);
        machine.write(tmpfiles::PATH, "D /tmp 1777 root root -\n");
        machine.check(tmpfiles).is_problem(&["/etc/tmpfiles.d/tmp.conf", "line 1 is in the way"]);
    }

    #[test]
    fn another_file_that_empties_the_target_is_named_unless_it_is_masked_or_wanted() {
        let mut machine = Machine::new();
        machine.config.target = "/data".into();
        machine.write("/usr/lib/tmpfiles.d/app.conf", "# x\ne /data - - - 1d\n");
        machine.check(tmpfiles).is_problem(&["app.conf, line 2", "/etc/tmpfiles.d"]);
        machine.link("/etc/tmpfiles.d/app.conf", "/dev/null");
        machine.check(tmpfiles).is(Verdict::Ok, &[]);
        machine.remove("/etc/tmpfiles.d/app.conf");
        machine.config.tmpfiles = config::Tmpfiles::Distro;
        machine.check(tmpfiles).is(Verdict::Ok, &["as configured", "app.conf"]);
    }
}
