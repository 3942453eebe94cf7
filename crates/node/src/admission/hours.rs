//! Hours of the week.

use std::fmt;
use std::str::FromStr;

const DAY_MINUTES: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A minute of the week, by a clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// From 0, Monday.
    pub day: u8,
    /// Since midnight.
    pub minute: u16,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = DAYS[usize::from(self.day % 7)];
        write!(f, "{day} {:02}:{:02}", self.minute / 60, self.minute % 60)
    }
}

/// The same hours on some days: `[DAYS/]HH:MM-HH:MM`. If the end is not after the begin, it is on the next day. Days are
/// single or spans of `mon` to `sun`, with `+` between them: `mon-fri+sun/18:00-08:00`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours {
    text: String,
    /// On which days they begin: bit 0 is Monday.
    days: u8,
    /// Minute of the day.
    begin: u16,
    /// How many.
    minutes: u16,
}

impl Hours {
    /// Whether a moment is one of them.
    pub fn include(&self, moment: Moment) -> bool {
        let begins_on = |day: u8| self.days & 1 << (day % 7) != 0;
        let today = moment.minute >= self.begin && moment.minute - self.begin < self.minutes;
        let since_yesterday = moment.minute + DAY_MINUTES - self.begin < self.minutes;
        today && begins_on(moment.day) || since_yesterday && begins_on(moment.day + 6)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`hours` has to be [DAYS/]HH:MM-HH:MM such as mon-fri/18:00-08:00, not `{text}`");
        let (days, hours) = match text.split_once('/') {
            Some((days, hours)) => (days_of(days).ok_or_else(wrong)?, hours),
            None => (0x7f, text),
        };
        let (begin, end) = hours.split_once('-').ok_or_else(wrong)?;
        let begin = minute_of(begin)
            .filter(|begin| *begin < DAY_MINUTES)
            .ok_or_else(wrong)?;
        let end = minute_of(end).ok_or_else(wrong)?;
        let minutes = if end > begin {
            end - begin
        } else {
            end + DAY_MINUTES - begin
        };
        Ok(Self {
            text: text.to_owned(),
            days,
            begin,
            minutes,
        })
    }
}

fn days_of(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = 0;
    for span in text.split('+') {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        let (first, last) = (day(first)?, day(last)?);
        for count in 0..=(last + 7 - first) % 7 {
            days |= 1 << ((first + count) % 7);
        }
    }
    Some(days)
}

/// `HH:MM`, up to 24:00.
fn minute_of(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| -> Option<u16> {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u8, hour: u16, minute: u16) -> Moment {
        Moment {
            day,
            minute: hour * 60 + minute,
        }
    }

    #[test]
    fn hours_may_reach_into_the_next_day() {
        let hours: Hours = "mon-fri/18:00-08:00".parse().unwrap();
        assert!(hours.include(at(0, 18, 0)));
        assert!(!hours.include(at(0, 17, 59)));
        assert!(!hours.include(at(0, 7, 0)), "the night to Monday is Sunday's");
        assert!(hours.include(at(1, 7, 59)));
        assert!(!hours.include(at(1, 8, 0)));
        assert!(hours.include(at(5, 3, 0)), "the night to Saturday is Friday's");
        assert!(!hours.include(at(5, 18, 0)));
        let hours: Hours = "sun/22:00-02:00".parse().unwrap();
        assert!(hours.include(at(0, 1, 0)) && hours.include(at(6, 23, 0)) && !hours.include(at(6, 1, 0)));
    }

    #[test]
    fn hours_of_every_day() {
        let hours: Hours = "00:00-24:00".parse().unwrap();
        assert!((0..7).all(|day| hours.include(at(day, 0, 0)) && hours.include(at(day, 23, 59))));
        let hours: Hours = "12:00-12:01".parse().unwrap();
        assert!((0..7).all(|day| hours.include(at(day, 12, 0)) && !hours.include(at(day, 12, 1))));
        let hours: Hours = "fri-mon+wed/10:00-11:00".parse().unwrap();
        let open: Vec<u8> = (0..7).filter(|day| hours.include(at(*day, 10, 30))).collect();
        assert_eq!(open, [0, 2, 4, 5, 6]);
    }

    #[test]
    fn what_is_no_hours_is_refused() {
        for text in [
            "",
            "1:00-2:00",
            "10:00",
            "10:00-25:00",
            "10:60-11:00",
            "x/10:00-11:00",
            "mon-/10:00-11:00",
            "24:00-01:00",
            "+1:00-02:00",
            "10:00-11:00/mon",
        ] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
    }
}
