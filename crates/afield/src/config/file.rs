//! The configuration file. Everything in it is known or an error that names the line.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use afield_home::place::is_address;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tracing_subscriber::EnvFilter;

use super::{ConfigError, GRACE_SECONDS_MAX, READERS_MAX, RESERVED_NAMES, Setting, Source};

const KEYS: &str = "on, verbose, log, runtime_dir, agent, link, files, contents, node";
const AGENT_KEYS: &str = "idle_seconds_max, readers";
const LINK_KEYS: &str = "grace_seconds";
const FILES_KEYS: &str = "cache, ahead_answers_max, ahead_bytes_max, asked";
const CONTENTS_KEYS: &str = "bytes_max, directory";
const NODE_KEYS: &str = "address";

/// What a file says: values with their lines.
#[derive(Debug, Default)]
pub struct File {
    pub on: Option<(String, usize)>,
    pub verbose: Option<(bool, usize)>,
    pub log: Option<(String, usize)>,
    pub runtime_dir: Option<(PathBuf, usize)>,
    pub idle_seconds_max: Option<(u64, usize)>,
    pub readers: Option<(u64, usize)>,
    pub grace_seconds: Option<(u64, usize)>,
    pub cache: Option<(bool, usize)>,
    pub ahead_answers_max: Option<(u64, usize)>,
    pub ahead_bytes_max: Option<(u64, usize)>,
    pub asked: Option<(PathBuf, usize)>,
    pub contents_bytes_max: Option<(u64, usize)>,
    pub contents_directory: Option<(PathBuf, usize)>,
    pub nodes: BTreeMap<String, Setting<String>>,
}

/// Reads the text of the file at `path`, which is only for messages.
pub fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let reader = Reader { path, text };
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        reader.error(span, error.message().trim_end().replace('\n', ", "))
    })?;
    let mut file = File::default();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        match name {
            "on" => file.on = Some(reader.string(name, value)?),
            "verbose" => file.verbose = Some(reader.truth(name, value)?),
            "log" => {
                let (filter, line) = reader.string(name, value)?;
                log_filter(&filter)
                    .map_err(|message| reader.error(value.span(), format!("`log`: {message}")))?;
                file.log = Some((filter, line));
            }
            "runtime_dir" => file.runtime_dir = Some(reader.path(name, value)?),
            "agent" => reader.agent(value, &mut file)?,
            "link" => reader.link(value, &mut file)?,
            "files" => reader.files(value, &mut file)?,
            "contents" => reader.contents(value, &mut file)?,
            "node" => reader.nodes(value, &mut file)?,
            _ => return Err(reader.unknown(key, "", KEYS)),
        }
    }
    Ok(file)
}

/// What is logged by a daemon with this setting, or why the setting is wrong.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| format!("`{text}` is not a filter: {error}"))
}

/// Why a grace time is wrong.
pub fn grace_message(seconds: u64) -> String {
    format!("{seconds} seconds are not possible, only 1 to {GRACE_SECONDS_MAX}")
}

/// Why a count of threads is wrong.
pub fn readers_message(value: u64) -> String {
    format!("{value} is not between 1 and {READERS_MAX}")
}

/// A key as it has to be written.
pub fn key_text(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if bare {
        key.to_owned()
    } else {
        toml::Value::from(key).to_string()
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn error(&self, span: Range<usize>, message: String) -> ConfigError {
        ConfigError::File {
            path: self.path.to_owned(),
            line: self.line(span.start),
            message,
        }
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>, table: &str, known: &str) -> ConfigError {
        let message = format!("unknown key `{table}{}`: known are {known}", key.get_ref());
        self.error(key.span(), message)
    }

    fn mistyped(&self, name: &str, value: &Value<'_>, wanted: &str) -> ConfigError {
        let message = format!("`{name}` has to be {wanted}, not {}", described(value.get_ref()));
        self.error(value.span(), message)
    }

    fn string(&self, name: &str, value: &Value<'_>) -> Result<(String, usize), ConfigError> {
        let text = value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.mistyped(name, value, "a string"))?;
        Ok((text.to_owned(), self.line(value.span().start)))
    }

    fn path(&self, name: &str, value: &Value<'_>) -> Result<(PathBuf, usize), ConfigError> {
        let (path, line) = self.string(name, value)?;
        if !path.starts_with('/') {
            return Err(self.error(value.span(), format!("`{name}` is not an absolute path")));
        }
        Ok((path.into(), line))
    }

    fn truth(&self, name: &str, value: &Value<'_>) -> Result<(bool, usize), ConfigError> {
        let truth = value
            .get_ref()
            .as_bool()
            .ok_or_else(|| self.mistyped(name, value, "true or false"))?;
        Ok((truth, self.line(value.span().start)))
    }

    fn number(&self, name: &str, value: &Value<'_>) -> Result<(u64, usize), ConfigError> {
        const WANTED: &str = "a number that is not negative";
        let digits = value
            .get_ref()
            .as_integer()
            .ok_or_else(|| self.mistyped(name, value, WANTED))?;
        let number = u64::from_str_radix(digits.as_str(), digits.radix()).map_err(|_| {
            self.error(
                value.span(),
                format!("`{name}` has to be {WANTED}, not {}", digits.as_str()),
            )
        })?;
        Ok((number, self.line(value.span().start)))
    }

    fn table<'v, 't>(&self, name: &str, value: &'v Value<'t>) -> Result<&'v DeTable<'t>, ConfigError> {
        value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.mistyped(name, value, "a table"))
    }

    fn agent(&self, value: &Value<'_>, file: &mut File) -> Result<(), ConfigError> {
        for (key, value) in self.table("agent", value)? {
            match key.get_ref().as_ref() {
                "idle_seconds_max" => {
                    file.idle_seconds_max = Some(self.number("agent.idle_seconds_max", value)?);
                }
                "readers" => {
                    let (readers, line) = self.number("agent.readers", value)?;
                    if !(1..=READERS_MAX).contains(&readers) {
                        let message = format!("`agent.readers`: {}", readers_message(readers));
                        return Err(self.error(value.span(), message));
                    }
                    file.readers = Some((readers, line));
                }
                _ => return Err(self.unknown(key, "agent.", AGENT_KEYS)),
            }
        }
        Ok(())
    }

    fn link(&self, value: &Value<'_>, file: &mut File) -> Result<(), ConfigError> {
        for (key, value) in self.table("link", value)? {
            match key.get_ref().as_ref() {
                "grace_seconds" => {
                    let (seconds, line) = self.number("link.grace_seconds", value)?;
                    if !(1..=GRACE_SECONDS_MAX).contains(&seconds) {
                        let message = format!("`link.grace_seconds`: {}", grace_message(seconds));
                        return Err(self.error(value.span(), message));
                    }
                    file.grace_seconds = Some((seconds, line));
                }
                _ => return Err(self.unknown(key, "link.", LINK_KEYS)),
            }
        }
        Ok(())
    }

    fn files(&self, value: &Value<'_>, file: &mut File) -> Result<(), ConfigError> {
        for (key, value) in self.table("files", value)? {
            match key.get_ref().as_ref() {
                "cache" => file.cache = Some(self.truth("files.cache", value)?),
                "asked" => file.asked = Some(self.path("files.asked", value)?),
                "ahead_answers_max" => {
                    file.ahead_answers_max = Some(self.number("files.ahead_answers_max", value)?)
                }
                "ahead_bytes_max" => {
                    file.ahead_bytes_max = Some(self.number("files.ahead_bytes_max", value)?)
                }
                _ => return Err(self.unknown(key, "files.", FILES_KEYS)),
            }
        }
        Ok(())
    }

    fn contents(&self, value: &Value<'_>, file: &mut File) -> Result<(), ConfigError> {
        for (key, value) in self.table("contents", value)? {
            match key.get_ref().as_ref() {
                "bytes_max" => file.contents_bytes_max = Some(self.number("contents.bytes_max", value)?),
                "directory" => file.contents_directory = Some(self.path("contents.directory", value)?),
                _ => return Err(self.unknown(key, "contents.", CONTENTS_KEYS)),
            }
        }
        Ok(())
    }

    fn nodes(&self, value: &Value<'_>, file: &mut File) -> Result<(), ConfigError> {
        for (key, value) in self.table("node", value)? {
            let name = key.get_ref().as_ref();
            if RESERVED_NAMES.contains(&name) {
                return Err(self.error(
                    key.span(),
                    format!("no node can be named `{name}`: it has a meaning of its own"),
                ));
            }
            if name.is_empty() || name.contains(':') {
                return Err(self.error(
                    key.span(),
                    format!("no node can be named `{name}`: it would read as an address"),
                ));
            }
            let prefix = format!("node.{name}.");
            let mut address = None;
            for (key, value) in self.table(&format!("node.{name}"), value)? {
                match key.get_ref().as_ref() {
                    "address" => {
                        let (text, line) = self.string(&format!("{prefix}address"), value)?;
                        if !is_address(&text) {
                            let message = format!("`{prefix}address` has to be HOST:PORT, not `{text}`");
                            return Err(self.error(value.span(), message));
                        }
                        address = Some((text, line));
                    }
                    _ => return Err(self.unknown(key, &prefix, NODE_KEYS)),
                }
            }
            let (address, line) =
                address.ok_or_else(|| self.error(key.span(), format!("node `{name}` has no `address`")))?;
            let setting = Setting {
                value: address,
                source: Source::File(line),
            };
            file.nodes.insert(name.to_owned(), setting);
        }
        Ok(())
    }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("c.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            error("on = \"home\"\n\ncolour = 1\n"),
            "c.toml:3: unknown key `colour`: known are on, verbose, log, runtime_dir, agent, link, files, contents, node"
        );
        assert_eq!(
            error("\non = 3\n"),
            "c.toml:2: `on` has to be a string, not a number"
        );
        assert!(
            error("on = 'home'\nlog = 'a=b=c'").starts_with("c.toml:2: `log`: `a=b=c` is not a filter: ")
        );
        assert_eq!(
            error("verbose = \"yes\""),
            "c.toml:1: `verbose` has to be true or false, not a string"
        );
        assert_eq!(
            error("# a\n# b\nagent = 3"),
            "c.toml:3: `agent` has to be a table, not a number"
        );
        assert_eq!(
            error("[agent]\nreader = 1"),
            "c.toml:2: unknown key `agent.reader`: known are idle_seconds_max, readers"
        );
        assert_eq!(
            error("[agent]\nidle_seconds_max = -1"),
            "c.toml:2: `agent.idle_seconds_max` has to be a number that is not negative, not -1"
        );
        assert_eq!(
            error("[agent]\n\nreaders = 65"),
            "c.toml:3: `agent.readers`: 65 is not between 1 and 64"
        );
        assert_eq!(error("[node.a]\n"), "c.toml:1: node `a` has no `address`");
        assert_eq!(
            error("[node.a]\naddress = \"x\""),
            "c.toml:2: `node.a.address` has to be HOST:PORT, not `x`"
        );
        assert_eq!(
            error("[node.a]\naddress = \"x:1\"\nport = 3"),
            "c.toml:3: unknown key `node.a.port`: known are address"
        );
        assert_eq!(
            error("\n[node.home]\naddress = \"x:1\""),
            "c.toml:2: no node can be named `home`: it has a meaning of its own"
        );
        assert_eq!(
            error("runtime_dir = \"x\""),
            "c.toml:1: `runtime_dir` is not an absolute path"
        );
        assert_eq!(
            error("[contents]\ndirectory = \"x\""),
            "c.toml:2: `contents.directory` is not an absolute path"
        );
        assert_eq!(
            error("[contents]\nbytes = 1"),
            "c.toml:2: unknown key `contents.bytes`: known are bytes_max, directory"
        );
        assert!(
            error("on = \"a\"\non = \"b\"\n").starts_with("c.toml:2: "),
            "{}",
            error("on = 1\non = 2\n")
        );
        assert!(error("on = \"a\"\nverbose =\n").starts_with("c.toml:2: "));
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = "on = 'fast'\nverbose = true\nlog = 'debug'\nruntime_dir = '/run/x'\n[agent]\nreaders = 0x10\n\
            idle_seconds_max = 0\n[node.fast]\naddress = '10.0.0.1:70'\n";
        let file = parse(Path::new("c.toml"), text).unwrap();
        assert_eq!(file.on, Some(("fast".to_owned(), 1)));
        assert_eq!(file.readers, Some((16, 6)));
        assert_eq!(file.idle_seconds_max, Some((0, 7)));
        assert_eq!(file.nodes["fast"].source, Source::File(9));
    }
}
