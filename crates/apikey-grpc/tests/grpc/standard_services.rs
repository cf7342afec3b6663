//! Health and reflection, on both listeners.

use prost::Message;
use tonic::Code;
use tonic_health::pb as health;
use tonic_reflection::pb::v1 as reflection;

use crate::service::{Setup, start_with};

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Both names of the one protocol: their messages are alike.
const REFLECT: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

#[tokio::test]
async fn health_follows_the_switch_and_needs_no_credential() {
    let running = start_with(Setup { listener_token: true, ..Setup::default() }).await;
    for (listener, service) in
        [(&running.public, "pidgr.v1.ApiKeyService"), (&running.verification, "pidgr.v1.ApiKeyVerificationService")]
    {
        let wire = listener.wire().await;
        for (serving, status) in [
            (true, health::health_check_response::ServingStatus::Serving),
            (false, health::health_check_response::ServingStatus::NotServing),
        ] {
            listener.serving.set(serving).await;
            for service in ["", service] {
                let question = health::HealthCheckRequest { service: service.to_owned() };
                let answer: health::HealthCheckResponse = wire.call(CHECK, &[], &question).await.message();
                assert_eq!(answer.status(), status, "{service}");
            }
        }
        let unknown = health::HealthCheckRequest { service: "pidgr.v1.Nothing".to_owned() };
        let answer = wire.call(CHECK, &[], &unknown).await;
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::NotFound, "NOT_FOUND"));
    }
}

#[tokio::test]
async fn reflection_lists_what_the_listener_serves_and_describes_it() {
    use reflection::{
        server_reflection_request::MessageRequest as Ask, server_reflection_response::MessageResponse as Told,
    };
    let running = start_with(Setup::default()).await;
    let listeners =
        [(&running.public, "pidgr.v1.ApiKeyService"), (&running.verification, "pidgr.v1.ApiKeyVerificationService")];
    for ((listener, service), reflect) in listeners.into_iter().flat_map(|served| REFLECT.map(|path| (served, path))) {
        let wire = listener.wire().await;
        let ask = async |question| {
            let request = reflection::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
            wire.call(reflect, &[], &request).await
        };
        let answer: reflection::ServerReflectionResponse = ask(Ask::ListServices(String::new())).await.message();
        let Some(Told::ListServicesResponse(listed)) = answer.message_response else { panic!("{answer:?}") };
        let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
        names.sort();
        let standard = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
        assert_eq!(names, [standard[0], standard[1], "grpc.reflection.v1alpha.ServerReflection", service]);

        // Details of errors among them, which tools show in words where they are described.
        let described = ["pidgr.v1.Permission", "google.protobuf.Timestamp", "google.rpc.BadRequest"];
        for symbol in described.into_iter().chain([service, standard[0]]) {
            let answer: reflection::ServerReflectionResponse =
                ask(Ask::FileContainingSymbol(symbol.to_owned())).await.message();
            let Some(Told::FileDescriptorResponse(files)) = answer.message_response else { panic!("{answer:?}") };
            prost_types::FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
        }
        // The error of a stream stands in its trailers, with the same details as any other.
        let answer = ask(Ask::FileContainingSymbol("pidgr.v1.Nothing".to_owned())).await;
        assert!(answer.trailers.contains_key("grpc-status"));
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::NotFound, "NOT_FOUND"));
    }
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let calls = apikey_grpc::CallLimits { reflection: false, ..apikey_grpc::CallLimits::default() };
    let running = start_with(Setup { calls, ..Setup::default() }).await;
    for (listener, path) in [(&running.public, REFLECT[0]), (&running.verification, REFLECT[1])] {
        let answer = listener.wire().await.call(path, &[], &reflection::ServerReflectionRequest::default()).await;
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"));
    }
}

#[tokio::test]
async fn whoever_watches_is_told_that_the_service_stops_and_then_the_stream_ends() {
    let running = start_with(Setup::default()).await;
    for listener in [&running.public, &running.verification] {
        listener.serving.set(true).await;
        let watch = {
            let wire = listener.wire().await;
            tokio::spawn(async move { wire.call(WATCH, &[], &health::HealthCheckRequest::default()).await })
        };
        let wire = listener.wire().await;
        // However many there are, it is among them by now.
        while !watch.is_finished() {
            wire.call(CHECK, &[], &health::HealthCheckRequest::default()).await;
            listener.serving.set(false).await;
        }
        let answer = watch.await.unwrap();
        assert_eq!((answer.code(), answer.reason().as_str()), (Code::Unavailable, "STREAM_ENDED"));
        assert!(!answer.body.is_empty(), "what it was told before");
    }
}

#[tokio::test]
async fn one_peer_watches_no_more_than_its_share() {
    let running = start_with(Setup::default()).await;
    let mut watching = tokio::task::JoinSet::new();
    let mut wires = Vec::new();
    for _ in 0..3 {
        wires.push(running.public.wire().await);
    }
    for wire in wires.iter().flat_map(|wire| std::iter::repeat_n(wire, 60)) {
        let wire = wire.clone();
        watching.spawn(async move { wire.call(WATCH, &[], &health::HealthCheckRequest::default()).await });
    }
    for _ in 0..3 * 60 - 128 {
        let refused = watching.join_next().await.unwrap().unwrap();
        assert_eq!((refused.code(), refused.reason().as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    }
    let answer = wires[0].call(CHECK, &[], &health::HealthCheckRequest::default()).await;
    assert_eq!(answer.code(), Code::Ok, "who only asks is answered");
    assert_eq!(watching.len(), 128);
}
