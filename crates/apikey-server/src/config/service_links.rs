//! The variables by which Kubernetes tells each container where the services of its namespace are.
//!
//! For a Service named `apikeys` or `apikeys-…` their names start like those of the settings.
//! <https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables>

use std::net::IpAddr;

/// The protocols of a Service's ports.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Whether a variable has the name and the value of a service link. `name` is what follows `APIKEYS_`.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    // A Service named `apikeys-verify` puts its own name in between.
    let starts = name.char_indices().filter(|(start, _)| *start == 0 || name[..*start].ends_with('_'));
    starts.map(|(start, _)| &name[start..]).any(|rest| has_shape(rest, value))
}

fn has_shape(name: &str, value: &str) -> bool {
    if name == "SERVICE_HOST" {
        return is_address(value);
    }
    if let Some(rest) = name.strip_prefix("SERVICE_PORT") {
        return (rest.is_empty() || is_port_name(rest)) && is_port(value);
    }
    let Some(rest) = name.strip_prefix("PORT") else { return false };
    if rest.is_empty() {
        return PROTOCOLS.iter().any(|protocol| is_endpoint(value, protocol, None));
    }
    let mut parts = rest.split('_');
    let (Some(""), Some(port), Some(protocol)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let what = parts.next();
    if !is_port(port) || !PROTOCOLS.contains(&protocol) || parts.next().is_some() {
        return false;
    }
    match what {
        None => is_endpoint(value, protocol, Some(port)),
        Some("PROTO") => value.eq_ignore_ascii_case(protocol),
        Some("PORT") => value == port,
        Some("ADDR") => is_address(value),
        Some(_) => false,
    }
}

/// `tcp://10.0.0.1:8080`.
fn is_endpoint(value: &str, protocol: &str, port: Option<&str>) -> bool {
    let Some((scheme, place)) = value.split_once("://") else { return false };
    let Some((host, at)) = place.rsplit_once(':') else { return false };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    scheme.eq_ignore_ascii_case(protocol) && is_address(host) && is_port(at) && port.is_none_or(|port| port == at)
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port != 0) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `_GRPC`: the name of a port, in capitals.
fn is_port_name(text: &str) -> bool {
    let name = text.strip_prefix('_').unwrap_or_default();
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn the_variables_of_a_service_are_recognized() {
        for (name, value) in [
            ("PORT", "tcp://10.0.0.1:8080"),
            ("PORT", "udp://10.0.0.1:53"),
            ("PORT", "tcp://[fd00::1]:8080"),
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_HOST", "fd00::1"),
            ("SERVICE_PORT", "8080"),
            ("SERVICE_PORT_GRPC", "8080"),
            ("SERVICE_PORT_GRPC_WEB", "8080"),
            ("PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP_PROTO", "tcp"),
            ("PORT_8080_TCP_PORT", "8080"),
            ("PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("PORT_9000_SCTP_ADDR", "fd00::1"),
            ("VERIFY_PORT", "tcp://10.0.0.1:8081"),
            ("VERIFY_V2_SERVICE_PORT_HTTPS", "443"),
            ("ADMIN_PORT_9090_TCP_ADDR", "10.0.0.2"),
        ] {
            assert!(is_service_link(name, value), "{name}={value}");
        }
    }

    #[test]
    fn other_names_and_other_values_are_not() {
        for (name, value) in [
            ("PORT", "8080"),
            ("PORT", "postgres://10.0.0.1:8080"),
            ("PORT", "tcp://example.com:8080"),
            ("LISTEN_PORT", "8080"),
            ("LISTNE", "127.0.0.1:8080"),
            ("SERVICE_HOST", "db.example.com"),
            ("SERVICE_PORT_", "8080"),
            ("SERVICE_PORTGRPC", "8080"),
            ("SERVICE_PORT", "+8080"),
            ("PORT_8080_TCP", "tcp://10.0.0.1:8081"),
            ("PORT_8080_TCP", "udp://10.0.0.1:8080"),
            ("PORT_8080_TCP_ADDR", ""),
            ("PORT_8080_TCP_NAME", "x"),
            ("PORT_8080_TCP_ADDR_X", "10.0.0.1"),
            ("PORT_HTTP_TCP", "tcp://10.0.0.1:8080"),
            ("XPORT", "tcp://10.0.0.1:8080"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }

    #[test]
    fn no_setting_has_such_a_name() {
        for setting in SETTINGS {
            let name = setting.name.to_ascii_uppercase();
            for value in ["tcp://10.0.0.1:8080", "10.0.0.1", "8080", "tcp"] {
                assert!(!is_service_link(&name, value), "{name}");
            }
        }
    }
}
