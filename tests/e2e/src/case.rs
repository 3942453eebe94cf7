//! A case: what to run, and how its two runs are compared.

use std::time::Duration;

use crate::arena::{Arena, Job};
use crate::run::{Ended, Outcome};
use crate::{Mode, Place, compare, programs, tools};

/// What a job reads.
#[derive(Clone, Debug)]
pub enum Stdin {
    Null,
    /// A pipe that holds these bytes and then ends.
    Pipe(Vec<u8>),
}

/// Makes equal what differs from run to run.
type Mask = fn(&[u8]) -> Vec<u8>;

#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// A script that runs afield as a whole.
    Guest { shell: &'static str, script: String },
    /// A script of the home, in which `$AF` in front of a command sends that command afield.
    Home { shell: &'static str, script: String },
    /// A program of `programs/`, run afield.
    Program {
        name: &'static str,
        is_static: bool,
        arguments: Vec<&'static str>,
    },
}

/// One program or script, run natively and afield in fresh identical directories.
#[derive(Clone, Debug)]
pub struct Case {
    pub(crate) body: Body,
    pub(crate) stdin: Stdin,
    /// Run at home before each run, natively, in the same directory.
    pub(crate) setup: String,
    pub(crate) tools: Vec<&'static str>,
    pub(crate) paths: Vec<String>,
    /// Programs of `programs/` that the script calls by `$BIN/name`.
    pub(crate) programs: Vec<&'static str>,
    pub(crate) timeout: Duration,
    /// Applied to both outputs before they are compared.
    pub(crate) mask: Option<Mask>,
    /// Files of which only the presence, type and mode are compared.
    pub(crate) volatile: Vec<&'static str>,
}

impl Case {
    fn new(body: Body) -> Self {
        Self {
            body,
            stdin: Stdin::Null,
            setup: String::new(),
            tools: Vec::new(),
            paths: Vec::new(),
            programs: Vec::new(),
            timeout: Duration::from_secs(60),
            mask: None,
            volatile: Vec::new(),
        }
    }

    /// A script of `sh`, which runs afield as a whole.
    pub fn guest(script: &str) -> Self {
        Self::new(Body::Guest {
            shell: "sh",
            script: script.to_owned(),
        })
    }

    /// A script of `bash`, which runs afield as a whole.
    pub fn guest_bash(script: &str) -> Self {
        Self::new(Body::Guest {
            shell: "bash",
            script: script.to_owned(),
        })
        .tools(&["bash"])
    }

    /// A script of `sh` that runs at home; `$AF command` runs the command afield.
    pub fn home(script: &str) -> Self {
        Self::new(Body::Home {
            shell: "sh",
            script: script.to_owned(),
        })
    }

    /// A script of `bash` that runs at home; `$AF command` runs the command afield.
    pub fn home_bash(script: &str) -> Self {
        Self::new(Body::Home {
            shell: "bash",
            script: script.to_owned(),
        })
        .tools(&["bash"])
    }

    /// `programs/NAME.c`.
    pub fn program(name: &'static str) -> Self {
        Self::new(Body::Program {
            name,
            is_static: false,
            arguments: Vec::new(),
        })
    }

    /// `programs/NAME.c`, linked statically.
    pub fn static_program(name: &'static str) -> Self {
        Self::new(Body::Program {
            name,
            is_static: true,
            arguments: Vec::new(),
        })
    }

    pub fn arguments(mut self, more: &[&'static str]) -> Self {
        if let Body::Program { arguments, .. } = &mut self.body {
            arguments.extend(more);
        }
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Pipe(bytes.into());
        self
    }

    pub fn setup(mut self, script: &str) -> Self {
        self.setup = script.to_owned();
        self
    }

    pub fn tools(mut self, tools: &[&'static str]) -> Self {
        self.tools.extend(tools);
        self
    }

    /// A file or folder that has to be there.
    pub fn needs(mut self, path: &str) -> Self {
        self.paths.push(path.to_owned());
        self
    }

    /// Makes a program of `programs/` available to the script as `$BIN/name`.
    pub fn with_program(mut self, name: &'static str) -> Self {
        self.programs.push(name);
        self
    }

    pub fn seconds(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    pub fn mask(mut self, mask: Mask) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Compares only presence, type and mode of a file whose bytes differ from run to run.
    pub fn volatile(mut self, path: &'static str) -> Self {
        self.volatile.push(path);
        self
    }
}

/// Runs a case in a mode and panics with a report if the two runs can be told apart.
pub fn check(name: &str, case: &Case, mode: Mode) {
    check_with(name, case, mode, |_| (), |_| Vec::new());
}

/// The same, but `prepare` has its way with the arena when the node runs, and `look` adds to the report at the end.
pub fn check_with(
    name: &str,
    case: &Case,
    mode: Mode,
    prepare: impl FnOnce(&mut Arena),
    look: impl FnOnce(&Arena) -> Vec<String>,
) {
    if !mode.is_wanted(name) {
        return;
    }
    for tool in case
        .tools
        .iter()
        .copied()
        .chain(case.paths.iter().map(String::as_str))
    {
        if !tools::need(name, tool) {
            return;
        }
    }
    let mut compiled = case.programs.clone();
    let mut is_static = false;
    if let Body::Program {
        name,
        is_static: linked,
        ..
    } = &case.body
    {
        compiled.push(name);
        is_static = *linked;
    }
    if !compiled.is_empty() && !tools::need(name, "cc") {
        return;
    }
    let mut arena = Arena::new(mode);
    for program in compiled {
        programs::install(program, is_static, arena.bin());
    }

    let first = outcome(&mut arena, case, false);
    let second = match mode.place {
        Place::Native => outcome(&mut arena, case, false),
        Place::Embedded | Place::Tcp => {
            arena.start_node();
            prepare(&mut arena);
            outcome(&mut arena, case, true)
        }
    };
    if std::env::var_os("AFIELD_E2E_SHOW").is_some() {
        println!(
            "{name}: {}\n--- stdout\n{}--- stderr\n{}",
            first.ended,
            first.output(),
            first.message()
        );
    }
    let mut report = compare::differences(case, &first, &second);
    report.extend(look(&arena));
    let left = arena.finish();
    // What hung was killed, and could not clean up.
    if first.ended != Ended::Never && second.ended != Ended::Never {
        report.extend(left);
    }
    if !report.is_empty() {
        let logs = arena.logs();
        let place = arena.keep_if_wanted();
        panic!(
            "case {name}, {mode:?}: natively (-) and then (+)\n{}\n{logs}{place}",
            report.join("\n")
        );
    }
}

fn outcome(arena: &mut Arena, case: &Case, is_afield: bool) -> Outcome {
    let prefix = if is_afield { arena.prefix() } else { Vec::new() };
    let bound = std::env::var("AFIELD_E2E_SECONDS")
        .ok()
        .map(|text| text.parse().expect("a number of seconds"));
    let mut job = Job::new(bound.map_or(case.timeout, |seconds| {
        case.timeout.min(Duration::from_secs(seconds))
    }));
    job.stdin = case.stdin.clone();
    job.environment.push(("BIN".into(), arena.bin().into()));
    match &case.body {
        Body::Guest { shell, script } => {
            job.arguments = prefix;
            job.arguments
                .extend([(*shell).into(), "-c".into(), script.into()]);
        }
        Body::Home { shell, script } => {
            let words: Vec<&str> = prefix.iter().map(|word| word.to_str().unwrap()).collect();
            job.environment.push(("AF".into(), words.join(" ").into()));
            job.arguments = vec![(*shell).into(), "-c".into(), script.into()];
        }
        Body::Program { name, arguments, .. } => {
            job.arguments = prefix;
            job.arguments.push(arena.bin().join(name).into());
            job.arguments.extend(arguments.iter().map(Into::into));
        }
    }
    arena.run_fresh(&case.setup, &job)
}
