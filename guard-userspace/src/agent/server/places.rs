//! The places of a server: how many connections it has at a time, and who gives way to a new one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// On whose account a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::agent) enum Owner {
    /// Root's places are kept for root.
    Root,
    User(u32),
    /// The kernel does not say: a client over TCP.
    Unknown,
}

/// How many connections there may be at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) root: usize,
    /// Of one other user.
    pub(super) user: usize,
    /// Of all other users together.
    pub(super) others: usize,
}

/// The connections of one server. Where there is no room, the oldest connection that the server does not work for gives way: a client that
/// is silent, slow, or does not read cannot keep others out.
#[derive(Debug)]
pub(super) struct Places {
    room: Room,
    next: AtomicU64,
    /// By their numbers, so the oldest first.
    taken: Mutex<BTreeMap<u64, Taken>>,
}

#[derive(Debug)]
struct Taken {
    owner: Owner,
    place: Arc<Place>,
}

/// The place of one connection.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Requests that the server works on.
    works: AtomicUsize,
    gives_way: Notify,
}

/// Holds a place, and frees it at the end.
#[derive(Debug)]
pub(super) struct Held {
    places: Arc<Places>,
    number: u64,
    place: Arc<Place>,
}

/// As long as it lives, its connection does not give way.
#[derive(Debug)]
pub(super) struct Working(Arc<Place>);

impl Places {
    pub(super) fn new(room: Room) -> Arc<Self> {
        Arc::new(Self { room, next: AtomicU64::new(0), taken: Mutex::default() })
    }

    /// A place for a new connection; none where the server works for each of those that have one.
    pub(super) fn take(self: &Arc<Self>, owner: Owner) -> Option<Held> {
        let mut taken = self.taken();
        let others = |other: Owner| other != Owner::Root;
        let of_user = if owner == Owner::Root { self.room.root } else { self.room.user };
        make_room(&mut taken, of_user, |other| other == owner)?;
        if others(owner) {
            make_room(&mut taken, self.room.others, others)?;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let place = Arc::new(Place::default());
        taken.insert(number, Taken { owner, place: Arc::clone(&place) });
        Some(Held { places: Arc::clone(self), number, place })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to it that fewer than `room` places are taken by those that are `counted`.
fn make_room(taken: &mut BTreeMap<u64, Taken>, room: usize, counted: impl Fn(Owner) -> bool) -> Option<()> {
    if taken.values().filter(|taken| counted(taken.owner)).count() < room {
        return Some(());
    }
    let idle = |taken: &Taken| counted(taken.owner) && taken.place.works.load(Ordering::Relaxed) == 0;
    let oldest = *taken.iter().find(|(_, taken)| idle(taken))?.0;
    taken.remove(&oldest)?.place.gives_way.notify_one();
    Some(())
}

impl Place {
    pub(super) fn working(self: &Arc<Self>) -> Working {
        self.works.fetch_add(1, Ordering::Relaxed);
        Working(Arc::clone(self))
    }
}

impl Held {
    pub(super) const fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Waits until the connection must give way.
    pub(super) async fn gives_way(&self) {
        self.place.gives_way.notified().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.places.taken().remove(&self.number);
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.works.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { root: 2, user: 2, others: 3 };

    /// Whether a connection was told to give way.
    fn was_told(held: &Held) -> bool {
        let waits = std::pin::pin!(held.gives_way());
        waits.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_idle_connection_gives_way() {
        let places = Places::new(ROOM);
        let first = places.take(Owner::Root).unwrap();
        let second = places.take(Owner::Root).unwrap();
        let works = first.place().working();
        let third = places.take(Owner::Root).unwrap();
        assert_eq!([&first, &second, &third].map(was_told), [false, true, false]);
        let _works = third.place().working();
        assert!(places.take(Owner::Root).is_none(), "the server works for both");
        drop(works);
        assert!(places.take(Owner::Root).is_some());
        assert!(was_told(&first));
    }

    #[test]
    fn no_user_takes_the_places_of_another() {
        let places = Places::new(ROOM);
        let root = places.take(Owner::Root).unwrap();
        let first = places.take(Owner::User(1)).unwrap();
        let second = places.take(Owner::User(1)).unwrap();
        let third = places.take(Owner::User(1)).unwrap();
        assert_eq!([&root, &first, &second, &third].map(was_told), [false, true, false, false]);
        let other = places.take(Owner::User(2)).unwrap();
        let last = places.take(Owner::User(3)).unwrap();
        assert_eq!([&root, &second, &third, &other, &last].map(was_told), [false, true, false, false, false]);
        drop((root, third, other, last));
        assert_eq!(places.taken().len(), 0, "each has given its place back");
    }
}
