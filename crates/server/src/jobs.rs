//! Jobs while they are alive, and the queue in which they wait.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::JobError;
use crate::records::{JobRecord, Picture, Status, Task};

/// A picture that is not finished.
#[derive(Debug)]
pub struct Preview {
    /// Which one of the job's.
    pub place: usize,
    /// PNG.
    pub png: Vec<u8>,
    /// The share of it that is there, 0 to 1.
    pub share: f64,
}

/// What is known of a job by now.
#[derive(Clone, Debug)]
pub struct JobState {
    /// Where it is.
    pub status: Status,
    /// Image ids so far.
    pub done: usize,
    /// Image ids in all; 0 where that is not known yet.
    pub total: usize,
    /// The latest of each picture that is being drawn.
    pub previews: BTreeMap<usize, Arc<Preview>>,
    /// Those that a stream has to get, all of them.
    pub partials: Vec<Arc<Preview>>,
    /// Finished pictures, by their places.
    pub pictures: Vec<Picture>,
    /// Why it failed.
    pub error: Option<JobError>,
}

/// A job that is not over.
#[derive(Debug)]
pub struct Job {
    /// As it is kept, when it was submitted.
    pub record: JobRecord,
    /// Partial pictures that a stream has to get.
    pub partials: usize,
    state: watch::Sender<JobState>,
    cancelled: AtomicBool,
    /// Images that were handed to the model.
    handed: AtomicUsize,
    /// Who looks at previews.
    watchers: AtomicUsize,
}

impl Job {
    /// One that waits.
    pub fn new(record: JobRecord, partials: usize) -> Arc<Self> {
        let (state, _) = watch::channel(JobState {
            status: Status::Queued,
            done: 0,
            total: 0,
            previews: BTreeMap::new(),
            partials: Vec::new(),
            pictures: Vec::new(),
            error: None,
        });
        Arc::new(Job {
            record,
            partials,
            state,
            cancelled: AtomicBool::new(false),
            handed: AtomicUsize::new(0),
            watchers: AtomicUsize::new(0),
        })
    }

    /// Images that the model samples for it.
    pub fn sampled(&self) -> usize {
        match &self.record.task {
            Task::Generate { request } => request.sampled(),
            other => other.n(),
        }
    }

    /// What is known by now.
    pub fn state(&self) -> JobState {
        self.state.borrow().clone()
    }

    /// What is known, from now on.
    pub fn watch(&self) -> watch::Receiver<JobState> {
        self.state.subscribe()
    }

    /// Something happened.
    pub fn update(&self, change: impl FnOnce(&mut JobState)) {
        self.state.send_modify(change);
    }

    /// Image ids were added. Wakes nobody but who looks at the job while it runs: those who wait for its end need not be
    /// woken at every id.
    pub fn progress(&self, more: usize) {
        self.state.send_if_modified(|state| {
            state.done += more;
            self.has_watchers()
        });
    }

    /// Whether a model began with it.
    pub fn has_started(&self) -> bool {
        self.handed.load(Ordering::Relaxed) > 0
    }

    /// Asks for its end.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether its end was requested.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Previews are drawn for as long as the guard lives.
    pub fn watch_previews(self: &Arc<Self>) -> Watcher {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher(self.clone())
    }

    /// Whether somebody looks at previews.
    pub fn has_watchers(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }
}

/// Somebody who looks at a job's previews.
#[derive(Debug)]
pub struct Watcher(Arc<Job>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The jobs that are not over, by their names.
#[derive(Debug)]
pub struct Jobs {
    live: Mutex<HashMap<String, Arc<Job>>>,
    most: usize,
}

impl Jobs {
    /// At most this many at once.
    pub fn new(most: usize) -> Self {
        Jobs {
            live: Mutex::default(),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job in, unless there are too many.
    pub fn admit(&self, job: &Arc<Job>) -> bool {
        let mut live = self.lock();
        if live.len() >= self.most {
            return false;
        }
        live.insert(job.record.id.clone(), job.clone());
        true
    }

    /// Takes a job in that was acknowledged before this process started.
    pub fn readmit(&self, job: &Arc<Job>) {
        self.lock().insert(job.record.id.clone(), job.clone());
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<Arc<Job>> {
        self.lock().get(id).cloned()
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<Arc<Job>> = self.lock().values().cloned().collect();
        jobs.sort_by(|a, b| a.record.created.total_cmp(&b.record.created));
        jobs
    }

    /// One is over.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A part of the work that a model takes at once.
#[derive(Debug)]
pub enum Unit {
    /// Images of a prompt, for the running batch.
    Images {
        /// Whose.
        job: Arc<Job>,
        /// The first one.
        first: usize,
        /// How many.
        count: usize,
    },
    /// A job that is not decoded in the batch.
    Job(Arc<Job>),
}

/// Images of one job that are handed out at a time: then it is another client's turn.
const TURN: usize = 4;

/// Jobs that wait for a model. Clients take turns; the jobs of a client are done in their order.
#[derive(Debug, Default)]
pub struct Queue {
    clients: VecDeque<(String, VecDeque<Arc<Job>>)>,
}

impl Queue {
    /// A job waits.
    pub fn push(&mut self, job: Arc<Job>) {
        let client = &job.record.client;
        match self.clients.iter_mut().find(|(name, _)| name == client) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.clients.push_back((client.clone(), [job].into())),
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Takes a job out of it.
    pub fn remove(&mut self, id: &str) {
        self.retain(|job| job.record.id != id);
    }

    /// Takes a job out of it of which no part was handed out. Returns whether it was there.
    pub fn remove_untouched(&mut self, id: &str) -> bool {
        let mut found = false;
        self.retain(|job| {
            let own = job.record.id == id && !job.has_started();
            found |= own;
            !own
        });
        found
    }

    /// Takes jobs out of it that nobody wants any more.
    pub fn take_cancelled(&mut self) -> Vec<Arc<Job>> {
        let mut cancelled = Vec::new();
        self.retain(|job| {
            if job.is_cancelled() {
                cancelled.push(job.clone());
            }
            !job.is_cancelled()
        });
        cancelled
    }

    fn retain(&mut self, mut keep: impl FnMut(&Arc<Job>) -> bool) {
        for (_, jobs) in &mut self.clients {
            jobs.retain(&mut keep);
        }
        self.clients.retain(|(_, jobs)| !jobs.is_empty());
    }

    /// All that wait.
    pub fn drain(&mut self) -> Vec<Arc<Job>> {
        std::mem::take(&mut self.clients)
            .into_iter()
            .flat_map(|(_, jobs)| jobs)
            .collect()
    }

    /// The next work: at most `rows` images for the batch, or, where `whole` says so, a job of another kind. While
    /// the server stops, only what was begun is handed out.
    pub fn take(&mut self, rows: usize, whole: bool, stopping: bool) -> Option<Unit> {
        for number in 0..self.clients.len() {
            let (client, mut jobs) = self.clients.remove(number)?;
            let fits = |job: &Arc<Job>| match job.record.task {
                Task::Generate { .. } => rows > 0,
                _ => whole,
            } && (!stopping || job.has_started());
            // While a job of another kind runs, images that come after it in a client's queue need not wait.
            let Some(place) = jobs.iter().position(fits) else {
                self.clients.insert(number, (client, jobs));
                continue;
            };
            let job = jobs[place].clone();
            let first = job.handed.load(Ordering::Relaxed);
            let unit = match job.record.task {
                Task::Generate { .. } => {
                    let count = (job.sampled() - first).min(rows).min(TURN);
                    job.handed.store(first + count, Ordering::Relaxed);
                    if first + count == job.sampled() {
                        jobs.remove(place);
                    }
                    Unit::Images { job, first, count }
                }
                _ => {
                    job.handed.store(1, Ordering::Relaxed);
                    jobs.remove(place);
                    Unit::Job(job)
                }
            };
            if !jobs.is_empty() {
                self.clients.push_back((client, jobs));
            }
            return Some(unit);
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use impasto::{Edit, Generate, Vary};

    use super::*;

    fn job(client: &str, id: &str, task: Task) -> Arc<Job> {
        let record = JobRecord {
            id: id.into(),
            client: client.into(),
            model: "m".into(),
            task,
            attached: false,
            status: Status::Queued,
            created: 0.0,
            started: None,
            finished: None,
            error: None,
        };
        Job::new(record, 0)
    }

    fn images(n: usize) -> Task {
        let request = Generate {
            n,
            ..Generate::new("a cat", 1)
        };
        Task::Generate { request }
    }

    fn vary() -> Task {
        let picture = impasto::Image::filled(8, 8, [0; 3]);
        Task::Vary {
            request: Vary::new(picture, 0.5, 1),
        }
    }

    fn name(unit: Option<Unit>) -> String {
        match unit {
            Some(Unit::Images { job, first, count }) => {
                format!("{}:{first}+{count}", job.record.id)
            }
            Some(Unit::Job(job)) => job.record.id.clone(),
            None => "none".into(),
        }
    }

    #[test]
    fn clients_take_turns_whatever_the_size_of_their_jobs() {
        let mut queue = Queue::default();
        queue.push(job("ada", "large", images(10)));
        queue.push(job("ada", "later", images(1)));
        queue.push(job("bob", "small", images(1)));
        let mut order = Vec::new();
        while !queue.is_empty() {
            order.push(name(queue.take(16, true, false)));
        }
        assert_eq!(
            order,
            [
                "large:0+4",
                "small:0+1",
                "large:4+4",
                "large:8+2",
                "later:0+1"
            ]
        );
    }

    #[test]
    fn images_pass_by_a_job_of_another_kind_while_one_runs() {
        let mut queue = Queue::default();
        queue.push(job("ada", "vary", vary()));
        queue.push(job("ada", "images", images(3)));
        assert_eq!(name(queue.take(2, false, false)), "images:0+2");
        assert_eq!(name(queue.take(0, false, false)), "none");
        // A server that stops finishes what was begun.
        assert_eq!(name(queue.take(2, true, true)), "images:2+1");
        assert_eq!(name(queue.take(2, true, true)), "none");
        assert_eq!(name(queue.take(2, true, false)), "vary");
        assert!(queue.is_empty());
    }

    #[test]
    fn a_job_that_waits_can_be_taken_out() {
        let mut queue = Queue::default();
        queue.push(job("ada", "a", images(8)));
        queue.push(job("ada", "b", images(1)));
        assert_eq!(name(queue.take(16, true, false)), "a:0+4");
        assert!(!queue.remove_untouched("a"), "a part of it is being drawn");
        assert!(queue.remove_untouched("b"));
        assert!(queue.take_cancelled().is_empty());
        let Some(Unit::Images { job, .. }) = queue.take(1, true, false) else {
            panic!("a has images left");
        };
        job.cancel();
        assert_eq!(queue.take_cancelled().len(), 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn tasks_are_kept_as_they_are() {
        let mut edit = Edit::new(
            impasto::image::Original::from(&impasto::Image::filled(8, 8, [0; 3])),
            impasto::edit::Region::Outpaint(impasto::edit::Sides {
                left: 8,
                ..Default::default()
            }),
            u64::MAX,
        );
        edit.prompt = Some("红色".into());
        let text = serde_json::to_string(&Task::Edit {
            request: edit,
            mask: true,
        })
        .unwrap();
        let Task::Edit { request, mask } = serde_json::from_str(&text).unwrap() else {
            panic!("{text}");
        };
        assert!(
            mask && request.seed == u64::MAX && request.prompt.as_deref() == Some("红色"),
            "{text}"
        );
    }
}
