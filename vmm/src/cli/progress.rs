//! Bars for what takes long: on stderr, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::control::ControlError;

/// A bar of bytes, behind the word for what is done to them.
pub fn bytes_bar(word: &str) -> Result<ProgressBar, ControlError> {
    let shape = format!("{word} {{wide_bar}} {{binary_bytes}} of {{binary_total_bytes}}, {{eta}} left");
    let style = ProgressStyle::with_template(&shape)
        .map_err(|e| ControlError::failed(format!("the progress bar's template: {e}")))?;
    Ok(ProgressBar::new(0).with_style(style))
}
