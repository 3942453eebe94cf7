//! Programs on a terminal: a pseudo-terminal whose screen and modes are watched, and two of them, one native and one
//! afield, that are given the same keys and have to come to show the same.

use std::fs;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcgetpgrp, tcsetwinsize};

use crate::arena::{Arena, Job};
use crate::process::{Process, STEP, Watch};
use crate::run::Ended;
use crate::sys::{Surroundings, prepare};
use crate::{Mode, Place, mask, programs, tools};

/// For a screen to become what is awaited.
const BOUND: Duration = Duration::from_secs(60);

/// A terminal, and the job that was started on it.
pub struct Terminal {
    master: fs::File,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: JoinHandle<()>,
    /// While it is open the reader reads.
    reading: OwnedFd,
    child: Child,
    watch: Watch,
}

/// What can be seen of a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Text, attributes and cursor.
    formatted: Vec<u8>,
    /// Size, cursor, and the modes of the screen.
    summary: String,
    /// The modes of the line.
    modes: String,
}

impl Terminal {
    pub(crate) fn start(
        mut command: Command,
        surroundings: &Surroundings,
        watch: &Watch,
        (rows, columns): (u16, u16),
    ) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal can be had");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, FileMode::empty()).expect("it can be opened");
        if let Some(user) = surroundings.user {
            let owner = rustix::fs::Uid::from_raw(user);
            rustix::fs::fchown(&slave, Some(owner), None).expect("root may");
        }
        tcsetwinsize(&master, size(rows, columns)).expect("it is a terminal");
        prepare(&mut command, surroundings);
        let stdio = || Stdio::from(slave.try_clone().expect("descriptors are left"));
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let program = command.get_program().to_owned();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program:?}: {error}"));
        // It has descriptors of the terminal too, which would keep it from being hung up.
        drop((command, slave));
        watch.add_session(child.id() as i32);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(some(rows), some(columns), 0)));
        let master = fs::File::from(master);
        let from = master.try_clone().expect("descriptors are left");
        let to = Arc::clone(&screen);
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (end, reading) = pipe.expect("descriptors are left");
        let reader = std::thread::spawn(move || read(from, &end, &to));
        Self {
            master,
            screen,
            reader,
            reading,
            child,
            watch: watch.clone(),
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Types.
    pub fn keys(&self, keys: &str) {
        let typed = (&self.master).write_all(keys.as_bytes());
        typed.expect("a terminal takes a few keys");
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        self.parser().screen_mut().set_size(some(rows), some(columns));
        tcsetwinsize(&self.master, size(rows, columns)).expect("it is a terminal");
    }

    fn parser(&self) -> MutexGuard<'_, vt100::Parser> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text on the screen.
    pub fn text(&self) -> String {
        self.parser().screen().contents()
    }

    /// The text of the row with the cursor.
    pub fn row(&self) -> String {
        let parser = self.parser();
        let (row, _) = parser.screen().cursor_position();
        let (_, columns) = parser.screen().size();
        let mut rows = parser.screen().rows(0, columns.get());
        rows.nth(row.into()).unwrap_or_default()
    }

    /// All that can be seen now.
    pub fn look(&self) -> Look {
        let parser = self.parser();
        let screen = parser.screen();
        let (rows, columns) = screen.size();
        let (row, column) = screen.cursor_position();
        let summary = format!(
            "{rows}x{columns}, cursor {row},{column} hidden {}, alternate {}, keypad {}, cursor keys {}, paste {}, mouse {:?}",
            screen.hide_cursor(),
            screen.alternate_screen(),
            screen.application_keypad(),
            screen.application_cursor(),
            screen.bracketed_paste(),
            screen.mouse_protocol_mode(),
        );
        Look {
            formatted: screen.contents_formatted().into_bytes(),
            summary,
            modes: self.modes(),
        }
    }

    /// The modes of the line.
    pub fn modes(&self) -> String {
        match tcgetattr(&self.master) {
            Ok(modes) => format!(
                "input {:x} output {:x} control {:x} local {:x} special {:?}",
                modes.input_modes.bits(),
                modes.output_modes.bits(),
                modes.control_modes.bits(),
                modes.local_modes.bits(),
                modes.special_codes,
            ),
            Err(errno) => format!("none: {errno}"),
        }
    }

    /// The terminal's foreground group.
    pub fn foreground(&self) -> Option<i32> {
        tcgetpgrp(&self.master).ok().map(|group| group.as_raw_pid())
    }

    /// Waits until it shows this.
    #[track_caller]
    pub fn until(&self, text: &str) {
        let deadline = Instant::now() + BOUND;
        while !self.text().contains(text) {
            if Instant::now() > deadline {
                let hint = self.watch.describe();
                self.watch.kill_all();
                panic!("waiting for {text:?}: the screen is\n{}\n{hint}", self.text());
            }
            std::thread::sleep(STEP);
        }
    }

    /// Closes the terminal's own side: whoever is on it is hung up. Then as [`Terminal::wait`].
    pub fn hang_up(self) -> (Ended, Vec<String>) {
        drop(self.reading);
        let _ = self.reader.join();
        drop(self.master);
        wait_for(self.child, &self.watch)
    }

    /// Waits for the end of the job: how it ended, and what it left behind.
    pub fn wait(self) -> (Ended, Vec<String>) {
        wait_for(self.child, &self.watch)
    }
}

fn some(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has rows and columns")
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Reads until `end` is closed at its other side, or nobody has the terminal open any more.
fn read(mut from: fs::File, end: &OwnedFd, to: &Mutex<vt100::Parser>) {
    let mut buffer = [0; 4096];
    loop {
        let mut polls = [
            PollFd::new(&from, PollFlags::IN),
            PollFd::new(end, PollFlags::empty()),
        ];
        if poll(&mut polls, None).is_err() {
            continue;
        }
        if !polls[1].revents().is_empty() {
            return;
        }
        let Ok(count @ 1..) = from.read(&mut buffer) else {
            return;
        };
        let mut parser = to.lock().unwrap_or_else(PoisonError::into_inner);
        parser.process(&buffer[..count]);
    }
}

fn wait_for(mut child: Child, watch: &Watch) -> (Ended, Vec<String>) {
    let deadline = Instant::now() + BOUND;
    let mut trouble = Vec::new();
    let ended = loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            break status.into();
        }
        if Instant::now() > deadline {
            trouble.push(format!("does not end:\n{}", watch.describe()));
            watch.kill_all();
            let _ = child.wait();
            break Ended::Never;
        }
        std::thread::sleep(STEP);
    };
    let session = child.id() as i32;
    let left = watch.until_none(BOUND, |process| process.session == session);
    watch.forget_session(session);
    if !left.is_empty() {
        trouble.push(format!("processes left behind:\n{}", crate::process::list(&left)));
        left.iter().for_each(Process::kill);
    }
    (ended, trouble)
}

/// Makes equal what differs from run to run.
type Mask = fn(&[u8]) -> Vec<u8>;

/// What runs on the terminals of a [`Pair`].
#[derive(Clone, Debug)]
pub struct Session {
    command: Vec<String>,
    setup: String,
    programs: Vec<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
    size: (u16, u16),
    /// Applied to what is seen before it is compared.
    mask: Mask,
    /// The command is home's, and sends afield what has `$AF` in front.
    is_home: bool,
}

impl Session {
    /// A command that is afield itself.
    pub fn guest(command: &[&str]) -> Self {
        Self {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            setup: String::new(),
            programs: Vec::new(),
            environment: vec![("PS1", "$ "), ("TERM", "xterm"), ("SHELL", "/bin/bash")],
            size: (24, 80),
            mask: mask::numbers,
            is_home: false,
        }
    }

    /// An interactive bash afield.
    pub fn bash() -> Self {
        Self::guest(&["bash", "--norc", "--noprofile", "-i"])
    }

    /// An interactive bash at home, in which `$AF` in front of a command sends that afield.
    pub fn home_bash() -> Self {
        Self {
            is_home: true,
            ..Self::bash()
        }
    }

    /// Run in the folder before the command, at home.
    pub fn setup(mut self, script: &str) -> Self {
        self.setup = script.to_owned();
        self
    }

    /// Makes a program of `programs/` available as `$BIN/name`.
    pub fn with_program(mut self, name: &'static str) -> Self {
        self.programs.push(name);
        self
    }

    /// Of numbers on the screen only the place is compared.
    pub fn only_layout(mut self) -> Self {
        self.mask = mask::figures;
        self
    }

    pub fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }
}

/// Two terminals with the same on them, the second afield if the mode says so.
pub struct Pair {
    pub arena: Arena,
    pub native: Terminal,
    pub afield: Terminal,
    folders: [PathBuf; 2],
    mask: Mask,
}

impl Pair {
    /// `None` if something that is needed is not there.
    pub fn open(mode: Mode, test: &str, session: &Session, needs: &[&str]) -> Option<Self> {
        Self::open_with(mode, test, session, needs, |_| ())
    }

    /// The same, but `prepare` has its way with the arena when the node runs.
    pub fn open_with(
        mode: Mode,
        test: &str,
        session: &Session,
        needs: &[&str],
        prepare: impl FnOnce(&mut Arena),
    ) -> Option<Self> {
        if !mode.is_wanted(test) || !needs.iter().all(|tool| tools::need(test, tool)) {
            return None;
        }
        if !session.programs.is_empty() && !tools::need(test, "cc") {
            return None;
        }
        let mut arena = Arena::new(mode);
        for program in &session.programs {
            programs::install(program, false, arena.bin());
        }
        if mode.place != Place::Native {
            arena.start_node();
            prepare(&mut arena);
        }
        // Names of one length, so that what shows them does not differ in layout.
        let folders = ["native", "afield"].map(|name| arena.work().join(name));
        for folder in &folders {
            arena.make_folder(folder);
            if !session.setup.is_empty() {
                arena.prepare(&format!("cd {}; {}", folder.display(), session.setup));
            }
        }
        let start = |is_afield: bool| {
            let prefix = if is_afield && mode.place != Place::Native {
                arena.prefix()
            } else {
                Vec::new()
            };
            let mut job = Job::new(BOUND);
            for (name, value) in &session.environment {
                job.environment.push((name.into(), value.into()));
            }
            job.environment.push(("BIN".into(), arena.bin().into()));
            if session.is_home {
                let words: Vec<_> = prefix.iter().map(|word| word.to_str().unwrap()).collect();
                job.environment.push(("AF".into(), words.join(" ").into()));
            } else {
                job.arguments = prefix;
            }
            job.arguments.extend(session.command.iter().map(Into::into));
            arena.open_terminal(&job, &folders[usize::from(is_afield)], session.size)
        };
        let (native, afield) = (start(false), start(true));
        Some(Self {
            native,
            afield,
            arena,
            folders,
            mask: session.mask,
        })
    }

    /// Types on both.
    pub fn keys(&self, keys: &str) {
        self.native.keys(keys);
        self.afield.keys(keys);
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        self.native.resize(rows, columns);
        self.afield.resize(rows, columns);
    }

    /// What is seen of both, without what differs from run to run.
    fn looks(&self) -> [Look; 2] {
        let mut looks = [self.native.look(), self.afield.look()];
        let [native, afield] = &self.folders;
        let names = [native, afield].map(|folder| folder.to_str().unwrap().as_bytes());
        looks[1].formatted = mask::replace(&looks[1].formatted, names[1], names[0]);
        for look in &mut looks {
            look.formatted = (self.mask)(&look.formatted);
        }
        looks
    }

    /// Waits until both show this, and nothing else that differs.
    #[track_caller]
    pub fn until(&self, text: &str) {
        self.until_that(&format!("{text:?}"), |terminal| terminal.text().contains(text));
    }

    /// Waits until the row with the cursor is this on both, and nothing else differs.
    #[track_caller]
    pub fn until_row(&self, row: &str) {
        self.until_that(&format!("a row {row:?}"), |terminal| {
            terminal.row().trim_end() == row.trim_end()
        });
    }

    /// Waits until both show this, whatever else differs.
    #[track_caller]
    pub fn until_both(&self, text: &str) {
        self.native.until(text);
        self.afield.until(text);
    }

    /// Waits until something holds for both, and nothing that can be seen differs.
    #[track_caller]
    pub fn until_that(&self, what: &str, holds: impl Fn(&Terminal) -> bool) {
        let deadline = Instant::now() + BOUND;
        loop {
            let [native, afield] = self.looks();
            if native == afield && holds(&self.native) && holds(&self.afield) {
                return;
            }
            if Instant::now() > deadline {
                let report = self.report(&native, &afield);
                let hint = self.arena.watch().describe();
                self.arena.watch().kill_all();
                panic!("waiting for {what}: {report}\n{hint}{}", self.arena.logs());
            }
            std::thread::sleep(STEP);
        }
    }

    fn report(&self, native: &Look, afield: &Look) -> String {
        let mut report = String::new();
        for (name, terminal, look) in [("natively", &self.native, native), ("then", &self.afield, afield)] {
            report += &format!(
                "\n--- {name}: {}\n{}\n{}\n",
                look.summary,
                look.modes,
                terminal.text()
            );
        }
        if native != afield {
            report += &format!(
                "--- formatted\n-{}\n+{}\n",
                native.formatted.escape_ascii(),
                afield.formatted.escape_ascii()
            );
        }
        report
    }

    /// At a shell's prompt, types a line, and waits for text that only its output makes.
    #[track_caller]
    pub fn line(&self, keys: &str, text: &str) {
        self.until_row("$");
        self.keys(keys);
        self.keys("\r");
        self.until(text);
    }

    /// Waits for both to end, and panics if they end differently, show something else at the end, or leave something
    /// behind.
    #[track_caller]
    pub fn end(self) -> Ended {
        self.finish(Terminal::wait)
    }

    /// Hangs both up, and goes on as [`Pair::end`].
    #[track_caller]
    pub fn hang_up(self) -> Ended {
        self.finish(Terminal::hang_up)
    }

    #[track_caller]
    fn finish(mut self, wait: fn(Terminal) -> (Ended, Vec<String>)) -> Ended {
        let screens = [&self.native, &self.afield].map(|terminal| Arc::clone(&terminal.screen));
        let (native, mut report) = wait(self.native);
        let (afield, trouble) = wait(self.afield);
        report.extend(trouble);
        // Whoever is hung up, by a server of terminals for example, ends in its own time.
        if self.arena.agent().is_some() {
            self.arena.wait_for_orphans();
        }
        report.extend(self.arena.finish());
        if native != afield {
            report.push(format!("natively {native}, then {afield}"));
        }
        let [native_text, afield_text] = screens.map(|screen| {
            let parser = screen.lock().unwrap_or_else(PoisonError::into_inner);
            parser.screen().contents()
        });
        let logs = self.arena.logs();
        assert!(
            report.is_empty(),
            "{}\n--- natively\n{native_text}\n--- then\n{afield_text}\n{logs}",
            report.join("\n")
        );
        native
    }

    /// The folders in which the two run, the native one first.
    pub fn folders(&self) -> &[PathBuf; 2] {
        &self.folders
    }
}

/// Turns functions of a [`Mode`] into tests: natively twice, embedded, and over TCP.
#[macro_export]
macro_rules! sessions {
    ($($name:ident;)*) => { $(
        mod $name {
            $crate::sessions!(@ $name native Native false);
            $crate::sessions!(@ $name embedded Embedded false);
            $crate::sessions!(@ $name tcp Tcp false);
            $crate::sessions!(@ $name embedded_user Embedded true);
        }
    )* };
    (@ $function:ident $name:ident $place:ident $user:literal) => {
        #[test]
        fn $name() {
            let mode = $crate::Mode { place: $crate::Place::$place, user: $user };
            super::$function(mode);
        }
    };
}
