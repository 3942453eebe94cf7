//! The nodes that this home trusts: a file like ssh's `known_hosts`.
//!
//! Each line is `NAME HOST:PORT FINGERPRINT`; what follows a `#` is a remark. A name stands once.

use std::path::{Path, PathBuf};

use afield_link::secure::Fingerprint;
use afield_link::secure::files::{self, FileError, Others};

use crate::place::is_address;

/// A trusted node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedNode {
    /// For `--on`.
    pub name: String,
    /// `HOST:PORT`.
    pub address: String,
    /// The key that it has to have.
    pub key: Fingerprint,
}

/// The file of trusted nodes.
#[derive(Debug, Clone)]
pub struct TrustedNodes {
    path: PathBuf,
    nodes: Vec<TrustedNode>,
}

impl TrustedNodes {
    /// Reads the file. A missing one is an empty one.
    ///
    /// # Errors
    /// Others may write to it, or a line makes no sense.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let text = match files::read(path, Others::Read) {
            Err(error) if error.is_missing() => String::new(),
            other => other?,
        };
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let mut nodes: Vec<TrustedNode> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |why: String| FileError::Content {
                path: path.to_owned(),
                why: format!("line {}: {why}", number + 1),
            };
            if let Some(node) = node_of(line).map_err(wrong)? {
                if nodes.iter().any(|other| other.name == node.name) {
                    return Err(wrong(format!("node `{}` stands there twice", node.name)));
                }
                nodes.push(node);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            nodes,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of them, in the file's order.
    pub fn all(&self) -> &[TrustedNode] {
        &self.nodes
    }

    /// The one with this name.
    pub fn named(&self, name: &str) -> Option<&TrustedNode> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The first one at this address.
    pub fn at(&self, address: &str) -> Option<&TrustedNode> {
        self.nodes.iter().find(|node| node.address == address)
    }
}

fn node_of(line: &str) -> Result<Option<TrustedNode>, String> {
    let words: Vec<&str> = line
        .split('#')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    match words[..] {
        [] => Ok(None),
        [name, address, key] => {
            check_name(name)?;
            if !is_address(address) {
                return Err(format!("`{address}` is not HOST:PORT"));
            }
            Ok(Some(TrustedNode {
                name: name.to_owned(),
                address: address.to_owned(),
                key: key.parse().map_err(|error| format!("{error}"))?,
            }))
        }
        _ => Err("not NAME HOST:PORT FINGERPRINT".to_owned()),
    }
}

/// Why a node cannot have this name.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if matches!(name, "embedded" | "home") {
        Err(format!(
            "no node can be named `{name}`: it has a meaning of its own"
        ))
    } else if name.is_empty() || name.starts_with('-') || !name.chars().all(is_plain) {
        Err(format!(
            "no node can be named `{name}`: names are letters, digits, `-`, `_` and `.`"
        ))
    } else {
        Ok(())
    }
}

/// Adds a node, in place of one with the same name and key. False if it was there just so.
///
/// # Errors
/// Another key is trusted under this name.
pub fn add(path: &Path, node: &TrustedNode) -> Result<bool, FileError> {
    files::change(path, |text| {
        let known = TrustedNodes::parse(path, text)?;
        match known.named(&node.name) {
            Some(same) if same == node => return Ok((text.to_owned(), false)),
            Some(other) if other.key != node.key => {
                return Err(FileError::Content {
                    path: path.to_owned(),
                    why: format!(
                        "node `{name}` is trusted with another key, {old}; if it really has a new one, `afield trust remove {name}` first",
                        name = node.name,
                        old = other.key
                    ),
                });
            }
            _ => {}
        }
        let mut text = without(text, &node.name);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{} {} {}\n", node.name, node.address, node.key));
        Ok((text, true))
    })
}

/// Removes the node of a name. False if there is none.
pub fn remove(path: &Path, name: &str) -> Result<bool, FileError> {
    files::change(path, |text| {
        let new = without(text, name);
        let found = new != text;
        Ok((new, found))
    })
}

fn without(text: &str, name: &str) -> String {
    let is_other = |line: &&str| line.split_whitespace().next() != Some(name);
    text.split_inclusive('\n').filter(is_other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const OTHER: &str = "SHA256:BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn node(name: &str, key: &str) -> TrustedNode {
        TrustedNode {
            name: name.to_owned(),
            address: "10.0.0.1:70".to_owned(),
            key: key.parse().unwrap(),
        }
    }

    #[test]
    fn lines_are_named_that_make_no_sense() {
        let error = |text: &str| TrustedNodes::parse(Path::new("t"), text).unwrap_err().to_string();
        assert_eq!(error("# x\na b\n"), "t: line 2: not NAME HOST:PORT FINGERPRINT");
        assert_eq!(error(&format!("a b {KEY}")), "t: line 1: `b` is not HOST:PORT");
        assert!(error("a b:1 SHA256:x").contains("not a fingerprint"));
        assert!(error(&format!("home b:1 {KEY}")).contains("meaning of its own"));
        assert!(error(&format!("a b:1 {KEY}\na c:1 {KEY}")).starts_with("t: line 2: node `a`"));
    }

    #[test]
    fn nodes_are_added_and_removed() {
        let folder = std::env::temp_dir().join(format!("afield-trust-{}", std::process::id()));
        let path = folder.join("trusted_nodes");
        assert!(TrustedNodes::load(&path).unwrap().all().is_empty());
        assert!(!remove(&path, "a").unwrap());
        assert!(add(&path, &node("a", KEY)).unwrap());
        assert!(!add(&path, &node("a", KEY)).unwrap());
        assert!(add(&path, &node("b", KEY)).unwrap());
        assert!(
            add(&path, &node("a", OTHER))
                .unwrap_err()
                .to_string()
                .contains("trust remove a")
        );
        let known = TrustedNodes::load(&path).unwrap();
        assert_eq!(known.named("b"), Some(&node("b", KEY)));
        assert_eq!(known.at("10.0.0.1:70"), Some(&node("a", KEY)));
        assert!(remove(&path, "a").unwrap());
        assert_eq!(TrustedNodes::load(&path).unwrap().all(), [node("b", KEY)]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
