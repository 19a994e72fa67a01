//! The tree behind [`Tasks`](crate::Tasks): one node per room, the process at its root.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::report::End;

/// What all nodes of one tree share.
pub(crate) struct Shared {
    pub(crate) end: watch::Sender<Option<End>>,
    /// Counts tasks that ended; a drain watches it.
    pub(crate) ended: watch::Sender<u64>,
    /// The runtime the tree was made on, so that plain threads may spawn too.
    pub(crate) runtime: Option<Handle>,
}

pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) token: CancellationToken,
    pub(crate) shared: Arc<Shared>,
    /// Held, so that a node outlives what runs below it.
    parent: Option<Arc<Node>>,
    /// Weak, so that a node without handle and without task is gone.
    children: Mutex<Vec<Weak<Node>>>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    next: u64,
    tasks: BTreeMap<u64, Entry>,
}

struct Entry {
    name: &'static str,
    abort: Option<AbortHandle>,
}

impl Node {
    pub(crate) fn root(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self::bare("", shared, None))
    }

    pub(crate) fn child(parent: &Arc<Self>, name: &'static str) -> Arc<Self> {
        let node = Arc::new(Self::bare(name, parent.shared.clone(), Some(parent.clone())));
        let mut children = parent.children.lock();
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(&node));
        drop(children);
        if parent.shared.end.borrow().is_some() {
            node.token.cancel();
        }
        node
    }

    fn bare(name: &'static str, shared: Arc<Shared>, parent: Option<Arc<Self>>) -> Self {
        Self {
            name,
            token: CancellationToken::new(),
            shared,
            parent,
            children: Mutex::new(Vec::new()),
            running: Mutex::new(Running::default()),
        }
    }

    pub(crate) fn top(self: &Arc<Self>) -> Arc<Self> {
        let mut node = self;
        while let Some(parent) = &node.parent {
            node = parent;
        }
        node.clone()
    }

    /// `room/task`, without the nameless root.
    pub(crate) fn path(&self, task: &str) -> String {
        let mut path = task.to_owned();
        let mut node = Some(self);
        while let Some(here) = node {
            if !here.name.is_empty() {
                path = format!("{}/{path}", here.name);
            }
            node = here.parent.as_deref();
        }
        path
    }

    pub(crate) fn enter(self: &Arc<Self>, name: &'static str) -> Guard {
        let mut running = self.running.lock();
        let id = running.next;
        running.next = running.next.wrapping_add(1);
        running.tasks.insert(id, Entry { name, abort: None });
        Guard {
            node: self.clone(),
            id,
        }
    }

    pub(crate) fn abort_with(&self, id: u64, abort: AbortHandle) {
        if let Some(entry) = self.running.lock().tasks.get_mut(&id) {
            entry.abort = Some(abort);
        }
    }

    /// Cancels every node below which nothing runs any more; true when the whole subtree has ended.
    ///
    /// Called at the beginning of a drain and after every end of a task during it.
    pub(crate) fn advance(&self) -> bool {
        // Every child has to hear of it, so nothing here may stop at the first that still runs.
        let mut children_ended = true;
        for child in self.live_children() {
            children_ended &= child.advance();
        }
        if !children_ended {
            return false;
        }
        // Wakes tasks, so no lock is held here.
        self.token.cancel();
        self.running.lock().tasks.is_empty()
    }

    /// Levels that have not ended yet; 0 when nothing runs.
    pub(crate) fn levels_left(&self) -> u32 {
        let below = self
            .live_children()
            .iter()
            .map(|child| child.levels_left())
            .max()
            .unwrap_or(0);
        if below == 0 && self.token.is_cancelled() && self.running.lock().tasks.is_empty() {
            return 0;
        }
        below.saturating_add(1)
    }

    /// Gives up what was told to end and did not; children first.
    pub(crate) fn abandon(&self, stragglers: &mut Vec<String>) {
        for child in self.live_children() {
            child.abandon(stragglers);
        }
        if !self.token.is_cancelled() {
            return;
        }
        let tasks = std::mem::take(&mut self.running.lock().tasks);
        for entry in tasks.into_values() {
            stragglers.push(self.path(entry.name));
            if let Some(abort) = entry.abort {
                abort.abort();
            }
        }
    }

    pub(crate) fn running(&self, paths: &mut Vec<String>) {
        for child in self.live_children() {
            child.running(paths);
        }
        paths.extend(
            self.running
                .lock()
                .tasks
                .values()
                .map(|entry| self.path(entry.name)),
        );
    }

    fn live_children(&self) -> Vec<Arc<Node>> {
        self.children.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Present while a task runs; its drop says that the task is over, however it ended.
pub(crate) struct Guard {
    pub(crate) node: Arc<Node>,
    pub(crate) id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.node.running.lock().tasks.remove(&self.id);
        if self.node.shared.end.borrow().is_some() {
            self.node.top().advance();
        }
        self.node
            .shared
            .ended
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}
