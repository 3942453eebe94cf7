//! The keeper: a thread that does for a session what nobody else waits for.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::{Dial, GREETING_TIME_MAX, Inner, Over, Redial, Shared, greet, nonce, timespec};
use crate::resume::greeting::Greeting;
use crate::resume::proof::Agreed;
use crate::resume::{Phase, Timeout};

/// Between two attempts at a new connection: the first wait, which is doubled each time, and the longest.
const BACK_OFF_FIRST: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Longest sleep, for a clock that cannot be told of everything.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Home's way to new connections.
struct Dialler {
    dial: Dial,
    epoch: u64,
    /// When to try again.
    next: Instant,
    back_off: Duration,
}

impl Shared {
    /// Until the session is over and the peer has been told, as far as that can be.
    pub(super) fn keep(&self, dial: Option<Dial>) {
        let mut dialler = dial.map(|dial| Dialler {
            dial,
            epoch: Agreed::EPOCH_FIRST,
            next: Instant::now(),
            back_off: BACK_OFF_FIRST,
        });
        loop {
            self.tell_events();
            let up = {
                let inner = self.lock();
                if self.is_done(&inner) {
                    break;
                }
                inner.stream.is_some()
            };
            match &mut dialler {
                Some(dialler) if !up && dialler.next <= Instant::now() => self.redial(dialler),
                _ => self.wait(dialler.as_ref()),
            }
        }
        let mut inner = self.lock();
        if let Some(stream) = inner.stream.take() {
            stream.shutdown();
        }
        inner.finished = true;
        self.finished.notify_all();
        drop(inner);
        self.tell_events();
    }

    /// Whether there is nothing more to do.
    fn is_done(&self, inner: &Inner) -> bool {
        match (&inner.over, inner.closing_until) {
            (None, _) => false,
            // The peer closes its end when it has been told.
            (Some(_), Some(until)) => inner.stream.is_none() || Instant::now() >= until,
            (Some(_), None) => true,
        }
    }

    fn tell_events(&self) {
        loop {
            let (event, mut callback) = {
                let mut inner = self.lock();
                if inner.on_event.is_none() {
                    return;
                }
                let Some(event) = inner.events.pop_front() else {
                    return;
                };
                let Some(callback) = inner.on_event.take() else {
                    return;
                };
                (event, callback)
            };
            callback(event);
            self.lock().on_event.get_or_insert(callback);
        }
    }

    /// Sleeps until there is something to do, and does it.
    fn wait(&self, dialler: Option<&Dialler>) {
        let (stream, mut wanted, until) = {
            let inner = self.lock();
            let mut wanted = PollFlags::RDHUP;
            if inner.blocked && !inner.helped {
                wanted |= PollFlags::OUT;
            }
            // The peer's farewell.
            if inner.closing_until.is_some() {
                wanted |= PollFlags::IN;
            }
            let core = inner.core.next_timeout().map(|at| self.began + at);
            let redial = dialler
                .filter(|_| inner.stream.is_none())
                .map(|dialler| dialler.next);
            let until = [core, redial, inner.closing_until].into_iter().flatten().min();
            (inner.stream.clone(), wanted, until)
        };
        let span = until.map_or(SLEEP_MAX, |until| {
            until.saturating_duration_since(Instant::now()).min(SLEEP_MAX)
        });
        let mut polls = vec![PollFd::new(&self.wake, PollFlags::IN)];
        if let Some(stream) = &stream {
            polls.push(PollFd::from_borrowed_fd(stream.socket(), wanted));
        }
        // Interrupted or not, everything is looked at.
        let _ = poll(&mut polls, Some(&timespec(span)));
        if polls[0].revents().contains(PollFlags::IN) {
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        let found = polls.get(1).map_or(PollFlags::empty(), PollFd::revents);
        drop(polls);
        if found.contains(PollFlags::OUT) {
            let mut inner = self.lock();
            inner.blocked = false;
            self.pump(&mut inner);
        }
        let timeout = until.is_some_and(|until| until <= Instant::now());
        wanted = PollFlags::IN | PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        if timeout || found.intersects(wanted) {
            self.read_for_others();
        }
        if timeout {
            self.tick();
        }
    }

    fn tick(&self) {
        let mut inner = self.lock();
        if inner.over.is_some() {
            return;
        }
        let now = self.now();
        if inner.core.next_timeout().is_none_or(|at| at > now) {
            return;
        }
        match inner.core.handle_timeout(now) {
            Timeout::Nothing => self.pump(&mut inner),
            Timeout::Lost => {
                let silence = inner.core.limits().silence_max.as_secs_f32();
                self.lose(&mut inner, format!("nothing was heard for {silence} s"));
            }
            Timeout::Dead => {
                let grace = inner.core.limits().grace.as_secs_f32();
                let why = format!("no connection for {grace} s: {}", inner.lost);
                self.end(&mut inner, Over::Dead(why));
            }
        }
    }

    /// One attempt at a new connection.
    fn redial(&self, dialler: &mut Dialler) {
        dialler.epoch += 1;
        let deadline = {
            let inner = self.lock();
            let Phase::Down(since) = inner.core.phase() else {
                return;
            };
            let end = self.began + since + inner.core.limits().grace;
            end.min(Instant::now() + GREETING_TIME_MAX)
        };
        let outcome = (dialler.dial)(self.session, deadline).and_then(|stream| {
            let (limits, received) = {
                let inner = self.lock();
                (inner.core.limits().clone(), inner.core.received())
            };
            let later = |error: io::Error| Redial::Later(error.to_string());
            let nonce = nonce().map_err(later)?;
            let greeting = Greeting::home_resumes(limits, self.secret, dialler.epoch, received, nonce);
            let greeted = greet(&*stream, greeting, deadline, || received);
            let adopted = match greeted {
                Ok(outcome) => self.adopt(Arc::clone(&stream), &outcome.agreed).map_err(later),
                Err(error) => Err(Redial::Later(error.to_string())),
            };
            if !matches!(adopted, Ok(true)) {
                stream.shutdown();
            }
            adopted
        });
        match outcome {
            Ok(_) => {
                dialler.back_off = BACK_OFF_FIRST;
                dialler.next = Instant::now() + BACK_OFF_FIRST;
            }
            Err(Redial::Later(why)) => {
                self.lock().lost = why;
                dialler.next = Instant::now() + dialler.back_off;
                dialler.back_off = (dialler.back_off * 2).min(BACK_OFF_MAX);
            }
            Err(Redial::Never(why)) => self.end(&mut self.lock(), Over::Dead(why)),
        }
        // The grace time may have run out over it.
        self.tick();
    }
}
