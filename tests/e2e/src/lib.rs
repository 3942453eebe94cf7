//! The harness of the end-to-end suite: each [`Case`] runs natively and afield, and everything that can be seen of
//! the two runs is compared: output, exit status, and the tree of files left behind.
//!
//! `tests/*.rs` hold the cases, as data, one file per family. A case becomes one test per [`Mode`]:
//!
//! ```text
//! cargo test --release -p afield-e2e --test shell                   # a family
//! cargo test --release -p afield-e2e --test shell pipeline::        # one case in all modes
//! cargo test --release -p afield-e2e -- ::tcp                       # one mode of all cases
//! ```
//!
//! | environment | meaning |
//! |---|---|
//! | `AFIELD_BIN` | the program under test; otherwise it is built by cargo |
//! | `AFIELD_E2E_KEEP` | keep the directories of failed cases, and say where they are |
//! | `AFIELD_E2E_SHOW` | print what each case gives natively (with `-- --nocapture`) |
//! | `AFIELD_E2E_SECONDS` | give no run more time than this |
//! | `AFIELD_E2E_CONFORMANCE` | where `cargo install --root` has put fsx and pjdfstest |
//! | `AFIELD_E2E_SEED` | the seed of the tests that choose at random, or `new` for one that nobody has tried |
//! | `AFIELD_FILES_CACHE` | passed on: whether nodes keep what they know of files |
//! | `CI` | `true`: what cannot run here is a failure, not a skip |

mod arena;
mod case;
mod compare;
pub mod mask;
mod network;
mod process;
mod product;
mod programs;
mod random;
mod run;
pub mod samples;
mod sys;
mod terminal;
mod tools;
mod tree;

pub use arena::{Arena, Job};
pub use case::{Case, Stdin, check, check_with};
pub use process::{Process, Watch};
pub use random::Random;
pub use run::{Ended, Outcome, Running};
pub use terminal::{Pair, Session, Terminal};
pub use tools::{need, skip};

/// Where the computing of a case is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// No afield at all: shows that the case itself gives the same result each time.
    Native,
    /// `afield run` without a configuration: the agent's own node.
    Embedded,
    /// A node daemon in another network namespace, reached over TCP.
    Tcp,
}

/// Where a case runs, and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    pub place: Place,
    /// As an ordinary user, where the suite itself is run by root.
    pub user: bool,
}

impl Mode {
    /// Whether a test runs in this mode; says so if it cannot.
    pub fn is_wanted(self, test: &str) -> bool {
        // For an ordinary user, the plain modes are already what is meant.
        (!self.user || rustix::process::getuid().is_root()) && (self.place != Place::Tcp || need(test, "ip"))
    }
}

/// Turns cases into tests: `name: Case;` gives `name::native`, `name::embedded` and `name::tcp`.
#[macro_export]
macro_rules! cases {
    ($($(#[$attribute:meta])* $name:ident: $case:expr;)*) => { $(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn case() -> $crate::Case { $case }
            $crate::cases!(@ $name native Native false);
            $crate::cases!(@ $name embedded Embedded false);
            $crate::cases!(@ $name tcp Tcp false);
        }
    )* };
    (@ $case:ident $name:ident $place:ident $user:literal) => {
        #[test]
        fn $name() {
            let mode = $crate::Mode { place: $crate::Place::$place, user: $user };
            $crate::check(stringify!($case), &case(), mode);
        }
    };
}

/// Turns functions of a [`Mode`] into tests: `function in name;` gives `name::embedded` and `name::tcp`, and the same
/// as an ordinary user where the suite is run by root.
#[macro_export]
macro_rules! modes {
    ($($function:ident in $name:ident;)*) => { $(
        mod $name {
            $crate::modes!(@ $function embedded Embedded false);
            $crate::modes!(@ $function tcp Tcp false);
            $crate::modes!(@ $function embedded_user Embedded true);
            $crate::modes!(@ $function tcp_user Tcp true);
        }
    )* };
    (@ $function:ident $name:ident $place:ident $user:literal) => {
        #[test]
        fn $name() {
            let mode = $crate::Mode { place: $crate::Place::$place, user: $user };
            if mode.is_wanted(stringify!($function)) {
                super::$function(mode);
            }
        }
    };
}

/// As [`cases!`], and the same again as an ordinary user.
#[macro_export]
macro_rules! user_cases {
    ($($(#[$attribute:meta])* $name:ident: $case:expr;)*) => { $(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn case() -> $crate::Case { $case }
            $crate::cases!(@ $name native Native false);
            $crate::cases!(@ $name embedded Embedded false);
            $crate::cases!(@ $name tcp Tcp false);
            $crate::cases!(@ $name native_user Native true);
            $crate::cases!(@ $name embedded_user Embedded true);
            $crate::cases!(@ $name tcp_user Tcp true);
        }
    )* };
}
