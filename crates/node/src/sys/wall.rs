//! The clock on the wall.

use crate::admission::Moment;

/// The minute of the week, in the time zone of this process (`TZ`, or the machine's).
///
/// # References
/// localtime(3)
pub fn moment() -> Moment {
    // SAFETY: `fields` is a plain structure that localtime_r fills, or leaves as zeros.
    let fields = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut fields: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut fields);
        fields
    };
    Moment {
        day: ((fields.tm_wday + 6) % 7) as u8,
        minute: (fields.tm_hour * 60 + fields.tm_min) as u16,
    }
}
