//! mdadm.conf: what it says about arrays, and our one ARRAY line in it.
//!
//! Grammar as mdadm reads it (mdadm 4.x, config.c conf_word() and conf_line(), util.c parse_uuid()): a line
//! that starts with a blank continues the one before, comments and empty lines between them or not; a `#` where a word would
//! start comments out the rest of the line; keywords count from three letters on, in any case.
//!
//! Our line is known by the comment at its end, which no reader can part from it.

use uuid::Uuid;

use super::lines::{self, Line as Physical, Output};
use super::{Edited, Problem, quote};
use crate::md::notation::{mdadm_uuid, parse_mdadm_uuid};

/// The comment at the end of our line.
const OWNED: &str = "# nvme-agent";
const REPLACED: &str = "# nvme-agent: replaced: ";

/// What an ARRAY line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrayLine {
    /// First physical line, from 1.
    pub line_no: usize,
    /// As written: `/dev/md0`, `/dev/md/data`, `md0`, `<ignore>`; none where the line names no device.
    pub device: Option<String>,
    pub uuid: Option<Uuid>,
    /// `name=`, such as `any:md0`.
    pub name: Option<String>,
    /// `super-minor=`.
    pub minor: Option<u32>,
    pub owned: bool,
    first_row: usize,
    last_row: usize,
}

impl ArrayLine {
    /// True where the line claims the device of this kernel name (`md0` is `/dev/md0`, `/dev/md/0`, `0`).
    pub fn is_device(&self, kernel_name: &str) -> bool {
        self.device.as_deref().is_some_and(|device| canonical(device) == canonical(kernel_name))
    }
}

/// mdadm's devname_matches(): `/dev/md/` and `/dev/` do not count, and neither does `md` before a number.
fn canonical(device: &str) -> &str {
    let name = device.strip_prefix("/dev/md/").or_else(|| device.strip_prefix("/dev/")).unwrap_or(device);
    match name.strip_prefix("md") {
        Some(number) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => number,
        _ => name,
    }
}

/// Our line, as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `/dev/md0`.
    pub device: String,
    /// The set's name where it is `any:md0`; none for an adopted set: a name that mdadm compares with the host's would
    /// make the line match nothing.
    pub name: Option<String>,
    pub uuid: Uuid,
}

impl Line {
    /// The text of the line, without an ending.
    pub fn render(&self) -> String {
        let name = self.name.as_ref().map(|name| format!(" name={name}")).unwrap_or_default();
        format!("ARRAY {} metadata=1.2{name} UUID={} {OWNED}", self.device, mdadm_uuid(&self.uuid))
    }
}

/// The words of a physical line, and whether our comment ends it.
fn words(body: &str) -> (Vec<String>, bool) {
    let mut words = Vec::new();
    let mut rest = body;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() || rest.starts_with('#') {
            return (words, rest.trim_end() == OWNED);
        }
        let mut word = String::new();
        let mut quoted = None;
        let end = rest.char_indices().find(|&(_, c)| {
            match (quoted, c) {
                (Some(q), c) if c == q => quoted = None,
                (None, '"' | '\'') => quoted = Some(c),
                (None, ' ' | '\t') => return true,
                (_, c) => word.push(c),
            }
            false
        });
        words.push(word);
        rest = end.map_or("", |(at, _)| &rest[at..]);
    }
}

fn is_array_keyword(word: &str) -> bool {
    word.len() >= 3 && "array".get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Logical lines as (words, rows, owned).
fn logical(text: &str) -> Vec<(Vec<String>, usize, usize, bool)> {
    let mut found: Vec<(Vec<String>, usize, usize, bool)> = Vec::new();
    for (row, line) in lines::split(text).enumerate() {
        let (more, owned) = words(line.body);
        if more.is_empty() {
            continue;
        }
        match found.last_mut() {
            Some((words, _, last, ours)) if line.body.starts_with([' ', '\t']) => {
                words.extend(more);
                *last = row;
                *ours |= owned;
            }
            _ => found.push((more, row, row, owned)),
        }
    }
    found
}

/// The ARRAY lines, in the order of the file. Other keywords, known or not, are nobody's business here.
///
/// # Errors
/// [`Problem::Malformed`] for the first ARRAY line with two devices or a UUID that is none, which mdadm
/// complains about and drops.
pub fn parse(text: &str) -> Result<Vec<ArrayLine>, Problem> {
    let mut arrays = Vec::new();
    for (words, first_row, last_row, owned) in logical(text) {
        if !words.first().is_some_and(|w| is_array_keyword(w)) {
            continue;
        }
        let mut array =
            ArrayLine { line_no: first_row + 1, owned, first_row, last_row, ..ArrayLine::default() };
        let malformed = |why: &str| Problem::Malformed {
            line_no: first_row + 1,
            line: quote(&words.join(" ")),
            why: why.into(),
        };
        for word in words.iter().skip(1) {
            match word.split_once('=') {
                Some((key, value)) if !word.starts_with('/') => match key.to_ascii_lowercase().as_str() {
                    "uuid" => {
                        let uuid = parse_mdadm_uuid(value)
                            .ok_or_else(|| malformed("its UUID is not 32 hex digits"))?;
                        array.uuid = Some(uuid);
                    }
                    "name" => array.name = Some(value.to_owned()),
                    "super-minor" => array.minor = value.parse().ok(),
                    _ => {}
                },
                _ if array.device.is_some() => return Err(malformed("it names two devices")),
                _ => array.device = Some(word.clone()),
            }
        }
        arrays.push(array);
    }
    Ok(arrays)
}

/// What the file says about arrays: which sets were put on which devices on this root volume. A malformed file says nothing.
pub fn evidence(text: &str) -> Vec<ArrayLine> {
    parse(text).unwrap_or_default()
}

/// The new text of mdadm.conf with exactly one line of ours, or `None` where it is in order as it is.
///
/// A line of somebody else's is taken over (kept as a comment, ours in its place) where it names the set that is
/// wanted, as `mdadm --detail --scan >> mdadm.conf` left it, or where it claims the wanted device and `ours` says so.
///
/// mdadm takes a carriage return for a part of the last word, so what we write never ends in one.
///
/// # Errors
/// The first malformed ARRAY line, else [`Problem::Conflict`] for another set on the wanted device: choose
/// another name for ours.
pub fn edit(
    text: Option<&str>,
    want: &Line,
    ours: &dyn Fn(&ArrayLine) -> bool,
) -> Result<Option<Edited>, Problem> {
    let text = text.unwrap_or_default();
    let arrays = parse(text)?;
    let rows: Vec<Physical<'_>> = lines::split(text).collect();
    let mut mine = Vec::new();
    let mut taken = Vec::new();
    for array in &arrays {
        if array.owned {
            mine.push(array);
        } else if array.uuid == Some(want.uuid) || (array.is_device(&want.device) && ours(array)) {
            taken.push(array);
        } else if array.is_device(&want.device) {
            return Err(Problem::Conflict {
                line_no: array.line_no,
                line: quote(rows[array.first_row].body),
                why: format!("it gives {} to another set", want.device),
            });
        }
    }

    let wanted = want.render();
    let right = |array: &ArrayLine| array.first_row == array.last_row && rows[array.first_row].body == wanted;
    let place = mine.iter().find(|a| right(a)).or(mine.first()).or(taken.first()).map(|a| a.first_row);

    let mut changes = Vec::new();
    let mut out = Output::new("\n");
    for (row, line) in rows.iter().enumerate() {
        let within = |list: &[&ArrayLine]| {
            list.iter().find(|a| (a.first_row..=a.last_row).contains(&row)).map(|a| ArrayLine::clone(a))
        };
        // Comments and empty lines between the rows of a continued line are not part of it.
        let bare = words(line.body).0.is_empty();
        if let Some(array) = within(&mine).filter(|_| !bare) {
            if place != Some(row) {
                if row == array.first_row {
                    changes.push(format!("line {} of ours is dropped", line.no));
                }
            } else if right(&array) {
                out.keep(*line);
            } else {
                changes.push(format!("line {} of ours is corrected: {wanted}", line.no));
                out.own(&wanted, "\n");
            }
        } else if let Some(array) = within(&taken).filter(|_| !bare) {
            out.own(&format!("{REPLACED}{}", line.body), line.ending);
            if row == array.first_row {
                changes.push(format!("line {} is replaced and kept as a comment", line.no));
            }
            if place == Some(row) {
                out.own(&wanted, "\n");
            }
        } else {
            out.keep(*line);
        }
    }
    if place.is_none() {
        changes.push(format!("a line is added: {wanted}"));
        out.own(&wanted, "\n");
    }
    if changes.is_empty() {
        return Ok(None);
    }
    Ok(Some(Edited { text: out.into_text(), change: changes.join("; ") }))
}

/// What is wrong with the file as it is now, where it ought to name the set; none where a line does, whoever wrote it.
pub fn lacks(text: &str, set: Uuid) -> Option<String> {
    match parse(text) {
        Ok(arrays) if arrays.iter().any(|array| array.uuid == Some(set)) => None,
        Ok(_) => Some(format!("no ARRAY line names the set {}", mdadm_uuid(&set))),
        Err(problem) => Some(problem.to_string()),
    }
}

/// mdadm.conf without our line; a line that was taken over stays a comment. `None` where there is none of ours.
/// Does not mind malformed lines of others.
pub fn remove(text: &str) -> Option<String> {
    let rows: Vec<Physical<'_>> = lines::split(text).collect();
    let mut drop = vec![false; rows.len()];
    for (words, first, last, owned) in logical(text) {
        if owned && words.first().is_some_and(|w| is_array_keyword(w)) {
            for (row, line) in rows.iter().enumerate().take(last + 1).skip(first) {
                drop[row] = !self::words(line.body).0.is_empty();
            }
        }
    }
    if !drop.contains(&true) {
        return None;
    }
    let mut out = Output::new("\n");
    for (line, _) in rows.iter().zip(&drop).filter(|(_, drop)| !**drop) {
        out.keep(*line);
    }
    Some(out.into_text())
}

#[cfg(test)]
#[path = "mdadm_conf_tests.rs"]
mod tests;
