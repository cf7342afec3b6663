//! Under which names a listener on loopback answers HTTP/1.1: none that a stranger's DNS can give to this machine (DNS rebinding).
//!
//! A web page may call the name that it came from. If that name's address becomes 127.0.0.1, its calls arrive here. Its name stays in
//! `Host`, though, since no script can set that.

use std::net::IpAddr;

use http::{Request, Version, header::HOST, uri::Authority};

/// What a request under another name is told.
pub const MISDIRECTED: &str = "a listener on loopback answers HTTP/1.1 to an IP address, to localhost, to a name without a dot and to \
                               one below .localhost or .internal\n";

/// Domains that cannot be bought: RFC 6761 (section 6.3), and ICANN's resolution 2024.07.29.06.
const RESERVED: [&str; 2] = [".localhost", ".internal"];

/// Whether no stranger can have made the name that a request was sent to. A request without a name is no browser's, and neither is one by
/// HTTP/2 in clear text.
pub fn is_local<B>(request: &Request<B>) -> bool {
    if request.version() >= Version::HTTP_2 {
        return true;
    }
    let mut named = request.headers().get_all(HOST).iter();
    request.uri().authority().is_none_or(is_local_authority)
        && named.all(|host| Authority::try_from(host.as_bytes()).is_ok_and(|host| is_local_authority(&host)))
}

fn is_local_authority(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if address.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    !name.contains('.') || RESERVED.iter().any(|domain| name.ends_with(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, target: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn addresses_and_names_that_nobody_can_buy_are_local() {
        for local in [
            "127.0.0.1:8081",
            "127.0.0.1",
            "10.0.0.7:9090",
            "[::1]:8081",
            "[::1]",
            "localhost:8081",
            "LOCALHOST",
            "localhost.",
            "app.localhost:1",
            "apikeys:8081",
            "host.docker.internal:9090",
        ] {
            assert!(is_local(&request(Version::HTTP_11, "/", &[local])), "{local}");
            assert!(is_local(&request(Version::HTTP_11, &format!("http://{local}/"), &[])), "{local}");
        }
        assert!(is_local(&request(Version::HTTP_10, "/", &[])));
    }

    #[test]
    fn names_of_the_public_dns_are_not_local_wherever_they_stand() {
        for other in
            ["rebound.example", "rebound.example:8081", "example.com.", "127.0.0.1.example.com", "notlocalhost.com", ""]
        {
            assert!(!is_local(&request(Version::HTTP_11, "/", &[other])), "{other}");
            assert!(!is_local(&request(Version::HTTP_11, "/", &["localhost", other])), "{other}");
        }
        assert!(!is_local(&request(Version::HTTP_11, "http://rebound.example/", &["localhost"])));
        assert!(
            is_local(&request(Version::HTTP_2, "http://service.example/", &[])),
            "no browser speaks it without TLS"
        );
    }
}
