use super::Report;

/// The report as indented JSON with a final line break; numbers that are not finite become `null`.
pub fn to_json(report: &Report) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    Ok(text)
}
