//! Working directories.
//!
//! A deputy's is its guest's. The node's kernel asks for permission before it changes one, and the session marks that
//! request, so that the answer is where the deputy learns of it.
//!
//! A job starts where its shell is, even if no path leads there: the directory was removed, or one above it is closed to its user.
//! The node's kernel has to walk there all the same. Until the job's program is executed, lookups made in its name are shown
//! the way ([`Starts`]) that was found from both its ends.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afield_abi::fuse::{ACCESS_BEGINS, ACCESS_DIRECTORY, AccessRequest, ROOT_NODE};
use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use super::decode::Request;
use super::nodes::{Identity, Node, Pin, open_path, stat_descriptor};
use super::{FileService, Outcome, Result, proc_path};

/// Keeps a directory within reach that somebody works in.
#[derive(Debug, Clone)]
pub struct Occupied(#[expect(dead_code, reason = "it is there to be held")] Pin);

/// One name on the way to a working directory.
#[derive(Debug)]
struct Step {
    parent: u64,
    name: CString,
    node: Arc<Node>,
    pin: Pin,
}

/// The end of a way to a working directory.
#[derive(Debug, Default)]
struct Way {
    steps: Vec<Step>,
    /// These names lead elsewhere for everybody else, or nowhere.
    is_astray: bool,
}

/// Ways to the working directories of jobs that are being started, by the job's pid.
#[derive(Debug, Default)]
pub struct Starts {
    ways: Mutex<HashMap<u32, Way>>,
    /// There are some.
    any: AtomicBool,
}

impl Starts {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a name leads, if it is on the way of the job that asks.
    pub(super) fn find(&self, pid: u32, parent: u64, name: &CStr) -> Option<Arc<Node>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let ways = self.lock();
        let step = ways
            .get(&pid)?
            .steps
            .iter()
            .find(|step| step.parent == parent && *step.name == *name)?;
        Some(Arc::clone(&step.node))
    }

    /// Whether what is in a directory is not the same for a job that is being started and for all others.
    pub(super) fn differs(&self, directory: u64) -> bool {
        let leads_on = |way: &Way| way.steps.iter().any(|step| step.parent == directory);
        self.any.load(Ordering::Relaxed) && self.lock().values().any(|way| way.is_astray && leads_on(way))
    }

    /// Whether others do not come to a job's working directory by its path.
    pub(super) fn is_astray(&self, pid: u32) -> bool {
        self.lock().get(&pid).is_some_and(|way| way.is_astray)
    }
}

impl FileService {
    /// Shows a job that is about to start the way to its working directory. `path` is what the kernel says where that is, or
    /// was.
    ///
    /// # Errors
    /// The errno of what could not be reached from either end.
    pub fn begin_start(&self, pid: u32, directory: OwnedFd, path: &[u8]) -> std::result::Result<(), i32> {
        let way = self.way_to(directory, path).map_err(Errno::raw_os_error)?;
        let mut ways = self.starts.lock();
        let old = ways.insert(pid, way);
        self.starts.any.store(true, Ordering::Relaxed);
        drop(ways);
        self.leave(old.unwrap_or_default());
        Ok(())
    }

    /// The job has started, or will not.
    pub fn end_start(&self, pid: u32) -> Vec<Occupied> {
        if !self.starts.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut ways = self.starts.lock();
        let way = ways.remove(&pid);
        self.starts.any.store(!ways.is_empty(), Ordering::Relaxed);
        drop(ways);
        self.leave(way.unwrap_or_default())
    }

    fn leave(&self, way: Way) -> Vec<Occupied> {
        way.steps
            .into_iter()
            .map(|step| {
                self.forget_node(step.node.id, 1);
                Occupied(step.pin)
            })
            .collect()
    }

    fn way_to(&self, directory: OwnedFd, path: &[u8]) -> Result<Way> {
        let names = path
            .strip_prefix(b"/")
            .ok_or(Errno::NOENT)?
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .map(|name| CString::new(name).map_err(|_| Errno::INVAL))
            .collect::<Result<Vec<_>>>()?;
        // From above, as far as that goes: what is at index n is the directory that has the name n in it.
        let root = self.descriptor(ROOT_NODE)?;
        let mut above = vec![open_path(&*root, c".")?];
        for name in &names {
            match open_path(&above[above.len() - 1], name) {
                Ok(next) => above.push(next),
                Err(_) => break,
            }
        }
        let leads_there = above.len() > names.len()
            && Identity::of(&stat_descriptor(&above[names.len()])?)
                == Identity::of(&stat_descriptor(&directory)?);
        // From below, until both meet.
        let mut below = vec![directory];
        let mut index = names.len();
        let meeting = loop {
            let Some(parent_index) = index.checked_sub(1) else {
                return Err(Errno::NOENT);
            };
            let from_above = above
                .get(parent_index)
                .map(|parent| Ok::<_, Errno>(Identity::of(&stat_descriptor(parent)?)))
                .transpose()?;
            match (open_path(&below[below.len() - 1], c".."), from_above) {
                (Ok(parent), identity) => {
                    let found = Identity::of(&stat_descriptor(&parent)?);
                    if identity == Some(found) {
                        break parent_index;
                    }
                    below.push(parent);
                }
                // It cannot be asked. What is there by that name is as good as can be known.
                (Err(Errno::ACCESS), Some(_)) => break parent_index,
                (Err(errno), _) => return Err(errno),
            }
            index = parent_index;
        };
        let mut held = above.swap_remove(meeting);
        let mut way = Vec::new();
        let mut parent = match meeting {
            0 => ROOT_NODE,
            _ => {
                let node = self.nodes.enter(Identity::of(&stat_descriptor(&held)?), None);
                self.nodes.keep(&node, held);
                let id = node.id;
                // It is looked up on the way; until then it has to keep its number.
                way.push(Step {
                    parent: 0,
                    name: CString::default(),
                    pin: node.pin(),
                    node,
                });
                id
            }
        };
        for (name, directory) in names[meeting..].iter().zip(below.into_iter().rev()) {
            held = directory;
            let identity = Identity::of(&stat_descriptor(&held)?);
            let node = self.nodes.enter(identity, Some((parent, name)));
            self.nodes.keep(&node, held);
            let step = Step {
                parent,
                name: name.clone(),
                pin: node.pin(),
                node,
            };
            parent = step.node.id;
            way.push(step);
        }
        Ok(Way {
            steps: way,
            is_astray: !leads_there,
        })
    }

    pub(super) fn access(&self, request: &mut Request<'_>) -> Result<Outcome> {
        let record: AccessRequest = request.record()?;
        let pid = request.header.pid;
        let node = self.nodes.get(request.header.node)?;
        let marks = ACCESS_DIRECTORY | ACCESS_BEGINS;
        let access = Access::from_bits(record.mask & !marks).ok_or(Errno::INVAL)?;
        let enters = record.mask & ACCESS_DIRECTORY != 0;
        let pin = node.pin();
        let descriptor = self.nodes.descriptor(&node, &self.credentials)?;
        if record.mask & marks == marks {
            self.nodes.restore(&node, &descriptor);
            return Ok(Outcome::Begins {
                pid,
                occupied: Occupied(pin),
            });
        }
        // The request carries the ids that count; the service has taken them on as its effective ones.
        rustix::fs::accessat(
            rustix::fs::CWD,
            &*proc_path(&*descriptor),
            access,
            AtFlags::EACCESS,
        )?;
        if !enters {
            return Ok(Outcome::Reply);
        }
        self.nodes.restore(&node, &descriptor);
        Ok(Outcome::Directory {
            pid,
            descriptor: rustix::io::fcntl_dupfd_cloexec(&*descriptor, 0)?,
            occupied: Occupied(pin),
        })
    }
}
