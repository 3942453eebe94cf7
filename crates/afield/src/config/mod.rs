//! The configuration: options win over environment variables, those over the file, and that over defaults.
//!
//! Every value remembers where it came from, for `afield config show`.

mod file;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use afield_home::place::{Place, is_address, is_ssh};
use afield_home::runtime::RuntimeDir;
use afield_home::trust::TrustedNodes;
use afield_link::secure::files::FileError;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// Names of places that no node may have.
pub const RESERVED_NAMES: [&str; 2] = ["embedded", "home"];

/// Most threads per link.
pub const READERS_MAX: u64 = 64;

/// Whether nodes keep what they know of files, if nobody says so.
const CACHE_DEFAULT: bool = true;

/// Answers for one program: a compiler with its headers has some hundreds of questions.
const AHEAD_ANSWERS_MAX_DEFAULT: u64 = 1024;

/// Bytes of those.
const AHEAD_BYTES_MAX_DEFAULT: u64 = 1 << 20;

/// Longest time that a session waits for a lost connection.
pub const GRACE_SECONDS_MAX: u64 = 86_400;

/// What a node keeps of homes' files if nobody says otherwise.
const CONTENTS_BYTES: u64 = 4 << 30;

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file is there but cannot be read.
    #[error("{}: {}", path.display(), crate::failure::plain(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}:{line}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// An environment variable or option has a value that it cannot have.
    #[error("{name}: {message}")]
    Value {
        /// The variable or option.
        name: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// A node that is not known.
    #[error("unknown node `{name}`: known are {known}; or give HOST:PORT")]
    UnknownNode {
        /// What the user gave.
        name: String,
        /// What would have done.
        known: String,
    },
    /// It could be a node's address, and is none.
    #[error(
        "`{0}` is not a node: write HOST:PORT, ssh://[USER@]HOST[:PORT], or a name (see `afield trust list`)"
    )]
    Address(String),
    /// Nobody has said which key a node has to have.
    #[error(
        "node {name} is not trusted yet: `afield trust add NAME {address} --ask` shows its key and asks you, or give the \
         fingerprint that `afield node` prints there"
    )]
    Untrusted {
        /// What the user gave.
        name: String,
        /// `HOST:PORT`.
        address: String,
    },
    /// The file of trusted nodes.
    #[error(transparent)]
    Trust(#[from] FileError),
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The file, in this line.
    File(usize),
    /// An environment variable.
    Environment(&'static str),
    /// An option on the command line.
    Option(&'static str),
}

/// A value with its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value that holds.
    pub value: T,
    /// Why it does.
    pub source: Source,
}

/// What the command line says.
#[derive(Debug, Default, Clone)]
pub struct Options {
    pub config: Option<PathBuf>,
    pub runtime_dir: Option<PathBuf>,
    pub on: Option<String>,
    pub verbose: bool,
    pub idle_seconds_max: Option<u64>,
    pub readers: Option<u64>,
    pub log: Option<String>,
}

/// The effective configuration.
#[derive(Debug)]
pub struct Settings {
    /// The file, and whether it exists.
    pub file: (PathBuf, bool),
    /// The node that jobs run on.
    pub on: Setting<String>,
    /// Name calls that are not possible afield.
    pub verbose: Setting<bool>,
    /// What daemons log.
    pub log: Setting<String>,
    /// Where agent and jobs meet.
    pub runtime_dir: Setting<PathBuf>,
    /// The agent ends after so long without a job.
    pub idle_seconds_max: Setting<u64>,
    /// Threads per link at home.
    pub readers: Setting<u64>,
    /// How long a session waits for a lost connection to be replaced.
    pub grace_seconds: Setting<u64>,
    /// Nodes keep what they know of home's files until they are told that it has changed.
    pub cache: Setting<bool>,
    /// Most answers that a node gets for one program before it asks.
    pub ahead_answers_max: Setting<u64>,
    /// Most bytes of them.
    pub ahead_bytes_max: Setting<u64>,
    /// The file in which is kept what programs ask of files.
    pub asked: Setting<PathBuf>,
    /// Most bytes that a node keeps of homes' files.
    pub contents_bytes_max: Setting<u64>,
    /// Where it keeps them.
    pub contents_directory: Setting<PathBuf>,
    /// Addresses of nodes, by name.
    pub nodes: BTreeMap<String, Setting<String>>,
    /// Where keys are, and who is trusted.
    folder: PathBuf,
}

/// Where a job goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: it runs natively.
    Home,
    /// To a node.
    Node(Place),
}

/// Looks environment variables up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Settings {
    /// The configuration of this process.
    pub fn load(options: &Options) -> Result<Self, ConfigError> {
        Self::resolve(options, &|name| std::env::var_os(name))
    }

    fn resolve(options: &Options, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let (path, asked_for) = match (&options.config, set("AFIELD_CONFIG")) {
            (Some(path), _) => (path.clone(), true),
            (None, Some(path)) => (PathBuf::from(path), true),
            (None, None) => (default_path(environment), false),
        };
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Some(file::parse(&path, &text)?),
            // A directory on the way that is none is as good as a missing file.
            Err(error)
                if !asked_for
                    && matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) =>
            {
                None
            }
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        let exists = file.is_some();
        let file = file.unwrap_or_default();
        Ok(Self {
            file: (path, exists),
            on: choose(
                ("--on", options.on.clone()),
                ("AFIELD_ON", text(environment, "AFIELD_ON")?),
                file.on,
                "embedded".to_owned(),
            ),
            verbose: choose(
                ("--verbose", options.verbose.then_some(true)),
                ("AFIELD_VERBOSE", truth(environment, "AFIELD_VERBOSE")?),
                file.verbose,
                false,
            ),
            log: log(choose(
                ("--log", options.log.clone()),
                ("AFIELD_LOG", text(environment, "AFIELD_LOG")?),
                file.log,
                "warn".to_owned(),
            ))?,
            runtime_dir: choose(
                ("--runtime-dir", options.runtime_dir.clone()),
                (
                    "AFIELD_RUNTIME_DIR",
                    set("AFIELD_RUNTIME_DIR").map(|path| std::path::absolute(&path).unwrap_or(path.into())),
                ),
                file.runtime_dir,
                RuntimeDir::from_environment().path().to_owned(),
            ),
            idle_seconds_max: choose(
                ("--idle-seconds-max", options.idle_seconds_max),
                (
                    "AFIELD_AGENT_IDLE_SECONDS_MAX",
                    number(environment, "AFIELD_AGENT_IDLE_SECONDS_MAX")?,
                ),
                file.idle_seconds_max,
                600,
            ),
            readers: readers(choose(
                ("--readers", options.readers),
                (
                    "AFIELD_AGENT_READERS",
                    number(environment, "AFIELD_AGENT_READERS")?,
                ),
                file.readers,
                4,
            ))?,
            grace_seconds: grace(choose(
                ("", None),
                (
                    "AFIELD_LINK_GRACE_SECONDS",
                    number(environment, "AFIELD_LINK_GRACE_SECONDS")?,
                ),
                file.grace_seconds,
                60,
            ))?,
            cache: choose(
                ("", None),
                ("AFIELD_FILES_CACHE", truth(environment, "AFIELD_FILES_CACHE")?),
                file.cache,
                CACHE_DEFAULT,
            ),
            ahead_answers_max: choose(
                ("", None),
                (
                    "AFIELD_FILES_AHEAD_ANSWERS_MAX",
                    number(environment, "AFIELD_FILES_AHEAD_ANSWERS_MAX")?,
                ),
                file.ahead_answers_max,
                AHEAD_ANSWERS_MAX_DEFAULT,
            ),
            ahead_bytes_max: choose(
                ("", None),
                (
                    "AFIELD_FILES_AHEAD_BYTES_MAX",
                    number(environment, "AFIELD_FILES_AHEAD_BYTES_MAX")?,
                ),
                file.ahead_bytes_max,
                AHEAD_BYTES_MAX_DEFAULT,
            ),
            asked: choose(
                ("", None),
                (
                    "AFIELD_FILES_ASKED",
                    set("AFIELD_FILES_ASKED").map(|path| std::path::absolute(&path).unwrap_or(path.into())),
                ),
                file.asked,
                folder_in(environment, "XDG_CACHE_HOME", ".cache", "/var/cache").join("asked"),
            ),
            contents_bytes_max: choose(
                ("", None),
                (
                    "AFIELD_CONTENTS_BYTES_MAX",
                    number(environment, "AFIELD_CONTENTS_BYTES_MAX")?,
                ),
                file.contents_bytes_max,
                CONTENTS_BYTES,
            ),
            contents_directory: choose(
                ("", None),
                (
                    "AFIELD_CONTENTS_DIRECTORY",
                    set("AFIELD_CONTENTS_DIRECTORY")
                        .map(|path| std::path::absolute(&path).unwrap_or(path.into())),
                ),
                file.contents_directory,
                folder_in(environment, "XDG_CACHE_HOME", ".cache", "/var/cache").join("contents"),
            ),
            nodes: file.nodes,
            folder: folder(environment),
        })
    }

    /// Where a job goes.
    pub fn target(&self) -> Result<Target, ConfigError> {
        let name = &self.on.value;
        if name == "home" {
            return Ok(Target::Home);
        }
        if name == "embedded" {
            return Ok(Target::Node(Place::Embedded));
        }
        if is_ssh(name) {
            return Ok(Target::Node(Place::Ssh(name.clone())));
        }
        let trusted = TrustedNodes::load(&self.trusted_nodes())?;
        let configured = self.nodes.get(name).map(|node| node.value.as_str());
        let by_name = trusted.named(name);
        // A name's own key; its address is the configuration's, if that has one.
        let address = match (configured, by_name) {
            (Some(address), _) => Some(address),
            (None, Some(node)) => Some(node.address.as_str()),
            (None, None) if is_address(name) => Some(name.as_str()),
            (None, None) if name.contains(':') => return Err(ConfigError::Address(name.clone())),
            (None, None) => None,
        };
        if let Some(address) = address {
            let node = by_name
                .or_else(|| trusted.at(address))
                .ok_or_else(|| ConfigError::Untrusted {
                    name: name.clone(),
                    address: address.to_owned(),
                })?;
            return Ok(Target::Node(Place::Tcp {
                address: address.to_owned(),
                key: node.key,
            }));
        }
        let mut known: Vec<&str> = RESERVED_NAMES.into_iter().collect();
        known.extend(self.nodes.keys().map(String::as_str));
        for node in trusted.all() {
            if !known.contains(&node.name.as_str()) {
                known.push(&node.name);
            }
        }
        Err(ConfigError::UnknownNode {
            name: name.clone(),
            known: known.join(", "),
        })
    }

    /// The file with this machine's key.
    pub fn key(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// The file with the nodes that this home trusts.
    pub fn trusted_nodes(&self) -> PathBuf {
        self.folder.join("trusted_nodes")
    }

    /// The file with the homes that this node admits.
    pub fn authorized_homes(&self) -> PathBuf {
        self.folder.join("authorized_homes")
    }

    /// What daemons log.
    pub fn log_filter(&self) -> Result<EnvFilter, String> {
        file::log_filter(&self.log.value)
    }

    /// The runtime directory.
    pub fn runtime(&self) -> RuntimeDir {
        RuntimeDir::at(&self.runtime_dir.value)
    }
}

impl fmt::Display for Settings {
    /// As a configuration file that says the same, with a remark on each value's source.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, exists) = &self.file;
        let state = if *exists { "" } else { " (not there)" };
        writeln!(f, "# {}{state}", path.display())?;
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let directory = self.runtime_dir.value.to_string_lossy();
        line(f, "on", &quoted(&self.on.value), &self.on.source)?;
        line(
            f,
            "verbose",
            &self.verbose.value.to_string(),
            &self.verbose.source,
        )?;
        line(f, "log", &quoted(&self.log.value), &self.log.source)?;
        line(f, "runtime_dir", &quoted(&directory), &self.runtime_dir.source)?;
        writeln!(f, "\n[agent]")?;
        let idle = &self.idle_seconds_max;
        line(f, "idle_seconds_max", &idle.value.to_string(), &idle.source)?;
        line(
            f,
            "readers",
            &self.readers.value.to_string(),
            &self.readers.source,
        )?;
        writeln!(f, "\n[link]")?;
        let grace = &self.grace_seconds;
        line(f, "grace_seconds", &grace.value.to_string(), &grace.source)?;
        writeln!(f, "\n[files]")?;
        line(f, "cache", &self.cache.value.to_string(), &self.cache.source)?;
        let answers = &self.ahead_answers_max;
        line(
            f,
            "ahead_answers_max",
            &answers.value.to_string(),
            &answers.source,
        )?;
        let bytes = &self.ahead_bytes_max;
        line(f, "ahead_bytes_max", &bytes.value.to_string(), &bytes.source)?;
        let asked = self.asked.value.to_string_lossy();
        line(f, "asked", &quoted(&asked), &self.asked.source)?;
        writeln!(f, "\n[contents]")?;
        let bytes = &self.contents_bytes_max;
        line(f, "bytes_max", &bytes.value.to_string(), &bytes.source)?;
        let directory = self.contents_directory.value.to_string_lossy();
        line(
            f,
            "directory",
            &quoted(&directory),
            &self.contents_directory.source,
        )?;
        for (name, address) in &self.nodes {
            writeln!(f, "\n[node.{}]", file::key_text(name))?;
            line(f, "address", &quoted(&address.value), &address.source)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, key: &str, value: &str, source: &Source) -> fmt::Result {
    let pair = format!("{key} = {value}");
    writeln!(f, "{pair:<40} # {source}")
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(line) => write!(f, "line {line}"),
            Self::Environment(name) | Self::Option(name) => f.write_str(name),
        }
    }
}

/// The configuration file, if nobody names another.
fn default_path(environment: Environment<'_>) -> PathBuf {
    folder(environment).join("config.toml")
}

/// `$XDG_CONFIG_HOME/afield`, or the same below `~/.config`.
fn folder(environment: Environment<'_>) -> PathBuf {
    folder_in(environment, "XDG_CONFIG_HOME", ".config", "/etc")
}

/// `afield` in the directory that a variable names, in this one of the home directory, or, if there is none, in the last.
fn folder_in(environment: Environment<'_>, variable: &str, of_home: &str, without: &str) -> PathBuf {
    let absolute = |name: &str| {
        environment(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let folder = absolute(variable)
        .or_else(|| absolute("HOME").map(|home| home.join(of_home)))
        .unwrap_or_else(|| Path::new(without).to_owned());
    folder.join("afield")
}

fn choose<T>(
    (option_name, option): (&'static str, Option<T>),
    (variable_name, variable): (&'static str, Option<T>),
    file: Option<(T, usize)>,
    default: T,
) -> Setting<T> {
    let (value, source) = if let Some(value) = option {
        (value, Source::Option(option_name))
    } else if let Some(value) = variable {
        (value, Source::Environment(variable_name))
    } else if let Some((value, line)) = file {
        (value, Source::File(line))
    } else {
        (default, Source::Default)
    };
    Setting { value, source }
}

fn text(environment: Environment<'_>, name: &'static str) -> Result<Option<String>, ConfigError> {
    match environment(name) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => value.into_string().map(Some).map_err(|_| ConfigError::Value {
            name,
            message: "not UTF-8".to_owned(),
        }),
    }
}

fn truth(environment: Environment<'_>, name: &'static str) -> Result<Option<bool>, ConfigError> {
    text(environment, name)?
        .map(|text| match text.as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            other => Err(ConfigError::Value {
                name,
                message: format!("`{other}` is neither true nor false"),
            }),
        })
        .transpose()
}

fn number(environment: Environment<'_>, name: &'static str) -> Result<Option<u64>, ConfigError> {
    text(environment, name)?
        .map(|text| {
            text.parse().map_err(|_| ConfigError::Value {
                name,
                message: format!("`{text}` is not a number"),
            })
        })
        .transpose()
}

/// The file's values have been checked where they were read.
fn grace(setting: Setting<u64>) -> Result<Setting<u64>, ConfigError> {
    match setting.source {
        Source::Environment(name) if !(1..=GRACE_SECONDS_MAX).contains(&setting.value) => {
            Err(ConfigError::Value {
                name,
                message: file::grace_message(setting.value),
            })
        }
        _ => Ok(setting),
    }
}

fn log(setting: Setting<String>) -> Result<Setting<String>, ConfigError> {
    let name = match setting.source {
        Source::Environment(name) | Source::Option(name) => name,
        Source::Default | Source::File(_) => return Ok(setting),
    };
    match file::log_filter(&setting.value) {
        Ok(_) => Ok(setting),
        Err(message) => Err(ConfigError::Value { name, message }),
    }
}

fn readers(setting: Setting<u64>) -> Result<Setting<u64>, ConfigError> {
    let name = match setting.source {
        Source::Environment(name) | Source::Option(name) => name,
        Source::Default | Source::File(_) => return Ok(setting),
    };
    if (1..=READERS_MAX).contains(&setting.value) {
        Ok(setting)
    } else {
        Err(ConfigError::Value {
            name,
            message: file::readers_message(setting.value),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afield_home::trust::TrustedNode;
    use afield_link::secure::Fingerprint;

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("afield-config-{name}-{}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }

        fn options(&self) -> Options {
            Options {
                config: Some(self.0.clone()),
                ..Options::default()
            }
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn nothing(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn options_win_over_environment_over_file_over_defaults() {
        let file = Temporary::new(
            "precedence",
            "verbose = true\n\n[agent]\nreaders = 7\nidle_seconds_max = 8\n",
        );
        let environment = |name: &str| match name {
            "AFIELD_AGENT_READERS" => Some(OsString::from("9")),
            "AFIELD_ON" => Some(OsString::from("10.0.0.1:70")),
            _ => None,
        };
        let options = Options {
            on: Some("home".to_owned()),
            ..file.options()
        };
        let settings = Settings::resolve(&options, &environment).unwrap();
        assert_eq!(settings.on.source, Source::Option("--on"));
        assert_eq!(settings.target().unwrap(), Target::Home);
        assert_eq!(
            (settings.readers.value, settings.readers.source),
            (9, Source::Environment("AFIELD_AGENT_READERS"))
        );
        assert_eq!(
            (settings.idle_seconds_max.value, settings.idle_seconds_max.source),
            (8, Source::File(5))
        );
        assert_eq!(
            (settings.verbose.value, settings.verbose.source),
            (true, Source::File(1))
        );
        assert_eq!(
            (settings.log.value.as_str(), settings.log.source),
            ("warn", Source::Default)
        );
    }

    #[test]
    fn a_missing_file_matters_only_if_it_was_asked_for() {
        let environment = |name: &str| (name == "HOME").then(|| OsString::from("/nonexistent"));
        let settings = Settings::resolve(&Options::default(), &environment).unwrap();
        assert_eq!(
            settings.file,
            (PathBuf::from("/nonexistent/.config/afield/config.toml"), false)
        );
        assert_eq!(settings.target().unwrap(), Target::Node(Place::Embedded));
        let options = Options {
            config: Some("/nonexistent/file".into()),
            ..Options::default()
        };
        let error = Settings::resolve(&options, &nothing).unwrap_err();
        assert_eq!(error.to_string(), "/nonexistent/file: No such file or directory");
    }

    #[test]
    fn nodes_are_found_by_name_if_they_are_trusted() {
        let file = Temporary::new(
            "nodes",
            "[node.fast]\naddress = \"10.0.0.1:70\"\n[node.new]\naddress = \"10.0.0.9:70\"\n",
        );
        let folder = std::env::temp_dir().join(format!("afield-config-trust-{}", std::process::id()));
        let home = folder.clone();
        let environment =
            move |name: &str| (name == "XDG_CONFIG_HOME").then(|| home.clone().into_os_string());
        let key = |number| Fingerprint::from_bytes([number; 32]);
        for (number, name, address) in [
            (1, "quick", "10.0.0.1:70"),
            (2, "far", "[::1]:70"),
            (3, "fast", "10.0.0.3:70"),
        ] {
            let node = TrustedNode {
                name: name.to_owned(),
                address: address.to_owned(),
                key: key(number),
            };
            afield_home::trust::add(&folder.join("afield/trusted_nodes"), &node).unwrap();
        }
        let on = |name: &str| {
            let options = Options {
                on: Some(name.to_owned()),
                ..file.options()
            };
            Settings::resolve(&options, &environment).unwrap().target()
        };
        let place = |address: &str, number| {
            Target::Node(Place::Tcp {
                address: address.to_owned(),
                key: key(number),
            })
        };
        assert_eq!(on("fast").unwrap(), place("10.0.0.1:70", 3));
        assert_eq!(on("quick").unwrap(), place("10.0.0.1:70", 1));
        assert_eq!(on("[::1]:70").unwrap(), place("[::1]:70", 2));
        assert_eq!(
            on("slow").unwrap_err().to_string(),
            "unknown node `slow`: known are embedded, home, fast, new, quick, far; or give HOST:PORT"
        );
        for name in ["new", "10.0.0.9:70"] {
            let message = on(name).unwrap_err().to_string();
            assert!(
                message.contains("afield trust add NAME 10.0.0.9:70 --ask"),
                "{message}"
            );
        }
        assert!(on("10.0.0.1:").unwrap_err().to_string().contains("HOST:PORT"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn bad_variables_are_named() {
        let check = |name: &'static str, value: &'static str, message: &str| {
            let environment = move |asked: &str| (asked == name).then(|| OsString::from(value));
            let error = Settings::resolve(&Options::default(), &environment).unwrap_err();
            assert_eq!(error.to_string(), message);
        };
        check(
            "AFIELD_VERBOSE",
            "maybe",
            "AFIELD_VERBOSE: `maybe` is neither true nor false",
        );
        check(
            "AFIELD_AGENT_IDLE_SECONDS_MAX",
            "-1",
            "AFIELD_AGENT_IDLE_SECONDS_MAX: `-1` is not a number",
        );
        check(
            "AFIELD_AGENT_READERS",
            "0",
            "AFIELD_AGENT_READERS: 0 is not between 1 and 64",
        );
    }

    #[test]
    fn every_value_is_documented() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let page = std::fs::read_to_string(page).unwrap();
        let shown = Settings::resolve(&Options::default(), &nothing)
            .unwrap()
            .to_string();
        let mut table = String::new();
        for line in shown.lines() {
            if let Some(name) = line.strip_prefix('[') {
                table = format!("{}.", name.trim_end_matches(']'));
            } else if let Some((key, _)) = line.split_once(" = ") {
                let variable = format!("{table}{key}").replace('.', "_").to_uppercase();
                assert!(
                    page.contains(&format!("| `{table}{key}` | `AFIELD_{variable}` |")),
                    "{table}{key}"
                );
            }
        }
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let file = Temporary::new(
            "show",
            "on = \"fast\"\nlog = \"a\\\"b\"\n[node.fast]\naddress = \"10.0.0.1:70\"\n[node.\"odd.name\"]\naddress = \"[::1]:7\"\n",
        );
        let settings = Settings::resolve(&file.options(), &nothing).unwrap();
        let shown = settings.to_string();
        assert!(shown.contains("address = \"10.0.0.1:70\""), "{shown}");
        assert!(shown.contains("# line 4"), "{shown}");
        let again = Temporary::new("again", &shown);
        let again = Settings::resolve(&again.options(), &nothing).unwrap();
        assert_eq!(again.log.value, settings.log.value);
        assert_eq!(again.on.value, "fast");
        assert_eq!(
            again.nodes.keys().collect::<Vec<_>>(),
            settings.nodes.keys().collect::<Vec<_>>()
        );
    }
}
