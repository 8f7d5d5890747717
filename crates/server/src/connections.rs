//! Connections in a bounded number: where all places are taken, the one that was idle longest gives its place to the next
//! client, so that nobody keeps others out by doing nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// The connections that are open.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    most: usize,
    open: Mutex<Open>,
    /// A place became free, or a connection idle.
    freed: Notify,
}

#[derive(Default)]
struct Open {
    next: u64,
    places: BTreeMap<u64, Arc<State>>,
}

struct State {
    /// Requests whose answers are not sent to the end.
    requests: AtomicUsize,
    idle_since: Mutex<Instant>,
    given_up: Notify,
}

/// A connection's place, free again when it is dropped.
pub struct ConnectionSlot {
    connections: Connections,
    number: u64,
    state: Arc<State>,
}

/// A request of a connection, until its answer is sent.
pub struct InFlight {
    connections: Connections,
    state: Arc<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    /// At most this many at once.
    pub fn new(most: usize) -> Self {
        Connections(Arc::new(Shared {
            most,
            open: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// A place for a new connection, as soon as there is one: all others may be at work.
    pub async fn place(&self) -> ConnectionSlot {
        loop {
            let freed = self.0.freed.notified();
            if let Some(place) = self.try_place() {
                return place;
            }
            freed.await;
        }
    }

    fn try_place(&self) -> Option<ConnectionSlot> {
        let mut open = lock(&self.0.open);
        if open.places.len() >= self.0.most {
            let idle = open
                .places
                .iter()
                .filter(|(_, state)| state.requests.load(Ordering::Acquire) == 0);
            let (&number, _) = idle.min_by_key(|(_, state)| *lock(&state.idle_since))?;
            let state = open.places.remove(&number)?;
            state.given_up.notify_one();
        }
        let (number, state) = (
            open.next,
            Arc::new(State {
                requests: AtomicUsize::new(0),
                idle_since: Mutex::new(Instant::now()),
                given_up: Notify::new(),
            }),
        );
        open.next += 1;
        open.places.insert(number, state.clone());
        Some(ConnectionSlot {
            connections: self.clone(),
            number,
            state,
        })
    }
}

impl ConnectionSlot {
    /// Marks a request; the connection keeps its place until it is answered.
    pub fn request(&self) -> InFlight {
        self.state.requests.fetch_add(1, Ordering::AcqRel);
        InFlight {
            connections: self.connections.clone(),
            state: self.state.clone(),
        }
    }

    /// Returns when another connection gets this place.
    pub async fn given_up(&self) {
        self.state.given_up.notified().await;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.connections.0.open).places.remove(&self.number);
        self.connections.0.freed.notify_one();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *lock(&self.state.idle_since) = Instant::now();
        self.state.requests.fetch_sub(1, Ordering::AcqRel);
        self.connections.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_was_idle_longest_gives_up_its_place_and_who_works_does_not() {
        let connections = Connections::new(3);
        let working = connections.place().await;
        let request = working.request();
        let idle = connections.place().await;
        let later = connections.place().await;
        drop(later.request());
        let next = connections.place().await;
        idle.given_up().await;
        let ended = tokio::time::timeout(Duration::from_millis(20), working.given_up());
        assert!(ended.await.is_err());

        // All are at work: the next one waits for the first answer.
        let (_a, b) = (next.request(), later.request());
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.place().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        drop(b);
        let place = waiting.await.expect("a place");
        later.given_up().await;
        drop((idle, later, request, place));
    }
}
