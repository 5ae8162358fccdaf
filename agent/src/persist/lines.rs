//! Physical lines of a text file, with their endings, so that what is not touched stays byte for byte.

/// A line without its ending, and the ending: `"\n"`, `"\r\n"`, or nothing on an unfinished last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub no: usize,
    pub body: &'a str,
    pub ending: &'a str,
}

pub(super) fn split(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.split_inclusive('\n').enumerate().map(|(index, whole)| {
        let body = whole.strip_suffix('\n').unwrap_or(whole);
        // A carriage return without a newline belongs to the last line's text as little as before one.
        let body = body.strip_suffix('\r').unwrap_or(body);
        Line { no: index + 1, body, ending: &whole[body.len()..] }
    })
}

/// The ending that new lines of this file get: that of most lines.
pub(super) fn style(text: &str) -> &'static str {
    let lines = text.matches('\n').count();
    let windows = text.matches("\r\n").count();
    if windows * 2 > lines { "\r\n" } else { "\n" }
}

/// New text under construction.
pub(super) struct Output {
    text: String,
    style: &'static str,
}

impl Output {
    pub(super) fn new(style: &'static str) -> Self {
        Output { text: String::new(), style }
    }

    /// A line that stays as it is.
    pub(super) fn keep(&mut self, line: Line<'_>) {
        self.finish_line();
        self.text.push_str(line.body);
        self.text.push_str(line.ending);
    }

    /// A line of ours. Always finished: the next `echo >> file` of somebody's script must not run into it.
    pub(super) fn own(&mut self, body: &str, ending: &str) {
        self.finish_line();
        self.text.push_str(body);
        self.text.push_str(if ending.contains('\n') { ending } else { self.style });
    }

    fn finish_line(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            if self.text.ends_with('\r') {
                self.text.pop();
            }
            self.text.push_str(self.style);
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}
