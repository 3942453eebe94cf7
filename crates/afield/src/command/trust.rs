//! `afield trust`: which nodes this home trusts, and which homes this node admits.

use std::io::{self, BufRead, IsTerminal, Write};

use afield_home::agent::nodes;
use afield_home::place::is_address;
use afield_home::trust::{self, TrustedNode, TrustedNodes};
use afield_link::secure::Fingerprint;
use afield_node::admission::{self, AuthorizedHomes};
use serde_json::json;

use super::output;
use crate::cli::{Trust, TrustCommand};
use crate::config::Settings;
use crate::failure::{Failure, plain};

/// Lists or changes it.
pub fn trust(settings: &Settings, choice: Trust) -> Result<u8, Failure> {
    match choice.command {
        TrustCommand::Add {
            name,
            address,
            fingerprint,
            ask: _,
        } => add(settings, name, address, fingerprint.as_deref()),
        TrustCommand::Remove { name } => remove(settings, &name),
        TrustCommand::Admit {
            fingerprint,
            remark,
            options,
        } => admit(
            settings,
            &fingerprint,
            &remark.join(" "),
            &options.unwrap_or_default(),
        ),
        TrustCommand::Revoke { home } => revoke(settings, &home),
        TrustCommand::List { json } => list(settings, json),
    }
}

fn add(settings: &Settings, name: String, address: String, fingerprint: Option<&str>) -> Result<u8, Failure> {
    trust::check_name(&name).map_err(Failure::own)?;
    if !is_address(&address) {
        return Err(Failure::own(format!("`{address}` is not HOST:PORT")));
    }
    if let Some(configured) = settings.nodes.get(&name)
        && configured.value != address
    {
        return Err(Failure::own(format!(
            "node `{name}` is {} in {}: trust it at that address, or choose another name",
            configured.value,
            settings.file.0.display()
        )));
    }
    let key = match fingerprint {
        Some(text) => text.parse().map_err(Failure::own)?,
        None => ask(settings, &address)?,
    };
    let node = TrustedNode { name, address, key };
    let is_new = trust::add(&settings.trusted_nodes(), &node)?;
    let (name, address) = (&node.name, &node.address);
    output(&match is_new {
        true => format!("{name} is trusted at {address}: `afield run --on {name} COMMAND`\n"),
        false => format!("{name} was trusted already\n"),
    })?;
    Ok(0)
}

/// The key that whoever listens at an address shows, if the user says that it is the right one.
fn ask(settings: &Settings, address: &str) -> Result<Fingerprint, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::own(
            "--ask asks you whether the key is the right one, and standard input is no terminal. Give the fingerprint \
             that `afield key` prints on the node",
        ));
    }
    let key = nodes::ask_key(address, &settings.key()).map_err(Failure::own)?;
    let mut terminal = io::stderr().lock();
    let asked = write!(
        terminal,
        "The node at {address} has the key\n  {key}\n`afield key` prints the right one on the node. Trust this one? (yes/no) "
    )
    .and_then(|()| terminal.flush());
    let mut answer = String::new();
    asked
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| Failure::own(format!("terminal: {}", plain(&error))))?;
    match answer.trim() {
        "yes" | "y" => Ok(key),
        _ => Err(Failure::own("not trusted")),
    }
}

fn remove(settings: &Settings, name: &str) -> Result<u8, Failure> {
    if trust::remove(&settings.trusted_nodes(), name)? {
        output(&format!(
            "{name} is not trusted any more. Jobs that are there go on; `afield agent stop` ends the connection when there are none\n"
        ))?;
        return Ok(0);
    }
    Err(Failure::own(format!(
        "no trusted node is named `{name}` (see `afield trust list`)"
    )))
}

fn admit(settings: &Settings, fingerprint: &str, remark: &str, options: &str) -> Result<u8, Failure> {
    let key: Fingerprint = fingerprint.parse().map_err(Failure::own)?;
    let path = settings.authorized_homes();
    if admission::add(&path, options, key, remark)? {
        output(&format!("{key} is admitted\n"))?;
        return Ok(0);
    }
    Err(Failure::own(format!(
        "{key} stands in {} already: change its line there",
        path.display()
    )))
}

fn revoke(settings: &Settings, home: &str) -> Result<u8, Failure> {
    let gone = admission::remove(&settings.authorized_homes(), home)?;
    if gone.is_empty() {
        return Err(Failure::own(format!(
            "no admitted home has the key or remark `{home}` (see `afield trust list`)"
        )));
    }
    for key in gone {
        output(&format!("{key} is not admitted any more\n"))?;
    }
    Ok(0)
}

fn list(settings: &Settings, as_json: bool) -> Result<u8, Failure> {
    let nodes = TrustedNodes::load(&settings.trusted_nodes())?;
    let homes = AuthorizedHomes::load(&settings.authorized_homes())?;
    let text = if as_json {
        let nodes: Vec<_> = nodes
            .all()
            .iter()
            .map(|node| json!({"name": node.name, "address": node.address, "key": node.key.to_string()}))
            .collect();
        let homes: Vec<_> = homes
            .homes()
            .map(|home| json!({"key": home.key.to_string(), "options": home.options, "remark": home.remark}))
            .collect();
        format!("{:#}\n", json!({"nodes": nodes, "homes": homes}))
    } else {
        let mut text = String::new();
        for node in nodes.all() {
            text.push_str(&format!("node {} {} {}\n", node.name, node.address, node.key));
        }
        for home in homes.homes() {
            let words = [home.options.as_str(), &home.key.to_string(), &home.remark];
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            text.push_str(&format!("home {}\n", words.join(" ")));
        }
        for mistake in homes.mistakes() {
            text.push_str(&format!("unusable {mistake}\n"));
        }
        text
    };
    output(&text)?;
    Ok(0)
}
