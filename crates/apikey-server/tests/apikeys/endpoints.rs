//! What the client says of addresses that are wrong, and that it sends no key where others could read it.

use std::net::TcpListener;

use crate::harness::{Database, Done, Folder, Server, apikeys, run};

const KEY: &str = "pidgr_k_Ab3dE6gH0123456789ABCDEFGHIJKLMNOPQRSTUV3z4Fwk";

fn list(endpoint: &str, more: &[(&str, &str)]) -> Done {
    let variables = [&[("APIKEYS_ENDPOINT", endpoint), ("APIKEYS_KEY", KEY)], more].concat();
    run(apikeys(&variables, &["list"]), "")
}

#[test]
fn a_peer_that_accepts_and_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let authorities = Folder::new();
    let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert;
    let roots = authorities.file("roots.pem", &certificate.pem());
    for (scheme, said) in [("https", "no connection was set up within 50ms"), ("http", "did not answer within 50ms")] {
        let endpoint = format!("{scheme}://{address}");
        let done = list(&endpoint, &[("APIKEYS_TIMEOUT", "50ms"), ("SSL_CERT_FILE", &roots)]);
        assert!(done.code == 3 && done.stderr.contains(said) && done.stderr.contains(&endpoint), "{done:?}");
        let command = apikeys(
            &[("APIKEYS_VERIFY_ENDPOINT", &*endpoint), ("APIKEYS_VERIFY_KEY", KEY), ("SSL_CERT_FILE", &roots)],
            &["verify", "--timeout", "50ms"],
        );
        let done = run(command, "");
        assert!(done.code == 3 && done.stderr.contains(said), "{done:?}");
    }
    let long = list("http://127.0.0.1:1", &[("APIKEYS_TIMEOUT", "2h")]);
    assert!(long.code == 2 && long.stderr.contains("timeout must be a duration from 10ms to 3600s"), "{long:?}");
}

#[test]
fn a_wrong_address_is_told_by_what_is_there() {
    let folder = Folder::new();
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = folder.file("certificate.pem", &signed.cert.pem());
    let private_key = folder.file("key.pem", &signed.signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert;
    let other = folder.file("other.pem", &other.pem());
    let (database, encrypted) = (Database::sqlite(), Database::sqlite());
    let plain = Server::start_with_key(&database, &[]);
    let tls = [("APIKEYS_TLS_CERTIFICATE", &*certificate), ("APIKEYS_TLS_KEY", &*private_key)];
    let tls = Server::start_with_key(&encrypted, &tls);
    let trusted = [("SSL_CERT_FILE", &*certificate)];
    let key = tls.first_key();
    let works = list(&format!("https://{}", tls.listen), &[trusted[0], ("APIKEYS_KEY", &key)]);
    assert_eq!(works.code, 0, "{works:?}");

    for (endpoint, more, said) in [
        (format!("https://{}", plain.listen), &trusted[..], "it does not speak TLS there: is it http://?"),
        (
            format!("http://{}", tls.listen),
            &[],
            "it closed the connection without a word: where it speaks TLS, use https://",
        ),
        (format!("http://{}", plain.admin_listen), &[], "what answers is not this service, or not this listener of it"),
        (
            format!("https://{}", tls.listen),
            &[("SSL_CERT_FILE", "/nowhere/roots.pem"), ("SSL_CERT_DIR", "/nowhere")],
            "the machine has no CA certificates",
        ),
        (format!("https://{}", tls.listen), &[("SSL_CERT_FILE", &*other)], "name the file of its CA by SSL_CERT_FILE"),
        (
            format!("https://localhost:{}", tls.listen.rsplit(':').next().unwrap()),
            &trusted[..],
            "it is for other names than the host in the address",
        ),
    ] {
        let done = list(&endpoint, more);
        assert!(done.code == 3 && done.stderr.contains(&format!("{endpoint}: ")), "{done:?}");
        assert!(done.stderr.contains(said), "{said:?} is not in {done:?}");
    }
    for endpoint in [
        format!("http://{}/prefix", plain.listen),
        format!("http://user@{}", plain.listen),
        format!("http://user:hidden@{}", plain.listen),
        format!("http://{}?a=b", plain.listen),
    ] {
        let done = list(&endpoint, &[]);
        let said = "endpoint must be http://host[:port] or https://host[:port], without user, password, path and query";
        assert!(done.code == 2 && done.stderr.contains(said) && !done.stderr.contains("hidden"), "{done:?}");
    }
}

#[test]
fn keys_are_sent_in_clear_text_to_this_machine_alone() {
    // Nobody has that name (RFC 6761), so that whoever is allowed to go there does not get far.
    for (variable, command) in [("APIKEYS_ENDPOINT", "list"), ("APIKEYS_VERIFY_ENDPOINT", "verify")] {
        let setting = variable.trim_start_matches("APIKEYS_").to_lowercase();
        let keys = [("APIKEYS_KEY", KEY), ("APIKEYS_VERIFY_KEY", KEY), (variable, "http://keys.invalid:8080")];
        let refused = run(apikeys(&keys, &[command]), "");
        let said =
            format!("{setting} needs https:// beyond loopback, since keys are sent there, or endpoint_allow_plaintext");
        assert!(refused.code == 2 && refused.stderr.contains(&said), "{refused:?}");
        let allowed = run(apikeys(&keys, &[command, "--endpoint-allow-plaintext", "--timeout", "1s"]), "");
        assert_eq!(allowed.code, 3, "{allowed:?}");
        let encrypted = [keys[0], keys[1], (variable, "https://keys.invalid:8080"), ("APIKEYS_TIMEOUT", "1s")];
        assert_eq!(run(apikeys(&encrypted, &[command]), "").code, 3);
        let config = run(apikeys(&[&keys[..], &[("HOME", "/nowhere")]].concat(), &["config"]), "");
        assert!(config.code == 2 && config.stderr.contains(&said), "{config:?}");
    }
}
