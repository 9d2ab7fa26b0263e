//! Objects in, Services or a complaint out.

use serde_json::{Value, json};

use super::*;
use crate::intent::Backend;

fn name_of(object: &Value) -> ObjectName {
    let field = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    ObjectName::new(field("namespace"), field("name"))
}

fn objects(services: &[Value], slices: &[Value]) -> Objects {
    let mut objects = Objects::default();
    for service in services {
        objects.services.insert(name_of(service), serde_json::from_value(service.clone()).unwrap());
    }
    for slice in slices {
        objects.endpoint_slices.insert(name_of(slice), serde_json::from_value(slice.clone()).unwrap());
    }
    objects
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

/// A Service `web` on port 80 called `http`, with more in its spec.
fn web(more: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    service("web", spec)
}

fn slice(name: &str, addresses: &[&str], ports: Value) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    })
}

fn read(services: &[Value], slices: &[Value]) -> (Vec<Service>, Vec<String>) {
    let mut warnings = Vec::new();
    let read = super::services(&objects(services, slices), &mut warnings).unwrap();
    (read, warnings.iter().map(Warning::to_string).collect())
}

fn complaint(services: &[Value], slices: &[Value]) -> String {
    super::services(&objects(services, slices), &mut Vec::new()).unwrap_err().to_string()
}

fn addresses(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|backend| format!("{}:{}", backend.address, backend.port)).collect()
}

fn frontends(service: &Service) -> Vec<String> {
    let address = |f: &Frontend| f.address.map_or(String::new(), |address| address.to_string());
    service.frontends.iter().map(|f| format!("{:?} {} {}", f.kind, address(f), f.port)).collect()
}

#[test]
fn a_service_with_everything() {
    let mut object = web(json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.10", "fd00:96::a"], "externalIPs": ["203.0.113.1", "2001:db8::1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "loadBalancerSourceRanges": ["198.51.100.7/24", " 2001:db8:1::/48 "],
    }));
    object["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"ip": "2001:db8::2", "ipMode": "VIP"}, {"hostname": "lb"},
    ]}});
    let (services, warnings) = read(
        &[object],
        &[slice("web-1", &["10.244.0.5"], json!([{"name": "dns", "port": 5353, "protocol": "UDP"}]))],
    );
    assert_eq!(warnings, Vec::<String>::new());
    let got: Vec<_> =
        services.iter().map(|s| (s.port_name.as_str(), frontends(s), addresses(&s.backends))).collect();
    let row = |port, frontends: &[&str], backends: &[&str]| {
        (
            port,
            frontends.iter().map(|s| s.to_string()).collect::<Vec<_>>(),
            backends.iter().map(|s| s.to_string()).collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        got,
        [
            row(
                "http",
                &[
                    "ClusterIp 10.96.0.10 80",
                    "NodePort  30080",
                    "ExternalIp 203.0.113.1 80",
                    "LoadBalancer 192.0.2.1 80"
                ],
                &[]
            ),
            row(
                "dns",
                &["ClusterIp 10.96.0.10 53", "ExternalIp 203.0.113.1 53", "LoadBalancer 192.0.2.1 53"],
                &["10.244.0.5:5353"]
            ),
            row(
                "http",
                &[
                    "ClusterIp fd00:96::a 80",
                    "NodePort  30080",
                    "ExternalIp 2001:db8::1 80",
                    "LoadBalancer 2001:db8::2 80"
                ],
                &[]
            ),
            row(
                "dns",
                &["ClusterIp fd00:96::a 53", "ExternalIp 2001:db8::1 53", "LoadBalancer 2001:db8::2 53"],
                &[]
            ),
        ]
    );
    let (v4, v6) = (&services[0], &services[2]);
    assert_eq!((v4.internal_policy, v4.external_policy), (TrafficPolicy::Local, TrafficPolicy::Local));
    assert_eq!((v4.affinity_seconds, services[1].protocol), (Some(10_800), Some(Protocol::Udp)));
    assert_eq!(v4.source_ranges, ["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(v6.source_ranges, ["2001:db8:1::/48".parse().unwrap()]);
}

#[test]
fn backends_come_from_all_slices_by_port_name_and_each_once() {
    let mut moved = slice("web-2", &["10.244.0.6", "10.244.0.7"], json!([{"name": "http", "port": 8080}]));
    moved["endpoints"][0]["conditions"] = json!({"ready": false});
    let first = slice(
        "web-1",
        &["10.244.0.5", "10.244.0.6"],
        json!([{"name": "metrics", "port": 9090}, {"name": "http", "port": 8080}]),
    );
    let other_port = slice("web-3", &["10.244.0.8"], json!([{"name": "http", "port": 8081}]));
    let mut elsewhere = slice("web-4", &["10.244.0.9"], json!([{"name": "http", "port": 8080}]));
    elsewhere["metadata"]["labels"]["kubernetes.io/service-name"] = json!("api");
    let udp = slice("web-5", &["10.244.0.10"], json!([{"name": "http", "port": 8080, "protocol": "UDP"}]));
    let unnumbered = slice("web-6", &["10.244.0.11"], json!([{"name": "http"}]));
    let mut unlabelled = slice("web-7", &["10.244.0.12"], json!([{"name": "http", "port": 8080}]));
    unlabelled["metadata"]["labels"] = json!({});
    let slices = [moved, first, other_port, elsewhere, udp, unnumbered, unlabelled];
    let (services, warnings) = read(&[web(json!({}))], &slices);
    let expected = ["10.244.0.5:8080", "10.244.0.6:8080", "10.244.0.7:8080", "10.244.0.8:8081"];
    assert_eq!(addresses(&services[0].backends), expected);
    assert!(services[0].backends.iter().all(|b| b.ready && b.serving && !b.terminating && b.weight == 1));
    assert!(warnings.is_empty());
}

#[test]
fn the_better_of_two_listings_counts_wherever_it_stands() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut slices =
            ["web-1", "web-2"].map(|name| slice(name, &["10.244.0.5"], json!([{"name": "http", "port": 1}])));
        slices[first]["endpoints"][0]["conditions"] =
            json!({"ready": false, "serving": true, "terminating": true});
        slices[second]["endpoints"][0]["conditions"] = json!({"ready": true});
        let (services, _) = read(&[web(json!({}))], &slices);
        assert_eq!(services[0].backends.len(), 1);
        assert!(services[0].backends[0].ready && !services[0].backends[0].terminating);
    }
}

#[test]
fn conditions_left_out_have_the_apis_meaning() {
    let rows = [
        (json!({}), (true, true, false)),
        (json!({"ready": false}), (false, false, false)),
        (json!({"ready": false, "terminating": true}), (false, false, true)),
        (json!({"ready": false, "serving": true, "terminating": true}), (false, true, true)),
        (json!({"serving": false}), (true, false, false)),
    ];
    for (conditions, expected) in rows {
        let mut object = slice("web-1", &["10.244.0.5"], json!([{"name": "http", "port": 1}]));
        object["endpoints"][0]["conditions"] = conditions.clone();
        object["endpoints"][0]["hints"] = json!({"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]});
        object["endpoints"][0]["nodeName"] = json!("n");
        let (services, _) = read(&[web(json!({}))], &[object]);
        let backend = &services[0].backends[0];
        assert_eq!((backend.ready, backend.serving, backend.terminating), expected, "{conditions}");
        assert_eq!(
            (&backend.node, &backend.zone_hints, &backend.node_hints),
            (&"n".into(), &vec!["z".into()], &vec!["n".into()])
        );
    }
}

#[test]
fn what_is_no_proxys_is_left_out_without_a_word() {
    let mut elsewhere = web(json!({}));
    elsewhere["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    let rows = [
        web(json!({"clusterIP": "None"})),
        web(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": []})),
        web(json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": null, "ports": null})),
        elsewhere,
    ];
    for row in rows {
        assert_eq!(read(std::slice::from_ref(&row), &[]), (Vec::new(), Vec::new()), "{row}");
    }
}

#[test]
fn a_service_without_an_address_is_left_out_with_a_warning() {
    let (services, warnings) = read(&[web(json!({"clusterIP": null}))], &[]);
    assert_eq!(
        (services.len(), warnings),
        (0, vec!["Service shop/web: has no cluster address yet; it is left out".into()])
    );
}

#[test]
fn an_external_address_belongs_to_the_first_and_never_over_a_cluster_address() {
    let thief = service(
        "a",
        json!({"clusterIP": "10.96.0.1", "externalIPs": ["10.96.0.10", "203.0.113.1"], "ports": [{"port": 80}]}),
    );
    let late = web(json!({"externalIPs": ["203.0.113.1"]}));
    let (services, warnings) = read(&[thief, late], &[]);
    assert_eq!(frontends(&services[0]), ["ClusterIp 10.96.0.1 80", "ExternalIp 203.0.113.1 80"]);
    assert_eq!(frontends(&services[1]), ["ClusterIp 10.96.0.10 80"]);
    assert_eq!(
        warnings,
        [
            "Service shop/a: 10.96.0.10 port 80 is Service shop/web's already; left to it",
            "Service shop/web: 203.0.113.1 port 80 is Service shop/a's already; left to it",
        ]
    );
}

#[test]
fn services_that_cannot_be_are_refused_by_field() {
    let port = |port: Value| web(json!({"ports": [port]}));
    let two = |a: Value, b: Value| web(json!({"ports": [a, b]}));
    let balanced = |ingress: Value| {
        let mut object = web(json!({}));
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, ingress]}});
        object
    };
    let rows = [
        (json!({"metadata": {"namespace": "shop", "name": "web"}}), "spec: is missing"),
        (web(json!({"type": "Clusterip"})), "spec.type: \"Clusterip\" is no type of Service"),
        (web(json!({"ports": []})), "spec.ports: is empty"),
        (port(json!({"port": 0})), "spec.ports[0].port: 0 is not a port (1-65535)"),
        (port(json!({"port": 70000})), "spec.ports[0].port: 70000 is not a port (1-65535)"),
        (port(json!({"port": 80, "nodePort": -1})), "spec.ports[0].nodePort: -1 is not a port (1-65535)"),
        (
            port(json!({"port": 80, "protocol": "tcp"})),
            "spec.ports[0].protocol: \"tcp\" is none of TCP, UDP, SCTP",
        ),
        (
            two(json!({"name": "a", "port": 1}), json!({"port": 2})),
            "spec.ports[1].name: is missing: a Service with several ports names each",
        ),
        (
            two(json!({"name": "a", "port": 1}), json!({"name": "a", "port": 2})),
            "spec.ports[1].name: \"a\" is the name of another port, too",
        ),
        (
            two(json!({"name": "a", "port": 1}), json!({"name": "b", "port": 1})),
            "spec.ports[1].port: 1 is listed twice for its protocol",
        ),
        (
            two(
                json!({"name": "a", "port": 1, "nodePort": 30001}),
                json!({"name": "b", "port": 2, "nodePort": 30001}),
            ),
            "spec.ports[1].nodePort: 30001 is a node port of Service shop/web already",
        ),
        (web(json!({"clusterIP": "10.96.0"})), "spec.clusterIP: \"10.96.0\" is not an IP address"),
        (
            web(json!({"clusterIPs": ["10.96.0.11"]})),
            "spec.clusterIP: \"10.96.0.10\" is not the first of spec.clusterIPs (\"10.96.0.11\")",
        ),
        (
            web(json!({"clusterIPs": ["10.96.0.10", "10.96.0.11"]})),
            "spec.clusterIPs[1]: 10.96.0.11 is a second address of its family",
        ),
        (
            web(json!({"externalIPs": ["203.0.113.1", "x"]})),
            "spec.externalIPs[1]: \"x\" is not an IP address",
        ),
        (
            web(json!({"loadBalancerSourceRanges": ["10.0.0.0/40"]})),
            "spec.loadBalancerSourceRanges[0]: \"10.0.0.0/40\" is not a prefix",
        ),
        (
            web(json!({"internalTrafficPolicy": "local"})),
            "spec.internalTrafficPolicy: \"local\" is neither Cluster nor Local",
        ),
        (
            web(json!({"externalTrafficPolicy": "Near"})),
            "spec.externalTrafficPolicy: \"Near\" is neither Cluster nor Local",
        ),
        (
            web(json!({"sessionAffinity": "Cookie"})),
            "spec.sessionAffinity: \"Cookie\" is neither None nor ClientIP",
        ),
        (
            web(
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            ),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not within 1 to 86400",
        ),
        (balanced(json!({"ip": "lb"})), "status.loadBalancer.ingress[1].ip: \"lb\" is not an IP address"),
        (
            balanced(json!({"ip": "192.0.2.1", "ipMode": "vip"})),
            "status.loadBalancer.ingress[1].ipMode: \"vip\" is neither VIP nor Proxy",
        ),
    ];
    for (object, expected) in rows {
        assert_eq!(
            complaint(std::slice::from_ref(&object), &[]),
            format!("Service shop/web: {expected}"),
            "{object}"
        );
    }
}

#[test]
fn an_address_or_node_port_of_another_service_is_refused() {
    let twin = |spec: Value| service("zwin", spec);
    let address = twin(json!({"clusterIP": "10.96.0.10", "ports": [{"port": 81}]}));
    let expected =
        "Service shop/zwin: spec.clusterIPs[0]: 10.96.0.10 is an address of Service shop/web already";
    assert_eq!(complaint(&[web(json!({})), address], &[]), expected);
    let first = web(json!({"ports": [{"port": 80, "nodePort": 30080}]}));
    let number = twin(json!({"clusterIP": "10.96.0.11", "ports": [{"port": 80, "nodePort": 30080}]}));
    let expected =
        "Service shop/zwin: spec.ports[0].nodePort: 30080 is a node port of Service shop/web already";
    assert_eq!(complaint(&[first.clone(), number.clone()], &[]), expected);
    let udp = twin(
        json!({"clusterIP": "10.96.0.11", "ports": [{"port": 80, "nodePort": 30080, "protocol": "UDP"}]}),
    );
    assert_eq!(read(&[first, udp], &[]).0.len(), 2, "each protocol has node ports of its own");
}

#[test]
fn slices_that_cannot_be_are_refused_by_field() {
    let with = |field: &str, value: Value| {
        let mut object =
            slice("web-1", &["10.244.0.5", "10.244.0.6"], json!([{"name": "http", "port": 8080}]));
        *object.pointer_mut(field).unwrap() = value;
        object
    };
    let rows = [
        (with("/addressType", json!("ipv4")), "addressType: \"ipv4\" is none of IPv4, IPv6, FQDN"),
        (
            with("/addressType", json!("IPv6")),
            "endpoints[0].addresses[0]: 10.244.0.5 is not of addressType IPv6",
        ),
        (
            with("/endpoints/1/addresses", json!(["10.244.0.6", "x"])),
            "endpoints[1].addresses[1]: \"x\" is not an IP address",
        ),
        (with("/endpoints/1/addresses", json!([])), "endpoints[1].addresses: is empty"),
        (with("/ports/0/port", json!(65536)), "ports[0].port: 65536 is not a port (1-65535)"),
        (
            with("/ports/0", json!({"port": 1, "protocol": "ICMP"})),
            "ports[0].protocol: \"ICMP\" is none of TCP, UDP, SCTP",
        ),
    ];
    for (object, expected) in rows {
        let complaint = complaint(&[web(json!({}))], std::slice::from_ref(&object));
        assert_eq!(complaint, format!("EndpointSlice shop/web-1: {expected}"), "{object}");
    }
    let names = with("/addressType", json!("FQDN"));
    assert_eq!(read(&[web(json!({}))], &[names]).0[0].backends, []);
}
