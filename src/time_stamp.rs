//! The time of day, as files and logs state it.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};

/// The time now.
pub fn utc_now() -> DateTime<Utc> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is not set.
    let since = since.unwrap_or_default();
    DateTime::from_timestamp(since.as_secs() as i64, since.subsec_nanos()).unwrap_or_default()
}

/// The time in UTC as RFC 3339 has it, in whole seconds.
pub fn time_stamp() -> String {
    utc_now().to_rfc3339_opts(SecondsFormat::Secs, true)
}
