//! Events as lines on stderr: `nvme-agent: warning: what happened device="nvme1n1"`.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{self as lines, FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::one_line;

/// The layer. A closed or full stderr loses lines, nothing else.
pub fn layer<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    lines::layer().event_format(Line).with_writer(writer).log_internal_errors(false)
}

struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        writer.write_str(&line(word(*event.metadata().level()), &text))
    }
}

/// A line as people read it, printable ASCII only.
pub fn line(level: &str, message: &str) -> String {
    format!("nvme-agent: {level}: {}\n", one_line(message))
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::sync::Mutex;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn an_event_is_one_line_of_ascii_with_its_fields_and_nothing_that_a_terminal_would_obey() {
        let mut file = tempfile::tempfile().unwrap();
        let copy: File = file.try_clone().unwrap();
        let subscriber = tracing_subscriber::registry().with(layer(Mutex::new(copy)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(device = "nvme1n1", duration_ms = 12, "two\nlines, \u{1b}[31mred\u{e4}");
        });
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("nvme-agent: warning: two; lines, \\"), "{text}");
        assert!(text.ends_with("device=\"nvme1n1\" duration_ms=12\n"), "{text}");
        assert!(text.is_ascii() && !text.contains('\u{1b}') && text.lines().count() == 1, "{text}");
    }
}
