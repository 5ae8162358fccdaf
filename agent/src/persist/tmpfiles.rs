//! /etc/tmpfiles.d/tmp.conf: without it systemd-tmpfiles deletes the workload's files, by age (which `noatime`
//! freezes) or, on Debian 12, all of them at every boot (design.md section 5).

use super::{Edited, Problem, lines, quote};

pub const PATH: &str = "/etc/tmpfiles.d/tmp.conf";
/// What a file at [`PATH`] masks: tmpfiles.d(5), files of the same name.
pub const DISTRO_PATH: &str = "/usr/lib/tmpfiles.d/tmp.conf";
/// Where the files are, the strongest first: tmpfiles.d(5). One hides those of its name in the directories after its own.
pub const DIRECTORIES: [&str; 4] =
    ["/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d"];

const HEADER: &str = "\
# nvme-agent: this file is written by nvme-agent at every boot; do not edit it.
# It keeps systemd-tmpfiles from deleting files on /tmp, and takes the place of /usr/lib/tmpfiles.d/tmp.conf.
# To have that one's rules: tmpfiles = \"distro\" in /etc/nvme-agent/config.toml, and remove this file.
";
const RULE: &str = "q /tmp 1777 root root -\n";

/// True where the file is ours to rewrite and to remove.
pub fn is_owned(text: &str) -> bool {
    text.starts_with("# nvme-agent: ")
}

/// The new text of [`PATH`], or `None` where nothing is to be done: the target is not /tmp (no distribution
/// cleans elsewhere), the file is as it should be, or somebody else's is there and deletes nothing in /tmp.
///
/// `text` is the file's, `distro` that of [`DISTRO_PATH`]: its lines about other paths (/var/tmp) would be
/// masked, so they are carried over.
///
/// # Errors
/// [`Problem::Conflict`] where somebody else's file at [`PATH`] deletes in /tmp.
pub fn edit(text: Option<&str>, distro: Option<&str>, target: &str) -> Result<Option<Edited>, Problem> {
    if target.trim_end_matches('/') != "/tmp" {
        return Ok(None);
    }
    if let Some(text) = text.filter(|text| !is_owned(text)) {
        return match lines::split(text).find(|line| deletes_in_tmp(line.body)) {
            None => Ok(None),
            Some(line) => Err(Problem::Conflict {
                line_no: line.no,
                line: quote(line.body),
                why: format!(
                    "it deletes files on /tmp; change the line, or set tmpfiles = \"distro\" to accept that; {PATH} is not ours to rewrite"
                ),
            }),
        };
    }
    let mut wanted = format!("{HEADER}{RULE}");
    for line in lines::split(distro.unwrap_or_default()) {
        let Some(rule) = Rule::parse(line.body) else { continue };
        if rule.below_tmp() == Some("") {
            continue;
        }
        if deletes_in_tmp(line.body) {
            wanted.push_str("# nvme-agent: left out: ");
        }
        wanted.push_str(line.body.trim());
        wanted.push('\n');
    }
    if text == Some(wanted.as_str()) {
        return Ok(None);
    }
    Ok(Some(Edited { text: wanted, change: "systemd-tmpfiles is kept from deleting files on /tmp".into() }))
}

/// What is wrong with the file as it is now (`text`; none where it is gone), where it ought to keep the files of /tmp; none
/// where it does, whoever wrote it: an update of the distribution's file is no fault of this one.
pub fn lacks(text: Option<&str>) -> Option<String> {
    let Some(text) = text else {
        return Some("is gone: systemd-tmpfiles deletes files on /tmp by the distribution's rules".into());
    };
    let line = lines::split(text).find(|line| deletes_in_tmp(line.body))?;
    Some(format!("line {} deletes files on /tmp: `{}`", line.no, quote(line.body)))
}

/// A line of tmpfiles.d(5): type, path, mode, user, group, age, argument.
struct Rule<'a> {
    kind: &'a str,
    path: &'a str,
    age: &'a str,
}

impl<'a> Rule<'a> {
    fn parse(body: &'a str) -> Option<Self> {
        let fields: Vec<&str> = body.split_ascii_whitespace().take(6).collect();
        let kind = fields.first().filter(|kind| !kind.starts_with('#'))?;
        Some(Rule {
            kind,
            path: fields.get(1)?.trim_matches(['"', '\'']),
            age: fields.get(5).copied().unwrap_or("-"),
        })
    }

    /// The path below /tmp, empty for /tmp itself; none where it is elsewhere.
    fn below_tmp(&self) -> Option<&'a str> {
        self.below("/tmp")
    }

    fn below(&self, dir: &str) -> Option<&'a str> {
        let rest = self.path.strip_prefix(dir)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/'))
    }

    fn removes(&self) -> bool {
        self.kind.starts_with(['r', 'R', 'D'])
    }

    fn ages(&self) -> bool {
        !matches!(self.age, "-" | "") && !self.kind.starts_with(['x', 'X'])
    }
}

/// The first line of `files` (each with its text, in the order of their names) by which systemd-tmpfiles empties `target`, or
/// deletes in it what is old: which file, the line's number, and its beginning. Lines about something in it that has a
/// name are nobody's loss.
pub fn empties<'a>(files: &'a [(String, String)], target: &str) -> Option<(&'a str, usize, String)> {
    let target = target.trim_end_matches('/');
    // Of several lines that make one directory the first counts (create_item_array, src/tmpfiles/tmpfiles.c); `e`, `r` and
    // `R` are not among them.
    let mut made = false;
    for (name, text) in files {
        for line in lines::split(text) {
            let Some(rule) = Rule::parse(line.body) else { continue };
            let Some(below) = rule.below(target) else { continue };
            let makes = below.is_empty() && rule.kind.starts_with(['d', 'D', 'v', 'q', 'Q']);
            let counts = match below {
                "" => !(makes && std::mem::replace(&mut made, true)),
                "*" | ".*" | "**" => true,
                _ => false,
            };
            if counts && (rule.removes() || rule.ages()) {
                return Some((name, line.no, quote(line.body)));
            }
        }
    }
    None
}

/// True for a rule that removes or ages anything on /tmp but the left-over directories of PrivateTmp services.
fn deletes_in_tmp(body: &str) -> bool {
    let Some(rule) = Rule::parse(body) else { return false };
    let Some(below) = rule.below_tmp() else { return false };
    (rule.removes() || rule.ages()) && !below.starts_with("systemd-private-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const AL2023: &str = "\
#  This file is part of systemd.
# Clear tmp directories separately, to make them easier to override
q /tmp 1777 root root 10d
q /var/tmp 1777 root root 30d

# Exclude namespace mountpoints created with PrivateTmp=yes
x /tmp/systemd-private-%b-*
X /tmp/systemd-private-%b-*/tmp
x /var/tmp/systemd-private-%b-*
X /var/tmp/systemd-private-%b-*/tmp
# Remove top-level private temporary directories on each boot
R! /tmp/systemd-private-*
R! /var/tmp/systemd-private-*
";
    const DEBIAN12: &str = "# Clear tmp\nD /tmp 1777 root root -\n#q /var/tmp 1777 root root 30d\n";

    fn emptied(files: &[(&str, &str)], target: &str) -> Option<String> {
        let files: Vec<_> = files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        empties(&files, target).map(|(name, line, _)| format!("{name}:{line}"))
    }

    #[test]
    fn what_empties_the_target_is_found_and_what_has_a_name_in_it_is_not() {
        let emptied_at = |text: &str, target: &str| emptied(&[("a.conf", text)], target);
        assert_eq!(emptied_at(AL2023, "/tmp").as_deref(), Some("a.conf:3"));
        assert_eq!(emptied_at(DEBIAN12, "/tmp/").as_deref(), Some("a.conf:2"));
        assert_eq!((emptied_at(AL2023, "/data"), emptied_at(AL2023, "/tm")), (None, None));
        for line in ["R /data", "r! /data/*", "e /data - - - 10d", "e /data/* - - - 1h", "D! /data"] {
            assert_eq!(emptied_at(&format!("# x\n{line}\n"), "/data").as_deref(), Some("a.conf:2"), "{line}");
        }
        for line in [
            "d /data 0755 root root -",
            "x /data",
            "x /data - - - 1d",
            "D /data/.X11-unix 1777 - - 10d",
            "R /data2",
        ] {
            assert_eq!(emptied_at(line, "/data"), None, "{line}");
        }
    }

    #[test]
    fn of_several_lines_that_make_the_target_the_first_counts() {
        let (keeps, ages) = ("q /tmp 1777 root root -\n", "d /tmp 1777 root root 1d\n");
        assert_eq!(emptied(&[("a", keeps), ("b", ages)], "/tmp"), None);
        assert_eq!(emptied(&[("a", ages), ("b", keeps)], "/tmp").as_deref(), Some("a:1"));
        assert_eq!(emptied(&[("a", keeps), ("b", "e /tmp - - - 1d\n")], "/tmp").as_deref(), Some("b:1"));
    }

    fn rules(text: &str) -> Vec<&str> {
        text.lines().filter(|l| !l.starts_with('#')).collect()
    }

    #[test]
    fn the_distributions_other_rules_stay_in_force() {
        let edited = edit(None, Some(AL2023), "/tmp").unwrap().unwrap();
        assert_eq!(
            rules(&edited.text),
            [
                "q /tmp 1777 root root -",
                "q /var/tmp 1777 root root 30d",
                "x /tmp/systemd-private-%b-*",
                "X /tmp/systemd-private-%b-*/tmp",
                "x /var/tmp/systemd-private-%b-*",
                "X /var/tmp/systemd-private-%b-*/tmp",
                "R! /tmp/systemd-private-*",
                "R! /var/tmp/systemd-private-*",
            ]
        );
        assert!(is_owned(&edited.text));
        assert_eq!(
            edit(Some(&edited.text), Some(AL2023), "/tmp/"),
            Ok(None),
            "a second run has nothing to do"
        );
    }

    #[test]
    fn debians_rule_that_empties_tmp_at_boot_is_gone() {
        for distro in [Some(DEBIAN12), None] {
            let edited = edit(None, distro, "/tmp").unwrap().unwrap();
            assert_eq!(rules(&edited.text), ["q /tmp 1777 root root -"]);
        }
    }

    #[test]
    fn a_rule_of_the_distribution_that_deletes_below_tmp_is_left_out_and_said() {
        let distro =
            "q /tmp 1777 root root 10d\nr! /tmp/*.sock\ne /tmp/cache - - - 2d\nd /tmp/keep 0755 root root\n";
        let text = edit(None, Some(distro), "/tmp").unwrap().unwrap().text;
        assert_eq!(rules(&text), ["q /tmp 1777 root root -", "d /tmp/keep 0755 root root"]);
        assert!(text.contains("# nvme-agent: left out: r! /tmp/*.sock\n"));
    }

    #[test]
    fn other_targets_need_no_file() {
        for target in ["/data", "/tmp/nvme", "/var/tmp"] {
            assert_eq!(edit(None, Some(AL2023), target), Ok(None), "{target}");
        }
    }

    #[test]
    fn somebody_elses_file_is_a_conflict_only_where_it_deletes() {
        for harmful in
            ["q /tmp 1777 root root 5d\n", "# mine\nD /tmp\n", "R /tmp/*\n", "q \"/tmp\" 1777 root root 1h\n"]
        {
            let problem = edit(Some(harmful), Some(AL2023), "/tmp").unwrap_err();
            assert!(matches!(problem, Problem::Conflict { .. }), "{harmful}: {problem}");
            assert!(problem.to_string().contains("tmpfiles = \"distro\""));
        }
        assert_eq!(edit(Some("# mine\nD /tmp\n"), None, "/tmp").unwrap_err().line_no(), 2);
        // A link to /dev/null reads as an empty file; others say the same as we would.
        for harmless in ["", "q /tmp 1777 root root -\n", "q /var/tmp 1777 root root 5d\n", "x /tmp/keep\n"] {
            assert_eq!(edit(Some(harmless), Some(AL2023), "/tmp"), Ok(None), "{harmless}");
        }
    }

    #[test]
    fn a_file_lacks_what_keeps_the_files_where_it_is_gone_or_has_a_rule_that_deletes() {
        let ours = edit(None, Some(AL2023), "/tmp").unwrap().unwrap().text;
        for kept in [ours.as_str(), "", "q /tmp 1777 root root -\n", "q /var/tmp 1777 root root 5d\n"] {
            assert_eq!(lacks(Some(kept)), None, "{kept}");
        }
        assert!(lacks(None).unwrap().starts_with("is gone"));
        let edited = ours.replace("q /tmp 1777 root root -", "q /tmp 1777 root root 10d");
        assert_eq!(lacks(Some(&edited)).unwrap(), "line 4 deletes files on /tmp: `q /tmp 1777 ...`");
    }

    #[test]
    fn our_file_follows_the_distributions_update() {
        let first = edit(None, Some(DEBIAN12), "/tmp").unwrap().unwrap().text;
        let second = edit(Some(&first), Some(AL2023), "/tmp").unwrap().unwrap().text;
        assert!(second.contains("q /var/tmp 1777 root root 30d\n"));
    }
}
