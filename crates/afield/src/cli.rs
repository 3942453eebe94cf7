//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Run an unmodified program's computing on another machine
#[derive(Debug, Parser)]
#[command(
    name = "afield",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Default, Args)]
pub struct Common {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    pub config: Option<PathBuf>,
    /// Directory where agent and jobs meet
    #[arg(long, global = true, value_name = "DIR", display_order = 100)]
    pub runtime_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command with its computing on a node
    Run(Run),
    /// List processes that are afield
    Ps(Ps),
    /// Show why a process that is afield waits for home
    Explain(Explain),
    /// Lend this machine's CPUs: the node daemon
    Node(Node),
    /// The home daemon (started on demand)
    Agent(Agent),
    /// Show this machine's key
    Key(Key),
    /// List or change which nodes and homes are trusted
    Trust(Trust),
    /// Check what afield needs of this machine
    Doctor(Doctor),
    /// List system calls and where each is executed
    Syscalls(Syscalls),
    /// Measure what computing afield costs here
    Bench(crate::bench::Bench),
    /// Do one benchmark's work and print nanoseconds per operation
    #[command(hide = true)]
    BenchWork {
        /// Which
        work: crate::bench::Name,
        /// Where the peer serves
        port: Option<u16>,
    },
    /// Relay connections to a port of this host
    #[command(hide = true)]
    BenchRelay {
        /// Which
        port: u16,
    },
    /// Relay connections, each way after a delay
    #[command(hide = true)]
    BenchDelay {
        /// Where to listen
        listen: std::net::SocketAddr,
        /// Where to connect
        target: std::net::SocketAddr,
        /// The delay
        microseconds: u32,
        /// Bytes in a second, if that is limited
        rate: Option<std::num::NonZeroU64>,
    },
    /// Show the configuration
    Config(Config),
    /// Show the version
    Version,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "afield run [OPTIONS] [--] COMMAND [ARGUMENT]...",
    after_help = "Files, descriptors, process id, terminal and identity stay those of this machine.\n\
                  Exit status: the command's; 125 if afield itself fails, 126 if the command cannot be\n\
                  executed, 127 if it is not found."
)]
pub struct Run {
    /// `embedded`, `home` (natively), a trusted node, or ssh://[USER@]HOST
    #[arg(long, value_name = "NODE")]
    pub on: Option<String>,
    /// Name system calls that are not possible afield, once each
    #[arg(short, long)]
    pub verbose: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Ps {
    /// List the links to nodes instead
    #[arg(long)]
    pub links: bool,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Round trips to home by their cause, of the process and of its whole job. The PID may be\n\
                  that of a job which has ended, if it is one of the last."
)]
pub struct Explain {
    /// The process, as `afield ps` lists it
    pub pid: u32,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "It serves the homes whose keys stand in its file `authorized_homes`; `afield trust admit`\n\
                  adds one. When it serves, it prints its address, and the line to type at home."
)]
pub struct Node {
    /// Address and port to listen on, for example 0.0.0.0:7070
    #[arg(long, value_name = "ADDR:PORT", required_unless_present_any = ["embedded_fd", "bridge"])]
    pub listen: Option<String>,
    /// Serve one session on an inherited descriptor
    #[arg(long, value_name = "N", hide = true, conflicts_with = "listen")]
    pub embedded_fd: Option<i32>,
    /// Lead the home with this key, by standard input and output, to a daemon of this account's own
    #[arg(long, value_name = "KEY", hide = true, conflicts_with_all = ["listen", "embedded_fd"])]
    pub bridge: Option<String>,
    /// What to log on standard error [default: warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "`afield run` starts it when there is none; it ends by itself when idle for long."
)]
pub struct Agent {
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    #[command(flatten)]
    pub run: AgentRun,
}

#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Serve, in the foreground (what no subcommand does, too)
    Run(AgentRun),
    /// End the running agent
    Stop {
        /// Even if processes are afield; they end with it
        #[arg(long)]
        force: bool,
    },
    /// Tell about the running agent
    Status {
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Default, Args)]
pub struct AgentRun {
    /// End when idle for so long; 0: never [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub idle_seconds_max: Option<u64>,
    /// Threads per link that take requests [default: 4]
    #[arg(long, value_name = "N")]
    pub readers: Option<u64>,
    /// What to log on standard error [default: warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "It is made if there is none, and is this user's on this machine, as home and as node.\n\
                  Others know it by the fingerprint, the first line."
)]
pub struct Key {
    /// Print the fingerprint only
    #[arg(long)]
    pub fingerprint: bool,
}

#[derive(Debug, Args)]
pub struct Trust {
    #[command(subcommand)]
    pub command: TrustCommand,
}

#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// At home: trust a node, which `run --on NAME` then takes
    Add {
        /// What it is to be called here
        name: String,
        /// HOST:PORT
        address: String,
        /// Its key, as `afield key` prints it there
        #[arg(required_unless_present = "ask")]
        fingerprint: Option<String>,
        /// Ask it for its key, and you whether that is the right one
        #[arg(long, conflicts_with = "fingerprint")]
        ask: bool,
    },
    /// At home: trust a node no more
    Remove {
        /// Its name
        name: String,
    },
    /// On a node: admit a home
    Admit {
        /// Its key, as `afield key` prints it there
        fingerprint: String,
        /// Words by which you know it
        remark: Vec<String>,
        /// What it may have: cpus=N,memory=SIZE,guests=N,hours=[DAYS/]HH:MM-HH:MM
        #[arg(long, value_name = "OPTIONS")]
        options: Option<String>,
    },
    /// On a node: admit a home no more, and end its sessions
    Revoke {
        /// Its key or remark
        home: String,
    },
    /// List trusted nodes and admitted homes
    List {
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Every feature is really tried, as home and as node. Exits with 1 if one that is required\n\
                        is missing."
)]
pub struct Doctor {
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Syscalls {
    /// Only these calls, by name or number
    #[arg(value_name = "CALL")]
    pub calls: Vec<String>,
    /// Print the page docs/syscalls.md
    #[arg(long, conflicts_with = "calls")]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective values and where each comes from
    Show,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("afield").chain(arguments.iter().copied()))
    }

    fn run(arguments: &[&str]) -> Run {
        match parse(arguments).unwrap().command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_after_the_command_are_its_own() {
        let job = run(&[
            "run", "--on", "x", "ls", "-v", "--on", "y", "--config", "z", "--", "--help",
        ]);
        assert_eq!(job.on.as_deref(), Some("x"));
        assert!(!job.verbose);
        assert_eq!(
            job.command,
            ["ls", "-v", "--on", "y", "--config", "z", "--", "--help"]
        );
        assert_eq!(run(&["run", "-v", "--", "-odd", "--"]).command, ["-odd", "--"]);
        assert_eq!(run(&["run", "--", "--", "x"]).command, ["--", "x"]);
        assert_eq!(run(&["run", "sh", "-c", ""]).command, ["sh", "-c", ""]);
        assert!(parse(&["run"]).is_err());
        assert!(parse(&["run", "--on", "x"]).is_err());
        assert!(parse(&["run", "--unknown", "ls"]).is_err());
    }

    #[test]
    fn a_node_listens_or_is_embedded() {
        assert!(parse(&["node"]).is_err());
        assert!(parse(&["node", "--embedded-fd", "3"]).is_ok());
        assert!(parse(&["node", "--listen", "127.0.0.1:1", "--embedded-fd", "3"]).is_err());
    }

    #[test]
    fn help_fits_a_screen() {
        let mut pages: Vec<Vec<String>> = vec![Vec::new()];
        while let Some(page) = pages.pop() {
            let mut command = &Cli::command();
            for name in &page {
                command = command.find_subcommand(name).unwrap();
            }
            let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
            let names = shown.map(|sub| sub.get_name().to_owned());
            pages.extend(names.map(|name| page.iter().cloned().chain([name]).collect()));
            let mut arguments: Vec<&str> = page.iter().map(String::as_str).collect();
            arguments.push("-h");
            let text = parse(&arguments).unwrap_err().to_string();
            assert!(text.lines().count() <= 24, "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        }
    }

    #[test]
    fn the_first_page_names_every_command() {
        let help = Cli::command().render_help().to_string();
        let expected = "\
Run an unmodified program's computing on another machine

Usage: afield [OPTIONS] <COMMAND>

Commands:
  run       Run a command with its computing on a node
  ps        List processes that are afield
  explain   Show why a process that is afield waits for home
  node      Lend this machine's CPUs: the node daemon
  agent     The home daemon (started on demand)
  key       Show this machine's key
  trust     List or change which nodes and homes are trusted
  doctor    Check what afield needs of this machine
  syscalls  List system calls and where each is executed
  bench     Measure what computing afield costs here
  config    Show the configuration
  version   Show the version

Options:
      --config <FILE>      Configuration file
      --runtime-dir <DIR>  Directory where agent and jobs meet
  -h, --help               Print help
  -V, --version            Print version
";
        assert_eq!(help, expected);
    }
}
