//! Whether the peer lives, and how far away it is.

use std::time::Duration;

use super::{Limits, Time};

/// Pings on one connection. The peer's life is any byte of it; its silence is what ends the connection.
#[derive(Debug)]
pub struct Pulse {
    interval: Duration,
    silence: Duration,
    /// When the peer was heard last.
    heard: Time,
    /// When the next ping is due.
    ping_next: Time,
    /// The ping that has not been answered: its number and time.
    waiting: Option<(u64, Time)>,
    number_last: u64,
    /// Round trip, smoothed as TCP does (one eighth of each new one), and the least one of the session.
    smoothed: Option<Duration>,
    least: Option<Duration>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A ping of this number.
    Ping(u64),
    /// The peer has been silent for too long.
    Lost,
}

impl Pulse {
    pub fn new(limits: &Limits) -> Self {
        Self {
            interval: limits.ping_interval,
            silence: limits.silence_max,
            heard: Time::ZERO,
            ping_next: Time::ZERO,
            waiting: None,
            number_last: 0,
            smoothed: None,
            least: None,
        }
    }

    /// A connection has been made.
    pub fn start(&mut self, now: Time) {
        self.heard = now;
        self.ping_next = now;
        self.waiting = None;
    }

    /// Something has come.
    pub fn heard(&mut self, now: Time) {
        self.heard = now;
    }

    /// An answer has come. Those to pings of lost connections, and those that nobody asked for, say nothing.
    pub fn answered(&mut self, number: u64, now: Time) {
        let Some((_, sent)) = self.waiting.take_if(|(waiting, _)| *waiting == number) else {
            return;
        };
        let trip = now.saturating_sub(sent);
        self.smoothed = Some(match self.smoothed {
            Some(smoothed) => (smoothed * 7 + trip) / 8,
            None => trip,
        });
        self.least = Some(self.least.map_or(trip, |least| least.min(trip)));
    }

    /// What is due by now.
    pub fn due(&mut self, now: Time) -> Due {
        if now >= self.heard + self.silence {
            return Due::Lost;
        }
        if now < self.ping_next {
            return Due::Nothing;
        }
        self.ping_next = now + self.interval;
        self.number_last += 1;
        // One that is late is waited for no more; only its round trip is lost.
        self.waiting = Some((self.number_last, now));
        Due::Ping(self.number_last)
    }

    /// When something is due next.
    pub fn next(&self) -> Time {
        self.ping_next.min(self.heard + self.silence)
    }

    /// The smoothed and the least round trip.
    pub fn round_trip(&self) -> Option<(Duration, Duration)> {
        self.smoothed.zip(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_smoothed_and_silence_ends_it() {
        let limits = Limits::default();
        let mut pulse = Pulse::new(&limits);
        let mut now = Duration::from_secs(9);
        pulse.start(now);
        for (number, trip) in [(1, 80), (2, 160)] {
            assert_eq!(pulse.due(now), Due::Ping(number));
            assert_eq!(pulse.due(now), Due::Nothing);
            let answer = now + Duration::from_millis(trip);
            pulse.answered(number + 7, answer);
            pulse.answered(number, answer);
            pulse.heard(answer);
            now = pulse.next();
        }
        let millis = Duration::from_millis;
        assert_eq!(pulse.round_trip(), Some((millis(90), millis(80))));
        now += limits.silence_max;
        assert_eq!(pulse.due(now), Due::Lost);
    }
}
