//! The tracing layer: an event and the fields of its spans become one record, for one sink.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::journal::Journal;
use super::line_to_stderr;

/// Sends every event to the journal, or, without one, to stderr. One layer with one sink: nothing can be said
/// twice.
pub struct Events {
    journal: Option<Journal>,
}

impl Events {
    pub fn new(journal: Option<Journal>) -> Self {
        Events { journal }
    }
}

/// Message and fields of an event or a span, in order.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub message: String,
    pub pairs: Vec<(&'static str, String)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => {
                self.pairs.retain(|(known, _)| *known != name);
                self.pairs.push((name, value));
            }
        }
    }

    /// The message with its fields, for people: journalctl shows nothing else unless it is asked to.
    pub fn text(&self) -> String {
        let mut text = self.message.clone();
        for (n, (name, value)) in self.pairs.iter().enumerate() {
            let separator = if n == 0 { " (" } else { ", " };
            let _ = write!(text, "{separator}{name}={value}");
        }
        if !self.pairs.is_empty() {
            text.push(')');
        }
        text
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Events {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut all = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                for (name, value) in &fields.pairs {
                    all.pairs.retain(|(known, _)| known != name);
                    all.pairs.push((name, value.clone()));
                }
            }
        }
        event.record(&mut all);
        let level = *event.metadata().level();
        match &self.journal {
            Some(journal) => journal.send(level, &all),
            None => line_to_stderr(word(level), &all.text()),
        }
    }
}

pub fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}
