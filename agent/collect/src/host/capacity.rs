//! How full a filesystem is, asked where it may take for ever.
//!
//! `statvfs` on a filesystem whose server or device is gone does not return and cannot be interrupted. It is
//! asked on a thread; a thread that does not answer within [`ANSWER_MAX`] is left to its filesystem, which is
//! asked again when it has returned. At most [`STUCK_MAX`] threads are kept so.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

/// Longest wait for one filesystem. A disk that is only slow answers from memory.
const ANSWER_MAX: Duration = Duration::from_millis(250);
/// Filesystems that may hang at once; with more, none is asked until one returns.
const STUCK_MAX: usize = 4;

/// Bytes and inodes of a filesystem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub(super) blocks: f64,
    pub(super) free: f64,
    pub(super) available: f64,
    pub(super) files: f64,
    pub(super) files_free: f64,
}

type Answer = Result<Capacity, String>;

/// A thread that asks, one filesystem at a time.
struct Asker {
    points: SyncSender<String>,
    answers: Receiver<Answer>,
}

/// Asks filesystems.
#[derive(Default)]
pub(super) struct Capacities {
    idle: Option<Asker>,
    stuck: Vec<(String, Receiver<Answer>)>,
}

impl Capacity {
    /// What is said of a filesystem that does not answer.
    pub(super) const UNKNOWN: Self = Self {
        blocks: f64::NAN,
        free: f64::NAN,
        available: f64::NAN,
        files: f64::NAN,
        files_free: f64::NAN,
    };
}

impl Capacities {
    /// How full the filesystem at `point` is, within a deadline.
    pub(super) fn of(&mut self, point: &str) -> Answer {
        self.stuck
            .retain(|(_, answers)| matches!(answers.try_recv(), Err(TryRecvError::Empty)));
        if self.stuck.iter().any(|(stuck, _)| stuck == point) {
            return Err("still does not answer".to_owned());
        }
        if self.stuck.len() >= STUCK_MAX {
            return Err("not asked, because other filesystems do not answer".to_owned());
        }
        let asker = match self.idle.take() {
            Some(asker) => asker,
            None => Asker::start(ask).map_err(|error| error.to_string())?,
        };
        self.answer(asker, point)
    }

    fn answer(&mut self, asker: Asker, point: &str) -> Answer {
        if asker.points.send(point.to_owned()).is_err() {
            return Err("the thread that asks has ended".to_owned());
        }
        match asker.answers.recv_timeout(ANSWER_MAX) {
            Ok(answer) => {
                self.idle = Some(asker);
                answer
            }
            Err(_) => {
                self.stuck.push((point.to_owned(), asker.answers));
                Err(format!("does not answer within {ANSWER_MAX:?}"))
            }
        }
    }
}

impl Asker {
    /// Not a task of the agent's tree: nothing but the kernel can end it, and the drain must not wait for it.
    fn start(ask: impl Fn(&str) -> Answer + Send + 'static) -> std::io::Result<Self> {
        let (points, asked) = sync_channel::<String>(1);
        let (answered, answers) = sync_channel::<Answer>(1);
        thread::Builder::new()
            .name("filesystems".to_owned())
            .spawn(move || {
                while let Ok(point) = asked.recv() {
                    if answered.send(ask(&point)).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self { points, answers })
    }
}

fn ask(point: &str) -> Answer {
    let status = statvfs(point).map_err(|error| error.to_string())?;
    let unit = status.fragment_size() as f64;
    Ok(Capacity {
        blocks: status.blocks() as f64 * unit,
        free: status.blocks_free() as f64 * unit,
        available: status.blocks_available() as f64 * unit,
        files: status.files() as f64,
        files_free: status.files_free() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystem_that_hangs_costs_its_deadline_once_and_the_others_nothing() {
        let mut capacities = Capacities::default();
        let (let_go, dead) = sync_channel::<()>(0);
        let hanging = Asker::start(move |_| {
            assert!(dead.recv().is_err());
            Err("gone".to_owned())
        })
        .unwrap();
        assert!(capacities.answer(hanging, "/dead").is_err());
        assert!(
            capacities.of("/dead").unwrap_err().contains("still"),
            "it is not asked again"
        );
        assert!(capacities.of("/").unwrap().blocks > 0.0);
        drop(let_go);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while capacities
            .of("/dead")
            .is_err_and(|reason| reason.contains("still"))
        {
            assert!(
                std::time::Instant::now() < deadline,
                "a filesystem that returned is not asked again"
            );
            thread::yield_now();
        }
    }
}
