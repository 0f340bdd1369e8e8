//! Shapes of packets that slip through many filters: from a stranger none of them reaches the guarded port, from an allowed client each
//! arrives that the host's stack accepts.

use anyhow::{Result, ensure};
use guard_tests::frame::{CUSTOMER_TAG, Extension, Frame, SERVICE_TAG};
use guard_tests::guard::Guard;
use guard_tests::listener::UdpCounter;
use guard_tests::net::Host;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, STRANGER, Scene, to_server};

const PORT: u16 = 8000;

/// A name, the frames of one datagram, and whether a bare Linux takes it and guard lets it through to there; none where that is up to the
/// switch and the kernel.
type Shape = (&'static str, Vec<Vec<u8>>, Option<bool>);

fn shapes([v4, v6]: [&str; 2]) -> Vec<Shape> {
    use Extension::{DestinationOptions, HopByHop};
    let datagram = |source| Frame { payload: vec![0x55; 32], ..to_server(Frame::udp(source, PORT)) };
    let tagged = |source, tags: &[u16]| Frame {
        vlan: tags.iter().map(|kind| (*kind, 0)).collect(),
        ..datagram(source)
    };
    let extended = |extensions| Frame { extensions, ..datagram(v6) };
    let one = |frame: Frame| vec![frame.build()];
    let parts = |frame: Frame, size| frame.fragments(size, 77).iter().map(Frame::build).collect::<Vec<_>>();
    let atomic = Extension::Fragment { offset: 0, more: false, identification: 9 };
    vec![
        ("plain", one(datagram(v4)), Some(true)),
        ("plain, IPv6", one(datagram(v6)), Some(true)),
        ("priority tag", one(tagged(v4, &[CUSTOMER_TAG])), Some(true)),
        ("priority tag, IPv6", one(tagged(v6, &[CUSTOMER_TAG])), Some(true)),
        ("QinQ 0/0", one(tagged(v4, &[SERVICE_TAG, CUSTOMER_TAG])), Some(true)),
        // Linux strips any number of empty tags; guard looks through two.
        ("three tags", one(tagged(v4, &[SERVICE_TAG, CUSTOMER_TAG, CUSTOMER_TAG])), None),
        ("five tags", one(tagged(v4, &[CUSTOMER_TAG; 5])), None),
        ("40 bytes of IPv4 options", one(Frame { options: vec![1; 40], ..datagram(v4) }), Some(true)),
        ("fragments of 8 bytes", parts(datagram(v4), 8), Some(true)),
        ("fragments of 16 bytes, IPv6", parts(datagram(v6), 16), Some(true)),
        ("hop-by-hop", one(extended(vec![HopByHop(0)])), Some(true)),
        ("130 words of destination options", one(extended(vec![DestinationOptions(130)])), Some(true)),
        (
            "hop-by-hop and destination options",
            one(extended(vec![HopByHop(0), DestinationOptions(0)])),
            Some(true),
        ),
        ("atomic fragment", one(extended(vec![atomic])), Some(true)),
        ("padding", one(Frame { padding: 12, ..datagram(v4) }), Some(true)),
    ]
}

/// Sends each shape and says which of them arrived.
fn arrivals(host: &Host, shapes: &[Shape], listener: &UdpCounter) -> Result<Vec<(&'static str, bool)>> {
    let wire = Wire::open(host)?;
    let mut arrivals = Vec::new();
    for (name, frames, _) in shapes {
        let before = listener.settled();
        for frame in frames {
            wire.send(frame)?;
        }
        let arrived = listener.settled() - before;
        ensure!(arrived <= 1, "{name}: {arrived} datagrams of one");
        arrivals.push((*name, arrived == 1));
    }
    Ok(arrivals)
}

#[test]
fn no_shape_of_a_stranger_arrives_and_every_honest_one_of_a_client_does() -> Result<()> {
    let scene = Scene::new()?;
    let listener = UdpCounter::listen(&scene.server, PORT)?;
    // Without guard: what the host's stack takes. This is what shows that the test can fail.
    for (host, source) in [(&scene.client, CLIENT), (&scene.stranger, STRANGER)] {
        let shapes = shapes(source);
        for ((name, arrived), (_, _, taken)) in arrivals(host, &shapes, &listener)?.into_iter().zip(&shapes) {
            assert!(taken.is_none_or(|taken| taken == arrived), "{name} without guard: arrived is {arrived}");
        }
    }
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [{PORT}]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    for (name, arrived) in arrivals(&scene.stranger, &shapes(STRANGER), &listener)? {
        assert!(!arrived, "{name} of a stranger arrived: {:?}", guard.counts()?);
    }
    let shapes = shapes(CLIENT);
    for ((name, arrived), (_, _, taken)) in
        arrivals(&scene.client, &shapes, &listener)?.into_iter().zip(&shapes)
    {
        assert!(
            taken.is_none_or(|taken| taken == arrived),
            "{name} of an allowed client: {:?}",
            guard.counts()?
        );
    }
    Ok(())
}
