//! Limits as lines of a policy, and what they are called there.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::limits::Limits;
use super::propose::OwnLimits;

/// A name for the limits of each service: those that it has, if no service before it has them, since each gets limits of its own.
pub fn names<'a>(services: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Vec<String> {
    let services: Vec<_> = services.into_iter().collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut name = |(service, limits): &(&str, Option<&str>)| {
        let others = services.iter().filter(|(other, _)| other != service).filter_map(|(_, limits)| *limits);
        let others: BTreeSet<&str> = others.collect();
        let mut candidates = limits.iter().map(|limits| (*limits).to_owned()).collect::<Vec<_>>();
        if !others.contains(service) {
            candidates.push((*service).to_owned());
        }
        let numbered = (2..).map(|number| format!("{service}-limits-{number}"));
        let free = candidates.into_iter().chain(numbered).find(|name| !taken.contains(name));
        let free = free.unwrap_or_default();
        taken.insert(free.clone());
        free
    };
    services.iter().map(&mut name).collect()
}

pub(super) fn lines(service: &str, name: &str, limits: &Limits, own: &[OwnLimits]) -> String {
    let mut text = format!("# In the [[service]] {service:?}:  limits = {name:?}\n");
    // Writing to a string cannot fail.
    for (number, OwnLimits { prefix, .. }) in own.iter().enumerate() {
        let _ = write!(
            text,
            "# Below it:\n#   [[service.sources]]\n#   prefix = \"{prefix}\"\n#   limits = \"{name}-{}\"\n",
            number + 1
        );
    }
    let tables = std::iter::once((name.to_owned(), limits))
        .chain(own.iter().enumerate().map(|(number, own)| (format!("{name}-{}", number + 1), &own.limits)));
    for (name, limits) in tables {
        let Limits {
            packets_per_second,
            packet_burst,
            bytes_per_second,
            byte_burst,
            connections_per_second,
            connection_burst,
            max_connections,
        } = limits;
        let _ = write!(
            text,
            "\n[limits.{name}]\npackets_per_second = {packets_per_second}\npacket_burst = {packet_burst}\n\
             bytes_per_second = {bytes_per_second}\nbyte_burst = {byte_burst}\nconnections_per_second = {connections_per_second}\n\
             connection_burst = {connection_burst}\nmax_connections = {max_connections}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_services_get_limits_of_the_same_name() {
        let services =
            [("chat", Some("client")), ("embed", Some("client")), ("client", None), ("plain", None)];
        let names = names(services);
        assert_eq!(names[..2], ["client", "embed"]);
        assert_eq!(names[3], "plain");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 4, "{names:?}");
    }
}
