//! Named frames through the program in the kernel and through the host's build: one verdict, the right one.

use anyhow::{Context, Result};
use guard_common::Action::{Drop as Dropped, Pass, WouldDrop};
use guard_common::Reason::{
    self, Allowed, Blocked, ConnectionRate, Denied, Fragment, Malformed, NotAllowed, NotIp, PacketRate,
    Trusted, Unguarded,
};
use guard_common::abi::{Block, End};
use guard_tests::frame::{ACK, CUSTOMER_TAG, Extension, Frame, Ipv4Fragment, SERVICE_TAG, SYN, Transport};
use guard_tests::kernel::{self, Kernel, NOW};

const POLICY: &str = r#"
[[service]]
name = "web"
ports = [8000, "8100-8103"]
allow = ["10.0.0.0/8", "192.168.1.7", "fd00::/16", "2001:db8::/32"]
deny = ["10.66.0.0/16", "fd00:66::/32"]

[[service]]
name = "dns"
ports = [5300]
protocols = ["udp"]
allow = ["0.0.0.0/0", "::/0"]

[[service]]
name = "watched"
ports = [9000]
protocols = ["tcp", "udp"]
mode = "monitor"
allow = ["10.0.0.0/8"]

[trusted]
prefixes = ["172.16.0.0/12", "fd99::/16"]
"#;

/// Where the hop limit of an IPv6 frame without tags is.
const HOP_LIMIT: usize = 14 + 7;

/// One who is allowed.
const CLIENT: &str = "10.1.2.3";

/// A name, a frame, and the reason and service that it must get.
type Case = (&'static str, Frame, Reason, &'static str);

fn raw(frame: Frame, protocol: u8) -> Frame {
    Frame { transport: Transport::Raw(protocol), ..frame }
}

fn extended(frame: Frame, extensions: Vec<Extension>) -> Frame {
    Frame { extensions, ..frame }
}

fn fragment(frame: Frame, more: bool, offset: u16) -> Frame {
    Frame { fragment: Ipv4Fragment { more, offset, identification: 7 }, ..frame }
}

fn tagged(frame: Frame, tags: &[u16]) -> Frame {
    Frame { vlan: tags.iter().map(|kind| (*kind, 0)).collect(), ..frame }
}

/// The transport header of a frame as raw bytes: what a fragment holds.
fn ports_only(port: u16, length: usize) -> Vec<u8> {
    let mut bytes = [&40_000u16.to_be_bytes()[..], &port.to_be_bytes(), &[0; 16]].concat();
    bytes.truncate(length);
    bytes
}

fn policy_cases() -> Vec<Case> {
    vec![
        ("allowed by prefix", Frame::tcp("10.1.2.3", 8000), Allowed, "web"),
        ("allowed by address", Frame::tcp("192.168.1.7", 8000), Allowed, "web"),
        ("the address beside it", Frame::tcp("192.168.1.8", 8000), NotAllowed, "web"),
        ("first port of a range", Frame::tcp("10.1.2.3", 8100), Allowed, "web"),
        ("last port of a range", Frame::tcp("203.0.113.1", 8103), NotAllowed, "web"),
        ("port before a range", Frame::tcp("203.0.113.1", 8099), Unguarded, ""),
        ("port behind a range", Frame::tcp("203.0.113.1", 8104), Unguarded, ""),
        ("a longer deny in an allow", Frame::tcp("10.66.1.1", 8000), Denied, "web"),
        ("stranger", Frame::tcp("203.0.113.1", 8000), NotAllowed, "web"),
        ("stranger, IPv6", Frame::tcp("2a00::1", 8000), NotAllowed, "web"),
        ("allowed, IPv6", Frame::tcp("fd00:1::7", 8000), Allowed, "web"),
        ("denied, IPv6", Frame::tcp("fd00:66::1", 8000), Denied, "web"),
        ("trusted", Frame::tcp("172.16.5.5", 8000), Trusted, "web"),
        ("trusted, IPv6", Frame::tcp("fd99::1", 8000), Trusted, "web"),
        ("UDP to a TCP service", Frame::udp("203.0.113.1", 8000), Unguarded, ""),
        ("UDP service", Frame::udp("203.0.113.1", 5300), Allowed, "dns"),
        ("TCP to a UDP service", Frame::tcp("203.0.113.1", 5300), Unguarded, ""),
        ("monitored TCP", Frame::tcp("203.0.113.1", 9000), NotAllowed, "watched"),
        ("monitored UDP", Frame::udp("2a00::1", 9000), NotAllowed, "watched"),
        ("monitored, allowed", Frame::tcp("10.0.0.9", 9000), Allowed, "watched"),
        ("SSH", Frame::tcp("203.0.113.1", 22), Unguarded, ""),
        ("ICMP", raw(Frame::tcp("203.0.113.1", 0), 1), Unguarded, ""),
        ("ESP", raw(Frame::tcp("203.0.113.1", 0), 50), Unguarded, ""),
        ("ICMPv6", raw(Frame::tcp("2a00::1", 0), 58), Unguarded, ""),
        ("no next header", raw(Frame::tcp("2a00::1", 0), 59), Unguarded, ""),
    ]
}

fn vlan_cases() -> Vec<Case> {
    let stranger = || Frame::tcp("203.0.113.1", 8000);
    vec![
        ("VLAN tag", tagged(stranger(), &[CUSTOMER_TAG]), NotAllowed, "web"),
        ("service tag", tagged(stranger(), &[SERVICE_TAG]), NotAllowed, "web"),
        ("QinQ", tagged(stranger(), &[SERVICE_TAG, CUSTOMER_TAG]), NotAllowed, "web"),
        ("two customer tags", tagged(stranger(), &[CUSTOMER_TAG, CUSTOMER_TAG]), NotAllowed, "web"),
        ("three tags", tagged(stranger(), &[CUSTOMER_TAG; 3]), Malformed, ""),
        ("VLAN tag, IPv6", tagged(Frame::tcp("2a00::1", 8000), &[CUSTOMER_TAG]), NotAllowed, "web"),
        ("VLAN tag, allowed", tagged(Frame::tcp("10.0.0.1", 8000), &[CUSTOMER_TAG]), Allowed, "web"),
        (
            "QinQ, allowed, IPv6",
            tagged(Frame::tcp("fd00::1", 8000), &[SERVICE_TAG, CUSTOMER_TAG]),
            Allowed,
            "web",
        ),
    ]
}

fn ipv4_cases() -> Vec<Case> {
    let stranger = || Frame::tcp("203.0.113.1", 8000);
    let part = |length| Frame { payload: ports_only(8000, length), ..raw(stranger(), 6) };
    let of = |source, port, more, offset| {
        fragment(Frame { payload: ports_only(port, 16), ..raw(Frame::tcp(source, port), 6) }, more, offset)
    };
    vec![
        ("4 bytes of options", Frame { options: vec![1; 4], ..stranger() }, NotAllowed, "web"),
        ("40 bytes of options", Frame { options: vec![1; 40], ..stranger() }, NotAllowed, "web"),
        ("options, allowed", Frame { options: vec![1; 40], ..Frame::tcp("10.0.0.1", 8000) }, Allowed, "web"),
        ("later fragment before its first", fragment(part(16), true, 9), Fragment, ""),
        ("first fragment of 8 bytes", fragment(part(8), true, 0), NotAllowed, "web"),
        ("later fragment", fragment(part(16), true, 1), NotAllowed, "web"),
        ("last fragment", fragment(part(16), false, 100), NotAllowed, "web"),
        ("later fragment of UDP with that number", fragment(raw(part(16), 17), true, 1), Fragment, ""),
        ("first fragment with ports only", fragment(part(4), true, 0), NotAllowed, "web"),
        ("first fragment without ports", fragment(part(3), true, 0), Malformed, ""),
        ("later fragment of that", fragment(part(16), true, 1), Malformed, ""),
        ("first fragment, allowed", of(CLIENT, 8000, true, 0), Allowed, "web"),
        ("later fragment, allowed", of(CLIENT, 8000, true, 2), Allowed, "web"),
        (
            "later fragment, allowed, tagged",
            tagged(of(CLIENT, 8000, false, 4), &[SERVICE_TAG]),
            Allowed,
            "web",
        ),
        ("second first fragment, to another port", of(CLIENT, 22, true, 0), Unguarded, ""),
        ("later fragment after that", of(CLIENT, 8000, true, 2), Allowed, "web"),
        ("first fragment, trusted", of("172.16.5.5", 8000, true, 0), Trusted, "web"),
        ("later fragment, trusted", of("172.16.5.5", 8000, true, 2), Trusted, "web"),
        ("first fragment, monitored", of("203.0.113.9", 9000, true, 0), NotAllowed, "watched"),
        ("later fragment, monitored", of("203.0.113.9", 9000, true, 2), NotAllowed, "watched"),
        ("first fragment to another port", of("203.0.113.8", 22, true, 0), Unguarded, ""),
        ("later fragment to another port", of("203.0.113.8", 22, true, 2), Fragment, ""),
        ("first fragment of ICMP", fragment(raw(Frame::tcp("203.0.113.7", 0), 1), true, 0), Unguarded, ""),
        ("later fragment of ICMP", fragment(raw(Frame::tcp("203.0.113.7", 0), 1), true, 2), Fragment, ""),
        ("whole packet that ends in TCP", part(19), Malformed, ""),
        ("whole packet with a bare TCP header", part(20), NotAllowed, "web"),
        (
            "UDP that ends in its header",
            Frame { payload: ports_only(5300, 7), ..raw(stranger(), 17) },
            Malformed,
            "",
        ),
        ("padding", Frame { padding: 6, ..stranger() }, NotAllowed, "web"),
        ("longer than the frame", Frame { length_error: 1, ..stranger() }, Malformed, ""),
        ("as long as the frame", Frame { length_error: 0, ..stranger() }, NotAllowed, "web"),
        ("ports behind the packet's end", Frame { length_error: -20, ..stranger() }, Malformed, ""),
        ("shorter than its header", Frame { length_error: -39, ..stranger() }, Malformed, ""),
    ]
}

fn ipv6_cases() -> Vec<Case> {
    use Extension::{Authentication, DestinationOptions, HopByHop, Routing};
    let stranger = || Frame::tcp("2a00::1", 8000);
    let part = |offset, more| Extension::Fragment { offset, more, identification: 7 };
    let bytes = |length| Frame { payload: ports_only(8000, length), ..raw(stranger(), 6) };
    let of_client = |port, offset| {
        let frame = Frame { payload: ports_only(port, 16), ..raw(Frame::tcp("fd00::9", port), 6) };
        extended(frame, vec![part(offset, true)])
    };
    let all = vec![
        HopByHop(0),
        part(0, false),
        DestinationOptions(0),
        Routing { kind: 0, units: 0 },
        Authentication(4),
        DestinationOptions(1),
    ];
    vec![
        ("hop-by-hop", extended(stranger(), vec![HopByHop(0)]), NotAllowed, "web"),
        ("long destination options", extended(stranger(), vec![DestinationOptions(130)]), NotAllowed, "web"),
        (
            "longest destination options",
            extended(stranger(), vec![DestinationOptions(255)]),
            NotAllowed,
            "web",
        ),
        ("routing", extended(stranger(), vec![Routing { kind: 4, units: 2 }]), NotAllowed, "web"),
        ("authentication", extended(stranger(), vec![Authentication(4)]), NotAllowed, "web"),
        ("each kind once", extended(stranger(), all.clone()), NotAllowed, "web"),
        ("each kind once, allowed", extended(Frame::tcp("fd00::1", 8000), all), Allowed, "web"),
        ("as many as are walked", extended(stranger(), vec![DestinationOptions(0); 6]), NotAllowed, "web"),
        ("one too many", extended(stranger(), vec![DestinationOptions(0); 7]), Malformed, ""),
        (
            "one too many, allowed",
            extended(Frame::tcp("fd00::1", 8000), vec![DestinationOptions(0); 7]),
            Malformed,
            "",
        ),
        ("atomic fragment", extended(stranger(), vec![part(0, false)]), NotAllowed, "web"),
        (
            "atomic fragment, allowed",
            extended(Frame::tcp("fd00::1", 8000), vec![part(0, false)]),
            Allowed,
            "web",
        ),
        ("later fragment before its first", extended(bytes(16), vec![part(9, true)]), Fragment, ""),
        ("first fragment of 8 bytes", extended(bytes(8), vec![part(0, true)]), NotAllowed, "web"),
        ("later fragment", extended(bytes(16), vec![part(9, true)]), NotAllowed, "web"),
        (
            "options, then a later fragment",
            extended(bytes(16), vec![HopByHop(0), part(9, false)]),
            NotAllowed,
            "web",
        ),
        (
            "another protocol is the same packet",
            extended(raw(bytes(16), 17), vec![part(9, true)]),
            NotAllowed,
            "web",
        ),
        ("first fragment without ports", extended(bytes(2), vec![part(0, true)]), Malformed, ""),
        ("later fragment of that", extended(bytes(16), vec![part(9, true)]), Malformed, ""),
        ("first fragment, allowed", of_client(8000, 0), Allowed, "web"),
        ("later fragment, allowed", of_client(8000, 2), Allowed, "web"),
        ("second first fragment, to another port", of_client(22, 0), Unguarded, ""),
        ("later fragment after that", of_client(8000, 2), Allowed, "web"),
        (
            "extension goes past the packet",
            Frame { length_error: -24, ..extended(stranger(), vec![HopByHop(1)]) },
            Malformed,
            "",
        ),
        ("longer than the frame", Frame { length_error: 1, ..stranger() }, Malformed, ""),
        ("padding", Frame { padding: 9, ..stranger() }, NotAllowed, "web"),
        ("mapped IPv4 source", Frame::tcp("::ffff:10.0.0.1", 8000), Malformed, ""),
        ("ICMPv6 behind hop-by-hop", extended(raw(stranger(), 58), vec![HopByHop(0)]), Unguarded, ""),
        ("HIP behind options", extended(raw(stranger(), 139), vec![DestinationOptions(0)]), Unguarded, ""),
        ("HIP in an atomic fragment", extended(raw(stranger(), 139), vec![part(0, false)]), Unguarded, ""),
    ]
}

/// A fragment header anywhere but directly behind IPv6 or hop-by-hop, real and atomic, of strangers and of clients.
fn misplaced_fragment_headers() -> Vec<Case> {
    use Extension::{Authentication, DestinationOptions, HopByHop, Routing};
    let part = |offset, more| Extension::Fragment { offset, more, identification: 7 };
    let before = [
        ("destination options", vec![DestinationOptions(0)]),
        ("routing", vec![Routing { kind: 0, units: 0 }]),
        ("authentication", vec![Authentication(4)]),
        ("a fragment header", vec![part(0, false)]),
        ("hop-by-hop twice", vec![HopByHop(0), HopByHop(0)]),
        ("hop-by-hop and options", vec![HopByHop(0), DestinationOptions(0)]),
        ("hop-by-hop and a fragment header", vec![HopByHop(0), part(0, false)]),
    ];
    let frames = before.into_iter().flat_map(|(name, before)| {
        let parts = [part(0, false), part(0, true), part(1, true), part(9, false)];
        let chains = parts.map(|part| [before.clone(), vec![part]].concat());
        chains.into_iter().flat_map(move |chain| {
            ["2a00::1", "fd00::1"].into_iter().flat_map({
                let chain = chain.clone();
                move |source| {
                    let frame = extended(Frame::tcp(source, 8000), chain.clone());
                    [139, 135, 99, 17, 6].map(|next| (name, raw_behind(&frame, next), Malformed, ""))
                }
            })
        })
    });
    frames.collect()
}

/// The frame with eight bytes in front of its transport header that are destination options to some, and of the kind `next` to others.
fn raw_behind(frame: &Frame, next: u8) -> Frame {
    let payload = [&[6, 0, 1, 4, 0, 0, 0, 0][..], &ports_only(8000, 20)].concat();
    Frame { payload, ..raw(frame.clone(), next) }
}

#[test]
fn each_named_frame_gets_its_reason_in_both_worlds() -> Result<()> {
    let plan = kernel::plan(POLICY)?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let mut host = kernel::host(&plan, &[]);
    let cases =
        [policy_cases(), vlan_cases(), ipv4_cases(), ipv6_cases(), misplaced_fragment_headers()].concat();
    for (name, frame, reason, service) in cases {
        let frame = frame.build();
        let here = host.judge(frame.as_slice(), NOW, &mut ());
        let there = kernel.judge(&frame).with_context(|| format!("case {name:?}"))?;
        let found = plan
            .services
            .iter()
            .find(|planned| planned.id == here.service)
            .map_or("", |planned| &planned.name);
        assert_eq!((here.reason, found), (reason, service), "case {name:?} on the host");
        assert_eq!(there, here, "case {name:?} in the kernel");
    }
    Ok(())
}

/// Frames that no builder makes: not IP, or broken below IP.
#[test]
fn frames_that_are_not_ip_pass_and_broken_ones_do_not() -> Result<()> {
    let plan = kernel::plan(POLICY)?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let mut host = kernel::host(&plan, &[]);
    let with_type = |kind: u16, rest: &[u8]| [&[2; 12][..], &kind.to_be_bytes(), rest].concat();
    let ipv4 = Frame::tcp("203.0.113.1", 8000).build();
    let version = |version: u8| [&ipv4[..14], &[version << 4 | 5], &ipv4[15..]].concat();
    let header_length = |words: u8| [&ipv4[..14], &[0x40 | words], &ipv4[15..]].concat();
    let cases = [
        ("ARP", with_type(0x0806, &[0; 28]), NotIp),
        ("LLDP", with_type(0x88cc, &[0; 46]), NotIp),
        ("LLC", with_type(0x0026, &[0x42; 38]), NotIp),
        (
            "SNAP with IPv4 inside",
            with_type(0x0030, &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &ipv4[14..]].concat()),
            NotIp,
        ),
        ("tag, then ARP", with_type(CUSTOMER_TAG, &[&[0, 0, 8, 6][..], &[0; 28]].concat()), NotIp),
        ("a bare header", with_type(0x0800, &[]), Malformed),
        ("a bare tag", with_type(CUSTOMER_TAG, &[0, 0]), Malformed),
        ("half an IPv6 header", with_type(0x86dd, &[0x60; 39]), Malformed),
        ("IPv4 that says version 6", version(6), Malformed),
        ("IPv4 with a header of 16 bytes", header_length(4), Malformed),
        ("IPv4 with a header longer than itself", header_length(15), Malformed),
    ];
    for (name, frame, reason) in cases {
        let here = host.judge(frame.as_slice(), NOW, &mut ());
        let there = kernel.judge(&frame).with_context(|| format!("case {name:?}"))?;
        assert_eq!(here.reason, reason, "case {name:?} on the host");
        assert_eq!(there, here, "case {name:?} in the kernel");
    }
    Ok(())
}

#[test]
fn blocks_have_scopes_and_ends() -> Result<()> {
    let plan = kernel::plan(POLICY)?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let block = |host_until, services_until| Block { host_until, services_until, dropped: 0 };
    let forever = block(End::FOREVER, End::FOREVER);
    let blocks = [
        ("10.0.0.1/32", forever),
        ("10.0.0.2/32", block(End::NONE, End::FOREVER)),
        ("10.0.0.3/32", block(End::NONE, End::not_before(NOW + 1))),
        ("10.0.0.4/32", block(End::not_before(NOW), End::not_before(NOW))),
        ("10.9.0.0/16", block(End::NONE, End::not_before(NOW + 1))),
        ("fd00:9::/48", forever),
        ("fd00::1/128", block(End::NONE, End::FOREVER)),
        ("172.16.0.1/32", forever),
        // The address is no longer blocked, the prefix around it is.
        ("10.9.0.9/32", block(End::NONE, End::not_before(NOW - 1_000_000_000))),
    ];
    let blocks = blocks.map(|(net, block)| (net.parse().unwrap(), block));
    kernel.block(&blocks)?;
    let mut host = kernel::host(&plan, &blocks);
    let cases = [
        ("host scope, guarded port", Frame::tcp("10.0.0.1", 8000), Blocked),
        ("host scope, other port", Frame::tcp("10.0.0.1", 22), Blocked),
        ("host scope, ICMP", raw(Frame::tcp("10.0.0.1", 0), 1), Blocked),
        ("services scope, guarded port", Frame::tcp("10.0.0.2", 8000), Blocked),
        ("services scope, other port", Frame::tcp("10.0.0.2", 22), Unguarded),
        ("ends within a second", Frame::tcp("10.0.0.3", 8000), Blocked),
        ("ends now", Frame::tcp("10.0.0.4", 8000), Allowed),
        ("prefix", Frame::tcp("10.9.200.1", 8000), Blocked),
        ("prefix, expired address within", Frame::tcp("10.9.0.9", 8000), Blocked),
        ("beside the prefix", Frame::tcp("10.10.0.1", 8000), Allowed),
        ("IPv6 prefix, other port", Frame::udp("fd00:9::77", 53), Blocked),
        ("IPv6 address", Frame::tcp("fd00::1", 8000), Blocked),
        ("a stranger is refused before blocks are asked", Frame::tcp("203.0.113.1", 8000), NotAllowed),
        ("trusted sources have no blocks at services", Frame::tcp("172.16.0.1", 8000), Trusted),
        ("monitored", Frame::tcp("10.0.0.1", 9000), Blocked),
    ];
    for (name, frame, reason) in cases {
        let frame = frame.build();
        let here = host.judge(frame.as_slice(), NOW, &mut ());
        let there = kernel.judge(&frame).with_context(|| format!("case {name:?}"))?;
        assert_eq!(here.reason, reason, "case {name:?} on the host");
        assert_eq!(there, here, "case {name:?} in the kernel");
    }
    let dropped: u64 = kernel.datapath.maps().blocks()?.iter().map(|(_, block)| block.dropped).sum();
    assert_eq!(dropped, 10, "each blocked packet is counted at its block");
    Ok(())
}

/// What a service that only monitors lets pass, a block of the whole host does not.
#[test]
fn a_host_block_holds_where_every_service_only_monitors() -> Result<()> {
    let plan = kernel::plan(
        "[[service]]\nname = \"watched\"\nports = [9000]\nmode = \"monitor\"\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.6.0.0/16\"]\n\
         [trusted]\nprefixes = [\"10.7.0.0/16\"]\n",
    )?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let block = |host_until| Block { host_until, services_until: End::FOREVER, dropped: 0 };
    let named = ["10.0.0.1/32", "10.6.0.1/32", "10.7.0.1/32", "203.0.113.1/32", "2a00::/16"];
    let of_services = ["10.0.0.2/32", "203.0.113.2/32"];
    let host = named.map(|net| (net.parse().unwrap(), block(End::FOREVER)));
    let services = of_services.map(|net| (net.parse().unwrap(), block(End::NONE)));
    let blocks = [&host[..], &services[..]].concat();
    kernel.block(&blocks)?;
    let mut host = kernel::host(&plan, &blocks);
    let longer = |source| Frame { length_error: 1, ..Frame::tcp(source, 9000) };
    let misplaced = Extension::Fragment { offset: 0, more: false, identification: 7 };
    let chain = vec![Extension::DestinationOptions(0), misplaced];
    let cases = [
        ("malformed", longer("203.0.113.1"), Malformed, Dropped),
        ("malformed, IPv6", longer("2a00::1"), Malformed, Dropped),
        ("a misplaced fragment header", extended(Frame::tcp("2a00::1", 9000), chain), Malformed, Dropped),
        ("a mapped source", Frame::tcp("::ffff:203.0.113.1", 9000), Malformed, Dropped),
        ("malformed of another", longer("203.0.113.9"), Malformed, WouldDrop),
        ("malformed of one blocked at services", longer("203.0.113.2"), Malformed, WouldDrop),
        (
            "three tags hide the source",
            tagged(Frame::tcp("203.0.113.1", 1), &[CUSTOMER_TAG; 3]),
            Malformed,
            WouldDrop,
        ),
        ("a blocked client", Frame::tcp("10.0.0.1", 9000), Blocked, Dropped),
        ("a client blocked at services", Frame::tcp("10.0.0.2", 9000), Blocked, WouldDrop),
        ("a blocked stranger", Frame::tcp("203.0.113.1", 9000), NotAllowed, Dropped),
        ("a stranger", Frame::tcp("203.0.113.9", 9000), NotAllowed, WouldDrop),
        ("one denied and blocked", Frame::tcp("10.6.0.1", 9000), Denied, Dropped),
        ("one trusted and blocked", Frame::tcp("10.7.0.1", 9000), Trusted, Pass),
        ("a client", Frame::tcp("10.0.0.9", 9000), Allowed, Pass),
    ];
    for (name, frame, reason, action) in cases {
        let frame = frame.build();
        let here = host.judge(frame.as_slice(), NOW, &mut ());
        let there = kernel.judge(&frame).with_context(|| format!("case {name:?}"))?;
        assert_eq!((here.reason, here.action), (reason, action), "case {name:?} on the host");
        assert_eq!(there, here, "case {name:?} in the kernel");
    }
    let dropped: u64 = kernel.datapath.maps().blocks()?.iter().map(|(_, block)| block.dropped).sum();
    assert_eq!(dropped, 8, "each packet is counted once, at the block that it met");
    Ok(())
}

/// A block may contain the gateway, whose neighbour discovery this host needs; nothing else of it passes.
#[test]
fn a_host_block_spares_neighbour_discovery_and_nothing_else() -> Result<()> {
    let plan = kernel::plan(POLICY)?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let forever = Block { host_until: End::FOREVER, services_until: End::FOREVER, dropped: 0 };
    let blocks = ["fe80::/10", "10.0.0.1/32"].map(|net| (net.parse().unwrap(), forever));
    kernel.block(&blocks)?;
    let mut host = kernel::host(&plan, &blocks);
    let icmp = |source, kind: u8| Frame {
        payload: [&[kind][..], &[0; 23]].concat(),
        ..raw(Frame::tcp(source, 0), 58)
    };
    let with_hop_limit = |frame: &Frame, limit| {
        let mut bytes = frame.build();
        bytes[HOP_LIMIT] = limit;
        bytes
    };
    let neighbour = |kind| icmp("fe80::1", kind);
    let behind_options = Frame { extensions: vec![Extension::HopByHop(0)], ..neighbour(136) };
    let mut cases: Vec<(String, Vec<u8>, Reason)> = (0..=255)
        .map(|kind| {
            let expected = if (133..=137).contains(&kind) { Unguarded } else { Blocked };
            (format!("ICMPv6 of type {kind}"), with_hop_limit(&neighbour(kind), 255), expected)
        })
        .collect();
    cases.extend([
        ("from behind a router".to_owned(), with_hop_limit(&neighbour(135), 254), Blocked),
        ("behind a hop-by-hop header".to_owned(), with_hop_limit(&behind_options, 255), Blocked),
        ("protocol 58 of IPv4".to_owned(), icmp("10.0.0.1", 135).build(), Blocked),
        ("TCP".to_owned(), with_hop_limit(&Frame::tcp("fe80::1", 22), 255), Blocked),
        ("of another".to_owned(), with_hop_limit(&icmp("fd00::1", 128), 255), Unguarded),
    ]);
    for (name, frame, reason) in cases {
        let here = host.judge(frame.as_slice(), NOW, &mut ());
        let there = kernel.judge(&frame).with_context(|| format!("case {name:?}"))?;
        assert_eq!(here.reason, reason, "case {name:?} on the host");
        assert_eq!(there, here, "case {name:?} in the kernel");
    }
    Ok(())
}

/// A service that names destinations is what is for these.
#[test]
fn a_service_is_only_what_is_for_its_destinations() -> Result<()> {
    let plan = kernel::plan(
        "[[service]]\nname = \"here\"\nports = [8000]\nprotocols = [\"tcp\", \"udp\"]\nallow = [\"10.0.0.0/8\", \"fd00::/16\"]\n\
         destinations = [\"192.0.2.1\", \"198.51.100.0/24\", \"2001:db8::1\"]\n\
         [[service]]\nname = \"everywhere\"\nports = [9000]\nallow = [\"10.0.0.0/8\"]\n",
    )?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let forever = Block { host_until: End::FOREVER, services_until: End::FOREVER, dropped: 0 };
    let blocks = ["203.0.113.2/32".parse().map(|net| (net, forever))?];
    kernel.block(&blocks)?;
    let mut host = kernel::host(&plan, &blocks);
    let to = |destination: &str, frame: Frame| Frame { destination: destination.parse().unwrap(), ..frame };
    let (stranger, client) = (|port| Frame::tcp("203.0.113.1", port), || Frame::tcp("10.0.0.1", 8000));
    let six = |source| Frame::tcp(source, 8000);
    let options = |frame: Frame| Frame { options: vec![1; 8], ..frame };
    let cases = [
        ("an address", to("192.0.2.1", stranger(8000)), NotAllowed),
        ("the address beside it", to("192.0.2.2", stranger(8000)), Unguarded),
        ("within a prefix", to("198.51.100.77", stranger(8000)), NotAllowed),
        ("beside a prefix", to("198.51.101.1", stranger(8000)), Unguarded),
        ("a client", to("192.0.2.1", client()), Allowed),
        ("a client of another host", to("192.0.2.2", client()), Unguarded),
        ("IPv6", to("2001:db8::1", six("2a00::1")), NotAllowed),
        ("IPv6, another", to("2001:db8::2", six("2a00::1")), Unguarded),
        ("IPv6, a client", to("2001:db8::1", six("fd00::1")), Allowed),
        ("UDP", to("192.0.2.1", Frame::udp("203.0.113.1", 8000)), NotAllowed),
        ("UDP to another", to("192.0.2.2", Frame::udp("203.0.113.1", 8000)), Unguarded),
        (
            "with tags and options",
            tagged(options(to("192.0.2.1", stranger(8000))), &[SERVICE_TAG, CUSTOMER_TAG]),
            NotAllowed,
        ),
        (
            "with tags, to another",
            tagged(options(to("192.0.2.2", stranger(8000))), &[SERVICE_TAG]),
            Unguarded,
        ),
        ("a block of the host", to("192.0.2.2", Frame::tcp("203.0.113.2", 8000)), Blocked),
        ("a service without destinations", to("192.0.2.2", stranger(9000)), NotAllowed),
    ];
    for (name, frame, reason) in cases {
        let frame = frame.build();
        let here = host.judge(frame.as_slice(), NOW, &mut ());
        let there = kernel.judge(&frame).with_context(|| format!("case {name:?}"))?;
        assert_eq!(here.reason, reason, "case {name:?} on the host");
        assert_eq!(there, here, "case {name:?} in the kernel");
    }
    Ok(())
}

const LIMITED: &str = r#"
[[service]]
name = "packets"
ports = [1]
allow = ["10.0.0.0/8", "fd00::/16"]
limits = "packets"

[[service]]
name = "connections"
ports = [2]
allow = ["10.0.0.0/8"]
limits = "connections"

[[service.sources]]
prefix = "10.5.0.0/16"
limits = "packets"

[limits.packets]
packets_per_second = 10
packet_burst = 3

[limits.connections]
connections_per_second = 10
connection_burst = 2
"#;

#[test]
fn limits_are_those_of_the_source_and_of_its_service() -> Result<()> {
    let plan = kernel::plan(LIMITED)?;
    let mut kernel = Kernel::new(Some(NOW))?;
    kernel.publish(&plan)?;
    let mut host = kernel::host(&plan, &[]);
    let with_flags = |flags| Frame {
        transport: Transport::Tcp { source_port: 1, port: 2, flags },
        ..Frame::tcp("10.0.0.1", 2)
    };
    let hidden = fragment(Frame { payload: ports_only(2, 8), ..raw(Frame::tcp("10.0.0.7", 2), 6) }, true, 0);
    // What is sent, how often it passes, and why the next one does not.
    let cases = [
        ("packets", Frame::segment("10.0.0.1", 1), 3, Some(PacketRate)),
        ("another source", Frame::segment("10.0.0.2", 1), 3, Some(PacketRate)),
        ("one IPv6 source", Frame::segment("fd00::1", 1), 3, Some(PacketRate)),
        ("the same /64", Frame::segment("fd00::ffff:1", 1), 0, Some(PacketRate)),
        ("another /64", Frame::segment("fd00:0:0:1::1", 1), 3, Some(PacketRate)),
        ("SYN", with_flags(SYN), 2, Some(ConnectionRate)),
        ("segments are no connections", with_flags(ACK), 20, None),
        ("SYN and ACK is no connection", with_flags(SYN | ACK), 20, None),
        ("limits of another source", Frame::tcp("10.5.0.1", 2), 3, Some(PacketRate)),
        ("a fragment that hides its flags", hidden, 2, Some(ConnectionRate)),
    ];
    for (name, frame, passes, then) in cases {
        let frame = frame.build();
        let expected = (0..passes).map(|_| Allowed).chain(then);
        for (number, reason) in expected.enumerate() {
            let here = host.judge(frame.as_slice(), NOW, &mut ());
            let there = kernel.judge(&frame).with_context(|| format!("case {name:?}, packet {number}"))?;
            assert_eq!(here.reason, reason, "case {name:?}, packet {number} on the host");
            assert_eq!(there, here, "case {name:?}, packet {number} in the kernel");
        }
    }
    Ok(())
}
