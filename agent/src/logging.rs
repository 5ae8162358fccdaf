//! Logs: journald with structured fields, or stderr where there is no journal; never both.
