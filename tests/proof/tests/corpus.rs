//! Every input of the committed corpora once more, through the properties that the fuzzer holds it against.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use guard_proof::case::Case;
use guard_proof::{http, policy, property};

#[test]
fn decide_holds_for_its_corpus() {
    replay("decide", |bytes| property::check(&Case::read(bytes)));
}

#[test]
fn the_policy_reader_holds_for_its_corpus() {
    // The fuzzer offers only what is text.
    replay("policy", |bytes| std::str::from_utf8(bytes).map_or((), policy::check));
}

#[test]
fn the_readers_of_requests_hold_for_their_corpora() {
    replay("control", http::control);
    replay("metrics", http::metrics);
}

/// All of them, so that one run names all that fail.
fn replay(target: &str, check: fn(&[u8])) {
    let files =
        files(target).unwrap_or_else(|error| panic!("the corpus of {target} cannot be read: {error}"));
    assert!(files.len() >= 20, "the corpus of {target} has only {} files", files.len());
    let breaks = |(_, bytes): &(PathBuf, Vec<u8>)| catch_unwind(|| check(bytes)).is_err();
    let broken: Vec<PathBuf> = files.into_iter().filter(breaks).map(|(path, _)| path).collect();
    assert!(broken.is_empty(), "these break a property, see above: {broken:#?}");
}

fn files(target: &str) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let read = |entry: io::Result<fs::DirEntry>| {
        let path = entry?.path();
        Ok((path.clone(), fs::read(path)?))
    };
    fs::read_dir(directory)?.map(read).collect()
}
