//! Lists of addresses and prefixes, as feeds and scripts write them.

use ipnet::IpNet;

use crate::config::parse_prefix;

/// How many wrong lines are shown.
const SHOWN: usize = 10;

/// A list with lines that are no address or prefix; nothing of it is used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", .lines.join("\n"), if *.more > 0 { format!("\nand {} more", .more) } else { String::new() })]
pub struct ListError {
    lines: Vec<String>,
    more: usize,
}

/// One address or prefix a line; `#` begins a comment, empty lines are skipped.
///
/// # Errors
/// With the number of each line that is wrong, and why.
pub fn parse(text: &str) -> Result<Vec<IpNet>, ListError> {
    let mut nets = Vec::new();
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        match parse_prefix(entry) {
            Ok(net) => nets.push(net),
            Err(why) => wrong.push(format!("line {}: {why}", number + 1)),
        }
    }
    if wrong.is_empty() {
        return Ok(nets);
    }
    let more = wrong.len().saturating_sub(SHOWN);
    wrong.truncate(SHOWN);
    Err(ListError { lines: wrong, more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_whole_or_not_at_all() {
        let nets = parse("# feed\n10.0.0.1\n\n fd00::/64  # a network\r\n10.0.0.1\n").unwrap();
        assert_eq!(nets, ["10.0.0.1/32", "fd00::/64", "10.0.0.1/32"].map(|net| net.parse().unwrap()));
        let error = parse("10.0.0.1\n10.0.0.1/24\nhost.example\n").unwrap_err().to_string();
        assert!(
            error.contains("line 2: ") && error.contains("10.0.0.0/24") && error.contains("line 3: "),
            "{error}"
        );
        let error = parse(&"x\n".repeat(100)).unwrap_err().to_string();
        assert!(error.ends_with("and 90 more"), "{error}");
    }
}
