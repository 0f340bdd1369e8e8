//! The calls of bpf(2) that aya does not have: updates, look-ups and removals in one batch, where a link leads, and cutting one that others hold too.
//!
//! The layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use super::batch;

const UPDATE: libc::c_int = 2;
const DELETE: libc::c_int = 3;
const LOOKUP_AND_DELETE: libc::c_int = 21;
const OBJECT_PIN: libc::c_int = 6;
const OBJECT_GET: libc::c_int = 7;
const OBJECT_GET_INFO: libc::c_int = 15;
const BTF_LOAD: libc::c_int = 18;
const LOOKUP_BATCH: libc::c_int = 24;
const UPDATE_BATCH: libc::c_int = 26;
const DELETE_BATCH: libc::c_int = 27;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
/// BPF_XDP of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
const LINK_DETACH: libc::c_int = 34;

/// `struct { ... } batch` of `union bpf_attr`.
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for one element.
#[repr(C)]
struct ElementAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Writes all pairs. Keys and values have the sizes of the map's.
pub(super) fn update_all<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "each key has a value");
    let batch = |from: usize| update_batch(map, &keys[from..], &values[from..]);
    let single = |at: usize| update(map, &keys[at], &values[at]);
    batch::write(keys.len(), batch, single, thread::sleep)
}

/// Returns how many pairs the kernel says it has written, and why not all.
fn update_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> (usize, io::Result<()>) {
    let mut attributes = BatchAttributes {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map: map.as_raw_fd().cast_unsigned(),
        element_flags: 0,
        flags: 0,
    };
    let result = call(UPDATE_BATCH, &mut attributes).map(drop);
    (attributes.count as usize, result)
}

pub(super) fn update<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    call(UPDATE, &mut attributes).map(drop)
}

/// Removes the entries of all keys. One that is not there is no error.
pub(super) fn delete_all<K: aya::Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let batch = |from: usize| match delete_batch(map, &keys[from..]) {
        // The batch ends at a key that is not there: go on behind it.
        (removed, Err(error)) if is_absent(&error) => (removed + 1, Ok(())),
        removed => removed,
    };
    let single = |at: usize| match delete(map, &keys[at]) {
        Err(error) if is_absent(&error) => Ok(()),
        removed => removed,
    };
    batch::write(keys.len(), batch, single, thread::sleep)
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

/// Returns how many entries the kernel says it has removed, and why not all.
fn delete_batch<K: aya::Pod>(map: BorrowedFd<'_>, keys: &[K]) -> (usize, io::Result<()>) {
    let mut attributes = BatchAttributes {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: 0,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map: map.as_raw_fd().cast_unsigned(),
        element_flags: 0,
        flags: 0,
    };
    let result = call(DELETE_BATCH, &mut attributes).map(drop);
    (attributes.count as usize, result)
}

fn delete<K: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: 0,
        flags: 0,
    };
    call(DELETE, &mut attributes).map(drop)
}

/// Takes an entry out of a hash: what was in it when it went. Linux 5.14.
pub(super) fn take<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    // SAFETY: plain data is valid for any bytes, zeros included.
    let mut value: V = unsafe { std::mem::zeroed() };
    let mut attributes = ElementAttributes {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    match call(LOOKUP_AND_DELETE, &mut attributes) {
        Ok(_) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Plain data as it lies at the beginning of `bytes`; none if they are too few.
pub(super) fn from_bytes<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: plain data is valid for any bytes, and there are enough.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Reads all pairs of a hash, a trie or an array. What is written meanwhile may be among them or not.
pub(super) fn read_all<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut pairs = Vec::new();
    visit_all(map, |key, value| pairs.push((*key, *value)))?;
    Ok(pairs)
}

/// The same one by one, in no more memory than a part of them takes.
pub(super) fn visit_all<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    mut each: impl FnMut(&K, &V),
) -> io::Result<()> {
    // The kernel writes as much as the map has, whatever there is room for; and a pin may be of another build, or of somebody else.
    let MapInfo { key_size, value_size, .. } = info(map)?;
    if (key_size as usize, value_size as usize) != (size_of::<K>(), size_of::<V>()) {
        let what = format!("it has keys of {key_size} and values of {value_size} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    // SAFETY: plain data is valid for any bytes, zeros included.
    let zero: (K, V) = unsafe { std::mem::zeroed() };
    let mut room = 4096;
    // A hash counts its buckets here, the others note their last key.
    let (mut next, mut last) = ([0_u8; 32], [0_u8; 32]);
    let mut begun = false;
    loop {
        let (mut keys, mut values) = (vec![zero.0; room], vec![zero.1; room]);
        let mut attributes = BatchAttributes {
            in_batch: if begun { last.as_mut_ptr() as u64 } else { 0 },
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map: map.as_raw_fd().cast_unsigned(),
            element_flags: 0,
            flags: 0,
        };
        let result = call(LOOKUP_BATCH, &mut attributes);
        match result.as_ref().map_err(io::Error::raw_os_error) {
            // A bucket has more than there is room for.
            Err(Some(libc::ENOSPC)) => {
                room *= 2;
                continue;
            }
            Ok(_) | Err(Some(libc::ENOENT)) => {}
            Err(_) => return result.map(drop),
        }
        let count = (attributes.count as usize).min(room);
        keys.iter().zip(&values).take(count).for_each(|(key, value)| each(key, value));
        if result.is_err() {
            return Ok(());
        }
        (last, begun) = (next, true);
    }
}

/// What a look at the beginning of a hash has found.
pub(super) struct Look {
    pub(super) entries: u32,
    /// The bucket where the next look would begin; none if this was all.
    pub(super) cursor: Option<u32>,
}

/// Looks at up to `room` entries of a hash, bucket by bucket.
pub(super) fn look(map: BorrowedFd<'_>, key_size: u32, value_size: u32, room: usize) -> io::Result<Look> {
    let mut keys = vec![0_u8; room * key_size as usize];
    let mut values = vec![0_u8; room * value_size as usize];
    let mut cursor = 0_u32;
    let mut attributes = BatchAttributes {
        in_batch: 0,
        out_batch: std::ptr::from_mut(&mut cursor) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map: map.as_raw_fd().cast_unsigned(),
        element_flags: 0,
        flags: 0,
    };
    let result = call(LOOKUP_BATCH, &mut attributes);
    let cursor = match result {
        Ok(_) => Some(cursor),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
        Err(error) => return Err(error),
    };
    Ok(Look { entries: attributes.count, cursor })
}

/// Bytes of each value of a map.
pub(super) fn value_size(map: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(info::<MapInfo>(map)?.value_size as usize)
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = [path.as_ptr() as u64, 0];
    let descriptor = call(OBJECT_GET, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Tells the kernel types (BTF), for maps to be made with.
pub(super) fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let mut attributes =
        TypesAttributes { types: types.as_ptr() as u64, log: 0, size: types.len() as u32, log_size: 0 };
    let descriptor = call(BTF_LOAD, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The part of `union bpf_attr` for types.
#[repr(C)]
struct TypesAttributes {
    types: u64,
    log: u64,
    size: u32,
    log_size: u32,
}

/// Pins a map or a link at `path`.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = PinAttributes {
        path: path.as_ptr() as u64,
        descriptor: object.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    call(OBJECT_PIN, &mut attributes).map(drop)
}

/// The part of `union bpf_attr` for pins.
#[repr(C)]
struct PinAttributes {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// What a link of XDP does.
pub(super) struct XdpLinkInfo {
    pub(super) program: u32,
    /// The interface; 0 once the link is cut.
    pub(super) interface: u32,
}

/// The beginning of `struct bpf_link_info`, for a link of XDP.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    interface: u32,
    rest: [u32; 11],
}

/// The part of `union bpf_attr` for information.
#[repr(C)]
struct InfoAttributes {
    descriptor: u32,
    length: u32,
    info: u64,
}

pub(super) fn xdp_link_info(link: BorrowedFd<'_>) -> io::Result<XdpLinkInfo> {
    let LinkInfo { program, interface, .. } = info(link)?;
    Ok(XdpLinkInfo { program, interface })
}

/// As much as `T` takes of what the kernel tells about an object.
fn info<T: Default>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attributes = InfoAttributes {
        descriptor: object.as_raw_fd().cast_unsigned(),
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    call(OBJECT_GET_INFO, &mut attributes)?;
    Ok(info)
}

/// Puts a program on an interface, behind a link of its own. `flags`: XDP_FLAGS_* of linux/if_link.h.
pub(super) fn create_xdp_link(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = [program.as_raw_fd().cast_unsigned(), interface, ATTACH_XDP, flags];
    let descriptor = call(LINK_CREATE, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Puts another program behind a link, in one step.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = [link.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned(), 0, 0];
    call(LINK_UPDATE, &mut attributes).map(drop)
}

/// Cuts a link off its interface, whoever else holds it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut link = link.as_raw_fd().cast_unsigned();
    call(LINK_DETACH, &mut link).map(drop)
}

fn call<A>(command: libc::c_int, attributes: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are of the layout that the command takes, and what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // A descriptor or 0.
    Ok(result as libc::c_int)
}
