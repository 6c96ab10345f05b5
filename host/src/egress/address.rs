//! Which addresses may be dialled: those of the public Internet, and what the operator grants. PURE.
//!
//! The tables are IANA's special-purpose registries (RFC 6890 and its updates), read as "not
//! globally reachable", with the forms of IPv6 that carry an IPv4 address, and the one metadata
//! service that stands on a public address. Of IPv6 only global unicast, `2000::/3`, is public at all.
//!
//! Invariant: a tenant cannot grant itself an address; only [`Grants`] from the operator's settings do.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::FromStr;

use ipnet::IpNet;

/// IPv4 networks that are not the public Internet, by first address and length of prefix.
const NOT_PUBLIC_V4: [([u8; 4], u8); 17] = [
    ([0, 0, 0, 0], 8),        // this network, and unspecified
    ([10, 0, 0, 0], 8),       // private
    ([100, 64, 0, 0], 10),    // shared by carriers; a cloud's metadata
    ([127, 0, 0, 0], 8),      // loopback
    ([168, 63, 129, 16], 32), // Azure's host services, on a public address
    ([169, 254, 0, 0], 16),   // link-local; the clouds' metadata
    ([172, 16, 0, 0], 12),    // private
    ([192, 0, 0, 0], 24),     // protocol assignments; a cloud's metadata
    ([192, 0, 2, 0], 24),     // documentation
    ([192, 31, 196, 0], 24),  // AS112
    ([192, 88, 99, 0], 24),   // relays of 6to4
    ([192, 168, 0, 0], 16),   // private
    ([198, 18, 0, 0], 15),    // benchmarks
    ([198, 51, 100, 0], 24),  // documentation
    ([203, 0, 113, 0], 24),   // documentation
    ([224, 0, 0, 0], 4),      // multicast
    ([240, 0, 0, 0], 4),      // reserved, and broadcast
];

/// Networks inside `2000::/3` that are not the public Internet.
const NOT_PUBLIC_V6: [([u16; 4], u8); 4] = [
    ([0x2001, 0, 0, 0], 23), // protocol assignments: Teredo, ORCHID, benchmarks
    ([0x2001, 0xdb8, 0, 0], 32), // documentation
    ([0x2002, 0, 0, 0], 16), // 6to4, which carries an IPv4 address
    ([0x3fff, 0, 0, 0], 20), // documentation
];

/// Whether an address is of the public Internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|(first, length)| {
            prefix_v4(address, *length) == prefix_v4(Ipv4Addr::from(*first), *length)
        }),
        IpAddr::V6(address) => {
            let is_global = address.segments()[0] & 0xe000 == 0x2000;
            is_global
                && !NOT_PUBLIC_V6.iter().any(|([a, b, c, d], length)| {
                    let first = Ipv6Addr::new(*a, *b, *c, *d, 0, 0, 0, 0);
                    prefix_v6(address, *length) == prefix_v6(first, *length)
                })
        }
    }
}

fn prefix_v4(address: Ipv4Addr, length: u8) -> u32 {
    address.to_bits() >> (32 - length)
}

fn prefix_v6(address: Ipv6Addr, length: u8) -> u128 {
    address.to_bits() >> (128 - length)
}

/// Addresses that are not public and may be dialled all the same: the operator's word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

/// `10.1.0.0/16`, `127.0.0.1`, `127.0.0.1:9000`, `[::1]:9000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grant {
    net: IpNet,
    /// Every port if none.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address, network, or address with a port")]
pub struct InvalidGrant(String);

impl FromStr for Grant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self {
                net: IpNet::from(address.ip()),
                port: Some(address.port()),
            });
        }
        let net = text.parse::<IpNet>().ok();
        let net = net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let net = net.ok_or_else(|| InvalidGrant(text.to_owned()))?;
        Ok(Self { net, port: None })
    }
}

impl Grants {
    pub fn parse(texts: &[String]) -> Result<Self, InvalidGrant> {
        let grants = texts.iter().map(|text| text.parse());
        grants.collect::<Result<_, _>>().map(Self)
    }

    /// Ports that some grant names: for those the answer depends on the port.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.iter().filter_map(|grant| grant.port)
    }

    /// Whether the address may be dialled on this port.
    pub fn may_dial(&self, address: IpAddr, port: u16) -> bool {
        let grants = |grant: &Grant| {
            grant.net.contains(&address) && grant.port.is_none_or(|granted| granted == port)
        };
        is_public(address) || self.0.iter().any(grants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().unwrap_or_else(|_| panic!("{text}")))
    }

    /// The last address inside each network stands beside the first one outside it.
    #[test]
    fn addresses_that_are_not_public_end_where_their_networks_end() {
        for (inside, outside) in [
            ("0.0.0.0", "1.0.0.0"),
            ("0.255.255.255", "1.1.1.1"),
            ("10.0.0.0", "9.255.255.255"),
            ("10.255.255.255", "11.0.0.0"),
            ("100.64.0.0", "100.63.255.255"),
            ("100.127.255.255", "100.128.0.0"),
            ("100.100.100.200", "100.200.100.100"),
            ("127.0.0.1", "126.255.255.255"),
            ("127.255.255.255", "128.0.0.0"),
            ("168.63.129.16", "168.63.129.17"),
            ("169.254.169.254", "169.253.255.255"),
            ("169.254.255.255", "169.255.0.0"),
            ("172.16.0.0", "172.15.255.255"),
            ("172.31.255.255", "172.32.0.0"),
            ("192.0.0.192", "192.0.1.0"),
            ("192.0.2.1", "192.0.3.0"),
            ("192.88.99.1", "192.88.98.255"),
            ("192.168.0.0", "192.167.255.255"),
            ("192.168.255.255", "192.169.0.0"),
            ("198.18.0.0", "198.17.255.255"),
            ("198.19.255.255", "198.20.0.0"),
            ("198.51.100.7", "198.51.101.0"),
            ("203.0.113.7", "203.0.114.0"),
            ("224.0.0.1", "223.255.255.255"),
            ("239.255.255.255", "8.8.8.8"),
            ("240.0.0.1", "93.184.215.14"),
            ("255.255.255.255", "1.0.0.1"),
            ("::", "2000::"),
            ("::1", "2606:4700::1111"),
            ("::127.0.0.1", "2a00:1450::1"),
            ("::8.8.8.8", "2001:4860:4860::8888"),
            ("::ffff:127.0.0.1", "2400::1"),
            ("::ffff:8.8.8.8", "2600::1"),
            ("::ffff:0:127.0.0.1", "2800::1"),
            ("64:ff9b::7f00:1", "2c00::1"),
            ("64:ff9b::808:808", "2620:fe::fe"),
            ("64:ff9b:1::1", "2001:200::"),
            ("100::1", "2001:200::3"),
            ("2001::1", "2001:200::1"),
            ("2001:1ff::", "2001:200::2"),
            ("2001:db8::1", "2001:db7::1"),
            ("2001:db8:ffff::", "2001:db9::"),
            ("2002:7f00:1::", "2003::"),
            ("2002:808:808::", "2001:ffff::"),
            ("3fff::1", "3ffe::1"),
            ("3fff:fff::", "3fff:1000::"),
            ("4000::", "3fff:ffff::"),
            ("5f00::1", "2a02::1"),
            ("fc00::1", "2a03::1"),
            ("fd00:ec2::254", "2a04::1"),
            ("fe80::1", "2a05::1"),
            ("fec0::1", "2a06::1"),
            ("ff02::1", "2a07::1"),
        ] {
            assert!(!public(inside), "{inside} is not public");
            assert!(public(outside), "{outside} is public");
        }
    }

    #[test]
    fn the_operator_grants_addresses_networks_and_single_ports() {
        let texts = [
            "127.0.0.1:9000",
            "10.1.0.0/16",
            "192.168.0.7",
            "[::1]:80",
            "fd00::/8",
        ];
        let grants = Grants::parse(&texts.map(str::to_owned)).unwrap();
        for (granted, refused) in [
            (("127.0.0.1", 9000), ("127.0.0.1", 9001)),
            (("127.0.0.1", 9000), ("127.0.0.2", 9000)),
            (("10.1.255.255", 1), ("10.2.0.0", 1)),
            (("192.168.0.7", 443), ("192.168.0.8", 443)),
            (("::1", 80), ("::1", 443)),
            (("fd00:ec2::254", 80), ("fc00::1", 80)),
            // An address in another dress is another address.
            (("127.0.0.1", 9000), ("::ffff:127.0.0.1", 9000)),
            (("8.8.8.8", 53), ("169.254.169.254", 80)),
        ] {
            let may = |(ip, port): (&str, u16)| grants.may_dial(ip.parse().unwrap(), port);
            assert!(may(granted), "{granted:?}");
            assert!(!may(refused), "{refused:?}");
        }
        assert_eq!(grants.ports().collect::<Vec<_>>(), [9000, 80]);
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0",
            "127.0.0.1:",
            "127.0.0.1:70000",
        ] {
            assert!(Grants::parse(&[text.to_owned()]).is_err(), "{text:?}");
        }
    }
}
