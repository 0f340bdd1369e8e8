//! Lists of addresses and prefixes, as feeds and scripts write them.

use ipnet::IpNet;

use crate::config::parse_prefix;

/// How many wrong entries are shown.
const SHOWN: usize = 10;
/// Characters: no address or prefix is longer.
const LONGEST: usize = 64;
/// What some editors and servers put at the start of a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A list with entries that are no address or prefix; nothing of it is used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", .lines.join("\n"), if *.more > 0 { format!("\nand {} more", .more) } else { String::new() })]
pub struct ListError {
    lines: Vec<String>,
    more: usize,
}

/// Addresses and prefixes, separated by white space or commas; `#` and `;` begin a comment, empty lines are skipped. A byte order mark and
/// the line ends of other systems are no matter.
///
/// # Errors
/// With the number of the line of each entry that is wrong, and why.
pub fn parse(text: &[u8]) -> Result<Vec<IpNet>, ListError> {
    let mut nets = Vec::new();
    let mut wrong = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| number == 0).unwrap_or(&line);
        let entries = line.split(['#', ';']).next().unwrap_or_default();
        for entry in entries.split(|character: char| character == ',' || character.is_whitespace()) {
            match read(entry) {
                None => {}
                Some(Ok(net)) => nets.push(net),
                Some(Err(why)) => wrong.push(format!("line {}: {why}", number + 1)),
            }
        }
    }
    if wrong.is_empty() {
        return Ok(nets);
    }
    let more = wrong.len().saturating_sub(SHOWN);
    wrong.truncate(SHOWN);
    Err(ListError { lines: wrong, more })
}

/// None of nothing.
fn read(entry: &str) -> Option<Result<IpNet, String>> {
    if entry.is_empty() {
        return None;
    }
    if entry.chars().count() > LONGEST {
        let begin: String = entry.chars().take(LONGEST).collect();
        return Some(Err(format!("{begin:?}...: longer than any address or prefix")));
    }
    Some(parse_prefix(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_whole_or_not_at_all() {
        let nets = parse(b"# feed\n10.0.0.1\n\n fd00::/64  # a network\r\n10.0.0.1\n").unwrap();
        assert_eq!(nets, ["10.0.0.1/32", "fd00::/64", "10.0.0.1/32"].map(|net| net.parse().unwrap()));
        let error = parse(b"10.0.0.1\n10.0.0.1/24\nhost.example\n").unwrap_err().to_string();
        assert!(
            error.contains("line 2: ") && error.contains("10.0.0.0/24") && error.contains("line 3: "),
            "{error}"
        );
        let error = parse("x\n".repeat(100).as_bytes()).unwrap_err().to_string();
        assert!(error.ends_with("and 90 more"), "{error}");
    }

    #[test]
    fn the_forms_of_known_feeds_are_read() {
        let cases: [(&str, &[u8], &[&str]); 7] = [
            ("Spamhaus", b"; Spamhaus DROP List\n1.10.16.0/20 ; SBL256894\n", &["1.10.16.0/20"]),
            ("FireHOL", b"# level 1\n#\n0.0.0.0/8\n1.10.16.0/20\n", &["0.0.0.0/8", "1.10.16.0/20"]),
            ("a byte order mark", b"\xef\xbb\xbf10.0.0.1\n", &["10.0.0.1/32"]),
            ("line ends of Windows", b"10.0.0.1\r\n10.0.0.2\r\n", &["10.0.0.1/32", "10.0.0.2/32"]),
            (
                "several in a line",
                b"10.0.0.1 10.0.0.2,10.0.0.3, fd00::/64\t10.0.0.4;x\n",
                &["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "fd00::/64", "10.0.0.4/32"],
            ),
            ("no end of line", b"10.0.0.1", &["10.0.0.1/32"]),
            ("nothing but comments", b"# empty\n;\n\n", &[]),
        ];
        for (name, text, expected) in cases {
            let expected: Vec<IpNet> = expected.iter().map(|net| net.parse().unwrap()).collect();
            assert_eq!(parse(text).as_deref(), Ok(&expected[..]), "{name}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused_with_its_place() {
        let cases: [(&[u8], &str); 6] = [
            (b"10.0.0.1\n010.0.0.1\n", "line 2: "),
            (b"010.0.0.1", "octal"),
            (b"10.0.0.0/08", "/8"),
            (b"10.0.0.1 - 10.0.0.9", "line 1: \"-\""),
            (b"10.0.0.1\xff", "line 1: "),
            (b"\x1b[2J", "\\u{1b}[2J"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\x1b'), "{text:?}: {error}");
        }
        let error = parse(&[b'1'; 1 << 20]).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }
}
