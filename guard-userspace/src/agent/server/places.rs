//! The places of a server: how many connections it has at a time, and who gives way to a new one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    taken: Mutex<Table>,
}

/// The connections, and how many there are: a flood of them must cost little each.
#[derive(Debug, Default)]
struct Table {
    /// By their numbers, so the oldest first.
    by_number: BTreeMap<u64, Taken>,
    of_owner: BTreeMap<Owner, usize>,
    /// Of users, in the second that began then.
    opened: BTreeMap<Owner, usize>,
    second: Option<Instant>,
}

/// Connections that a user may open in a second. More are cut off before the server works for them: who opens thousands takes little of its time.
const OPENED_A_SECOND: usize = 200;
const SECOND: Duration = Duration::from_secs(1);

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

    /// A place for a new connection; none where the server works for each of those that have one, or a user opens too many.
    pub(super) fn take(self: &Arc<Self>, owner: Owner) -> Option<Held> {
        let mut taken = self.taken();
        if matches!(owner, Owner::User(_)) && !taken.may_open(owner, Instant::now()) {
            return None;
        }
        let others = |other: Owner| other != Owner::Root;
        let of_user = if owner == Owner::Root { self.room.root } else { self.room.user };
        if taken.count(owner) >= of_user {
            taken.make_room(|other| other == owner)?;
        }
        if others(owner) && taken.count_others() >= self.room.others {
            taken.make_room(others)?;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let place = Arc::new(Place::default());
        taken.insert(number, Taken { owner, place: Arc::clone(&place) });
        Some(Held { places: Arc::clone(self), number, place })
    }

    fn taken(&self) -> MutexGuard<'_, Table> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Counts what a user opens.
    fn may_open(&mut self, owner: Owner, now: Instant) -> bool {
        let is_over = self.second.is_none_or(|second| now.saturating_duration_since(second) >= SECOND);
        if is_over {
            self.second = Some(now);
            self.opened.clear();
        }
        let opened = self.opened.entry(owner).or_default();
        *opened += 1;
        *opened <= OPENED_A_SECOND
    }

    fn count(&self, owner: Owner) -> usize {
        self.of_owner.get(&owner).copied().unwrap_or(0)
    }

    fn count_others(&self) -> usize {
        self.by_number.len() - self.count(Owner::Root)
    }

    fn insert(&mut self, number: u64, taken: Taken) {
        *self.of_owner.entry(taken.owner).or_default() += 1;
        self.by_number.insert(number, taken);
    }

    fn remove(&mut self, number: u64) -> Option<Taken> {
        let taken = self.by_number.remove(&number)?;
        let left = self.count(taken.owner) - 1;
        match left {
            0 => self.of_owner.remove(&taken.owner),
            _ => self.of_owner.insert(taken.owner, left),
        };
        Some(taken)
    }

    /// Has the oldest idle connection of those that are `counted` give way.
    fn make_room(&mut self, counted: impl Fn(Owner) -> bool) -> Option<()> {
        let idle = |taken: &Taken| counted(taken.owner) && taken.place.works.load(Ordering::Relaxed) == 0;
        let oldest = *self.by_number.iter().find(|(_, taken)| idle(taken))?.0;
        self.remove(oldest)?.place.gives_way.notify_one();
        Some(())
    }
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
        self.places.taken().remove(self.number);
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
    fn a_user_that_opens_thousands_is_cut_off_until_the_second_is_over_and_no_other() {
        let (mut table, begun) = (Table::default(), Instant::now());
        let opened = |table: &mut Table, user, now| {
            (0..1000).filter(|_| table.may_open(Owner::User(user), now)).count()
        };
        assert_eq!(opened(&mut table, 1, begun), OPENED_A_SECOND);
        assert_eq!(opened(&mut table, 2, begun), OPENED_A_SECOND);
        assert_eq!(opened(&mut table, 1, begun + SECOND / 2), 0);
        assert_eq!(opened(&mut table, 1, begun + SECOND), OPENED_A_SECOND);
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
        assert!(places.taken().by_number.is_empty(), "each has given its place back");
        assert!(places.taken().of_owner.is_empty(), "and is counted no more");
    }
}
