//! `afield doctor`: tries every kernel feature that afield needs, as home and as node, in a child process each.

mod checks;

use std::fmt;
use std::time::Duration;

use serde_json::json;

use crate::config::Settings;
use crate::sys::process::in_child;
pub use checks::FUSE_DEVICE;

/// A check that takes longer has failed.
const CHECK_TIME_MAX: Duration = Duration::from_secs(10);

/// Whose feature it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Home,
    Node,
}

/// What it means if it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// This role is not possible.
    Required,
    /// It is slower, or less convenient.
    Optional,
}

/// A feature and how to try it.
pub struct Check {
    role: Role,
    need: Need,
    name: &'static str,
    /// Says what it found, or what is missing.
    probe: Box<dyn FnOnce() -> Result<String, String>>,
    /// What helps.
    remedy: String,
}

/// A feature and what was found.
#[derive(Debug)]
struct Finding {
    role: Role,
    need: Need,
    name: &'static str,
    result: Result<String, String>,
    remedy: String,
}

/// What `afield doctor` has to say.
#[derive(Debug)]
pub struct Report {
    kernel: String,
    findings: Vec<Finding>,
}

/// Tries everything. Must be called while the process has one thread.
pub fn examine(settings: &Settings) -> Report {
    let uname = rustix::system::uname();
    let findings = checks::all(settings)
        .into_iter()
        .map(|check| Finding {
            role: check.role,
            need: check.need,
            name: check.name,
            result: in_child(CHECK_TIME_MAX, check.probe),
            remedy: check.remedy,
        })
        .collect();
    Report {
        kernel: uname.release().to_string_lossy().into_owned(),
        findings,
    }
}

impl Report {
    /// Nothing that is required is missing.
    pub fn is_healthy(&self) -> bool {
        self.missing(Role::Home) + self.missing(Role::Node) == 0
    }

    fn missing(&self, role: Role) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.role == role && finding.status() == "missing")
            .count()
    }

    /// The report for programs.
    pub fn json(&self) -> String {
        let checks: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                let (detail, remedy) = match &finding.result {
                    Ok(detail) => (detail, None),
                    Err(detail) => (detail, Some(finding.advice())),
                };
                json!({
                    "role": finding.role.to_string(),
                    "name": finding.name,
                    "status": finding.status(),
                    "detail": detail,
                    "remedy": remedy,
                })
            })
            .collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": self.kernel,
            "home": self.missing(Role::Home) == 0,
            "node": self.missing(Role::Node) == 0,
            "checks": checks,
        });
        format!("{report:#}\n")
    }
}

impl Finding {
    fn status(&self) -> &'static str {
        match (&self.result, self.need) {
            (Ok(_), _) => "ok",
            (Err(_), Need::Required) => "missing",
            (Err(_), Need::Optional) => "without",
        }
    }

    fn advice(&self) -> &str {
        let needs_users = self
            .result
            .as_ref()
            .is_err_and(|why| why.starts_with("user namespace:"));
        if needs_users && self.name != checks::USER_NAMESPACE {
            "first make user namespaces work (see above)"
        } else {
            &self.remedy
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Home => "home",
            Self::Node => "node",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "afield {}, Linux {}", env!("CARGO_PKG_VERSION"), self.kernel)?;
        for (role, title) in [
            (Role::Home, "As home (processes are started here)"),
            (
                Role::Node,
                "As node (processes compute here; the embedded node, too)",
            ),
        ] {
            writeln!(f, "\n{title}")?;
            for finding in self.findings.iter().filter(|finding| finding.role == role) {
                let (status, name) = (finding.status(), finding.name);
                match &finding.result {
                    Ok(detail) if detail.is_empty() => writeln!(f, "  {status:<8} {name}")?,
                    Ok(detail) => writeln!(f, "  {status:<8} {name}: {detail}")?,
                    Err(why) => {
                        writeln!(f, "  {status:<8} {name}: {why}")?;
                        writeln!(f, "           -> {}", finding.advice())?;
                    }
                }
            }
        }
        writeln!(f)?;
        match (self.missing(Role::Home), self.missing(Role::Node)) {
            (0, 0) => writeln!(f, "All that is required is here."),
            (0, _) => writeln!(
                f,
                "This machine can be a home, but not a node (nor run the embedded one)."
            ),
            (_, 0) => writeln!(f, "This machine can be a node, but not a home."),
            (_, _) => writeln!(f, "This machine can be neither home nor node."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &'static str, need: Need, result: Result<&str, &str>) -> Finding {
        Finding {
            role: Role::Node,
            need,
            name,
            result: result.map(str::to_owned).map_err(str::to_owned),
            remedy: "do this".to_owned(),
        }
    }

    #[test]
    fn a_report_says_what_helps() {
        let report = Report {
            kernel: "6.18".to_owned(),
            findings: vec![
                finding("one", Need::Required, Ok("fine")),
                finding("two", Need::Optional, Err("not there")),
                finding("three", Need::Required, Err("user namespace: refused")),
            ],
        };
        assert!(!report.is_healthy());
        let text = report.to_string();
        assert!(text.contains("  ok       one: fine\n"), "{text}");
        assert!(
            text.contains("  without  two: not there\n           -> do this\n"),
            "{text}"
        );
        assert!(text.contains("-> first make user namespaces work"), "{text}");
        assert!(text.contains("can be a home, but not a node"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(value["node"], false);
        assert_eq!(value["checks"][1]["status"], "without");
    }
}
