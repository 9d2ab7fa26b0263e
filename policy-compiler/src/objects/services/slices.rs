//! EndpointSlices, checked and found by Service.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as discovery;

use super::protocol;
use crate::intent::{Backend, ObjectName, Protocol};
use crate::objects::address::{address, port};
use crate::objects::{ObjectError, Objects};

/// The label that says which Service of the namespace a slice belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Relative share of a backend: all alike, Kubernetes knows no weights.
const WEIGHT: u32 = 1;

/// The slices of each Service, in the order of their names.
pub(super) struct Slices<'a> {
    of_service: BTreeMap<ObjectName, Vec<Slice<'a>>>,
}

struct Slice<'a> {
    ipv6: bool,
    ports: Vec<(&'a str, Protocol, u16)>,
    /// The first address of each endpoint (clients may take any one of them) and the endpoint.
    endpoints: Vec<(IpAddr, &'a discovery::Endpoint)>,
}

impl<'a> Slices<'a> {
    /// Reads every slice of host addresses that is labelled with a Service.
    ///
    /// # Errors
    /// [`ObjectError`] naming the slice and the field.
    pub(super) fn read(objects: &'a Objects) -> Result<Self, ObjectError> {
        let mut of_service: BTreeMap<ObjectName, Vec<Slice<'a>>> = BTreeMap::new();
        for (name, object) in &objects.endpoint_slices {
            let labels = object.metadata.labels.as_ref();
            let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) else { continue };
            if let Some(slice) = read_slice(name, object)? {
                of_service.entry(ObjectName::new(&name.namespace, service)).or_default().push(slice);
            }
        }
        Ok(Slices { of_service })
    }

    /// The endpoints of a Service port. One that several slices list counts once, in its best condition: a pod
    /// that moves between slices is for a moment in both.
    pub(super) fn backends(
        &self,
        service: &ObjectName,
        name: &str,
        protocol: Protocol,
        ipv6: bool,
    ) -> Vec<Backend> {
        let mut backends: Vec<Backend> = Vec::new();
        let mut known: BTreeMap<(IpAddr, u16), usize> = BTreeMap::new();
        let slices = self.of_service.get(service).into_iter().flatten().filter(|slice| slice.ipv6 == ipv6);
        for slice in slices {
            for (_, _, port) in slice.ports.iter().filter(|(n, p, _)| (*n, *p) == (name, protocol)) {
                for (address, endpoint) in &slice.endpoints {
                    let next = backend(*address, *port, endpoint);
                    match known.entry((*address, *port)) {
                        Entry::Vacant(vacant) => {
                            vacant.insert(backends.len());
                            backends.push(next);
                        }
                        Entry::Occupied(there) => {
                            let better =
                                |old: &&mut Backend| (next.ready, next.serving) > (old.ready, old.serving);
                            if let Some(old) = backends.get_mut(*there.get()).filter(better) {
                                *old = next;
                            }
                        }
                    }
                }
            }
        }
        backends
    }
}

/// `None` for slices of domain names.
fn read_slice<'a>(
    name: &ObjectName,
    object: &'a discovery::EndpointSlice,
) -> Result<Option<Slice<'a>>, ObjectError> {
    let fail = |field: String, problem: String| ObjectError::new("EndpointSlice", name, field, problem);
    let ipv6 = match object.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return Ok(None),
        other => return Err(fail("addressType".into(), format!("{other:?} is none of IPv4, IPv6, FQDN"))),
    };
    let mut ports = Vec::new();
    for (index, object) in object.ports.iter().flatten().enumerate() {
        let field = |field: &str| format!("ports[{index}].{field}");
        let protocol =
            protocol(object.protocol.as_deref()).map_err(|problem| fail(field("protocol"), problem))?;
        // A port without a number means every port, which no Service port can be sent to.
        let Some(number) = object.port else { continue };
        let number = port(number).map_err(|problem| fail(field("port"), problem))?;
        ports.push((object.name.as_deref().unwrap_or_default(), protocol, number));
    }
    let mut endpoints = Vec::with_capacity(object.endpoints.len());
    for (index, endpoint) in object.endpoints.iter().enumerate() {
        let mut addresses = Vec::with_capacity(endpoint.addresses.len());
        for (position, text) in endpoint.addresses.iter().enumerate() {
            let field = || format!("endpoints[{index}].addresses[{position}]");
            let parsed = address(text).map_err(|problem| fail(field(), problem))?;
            if parsed.is_ipv6() != ipv6 {
                return Err(fail(field(), format!("{parsed} is not of addressType {}", object.address_type)));
            }
            addresses.push(parsed);
        }
        let Some(first) = addresses.first() else {
            return Err(fail(format!("endpoints[{index}].addresses"), "is empty".into()));
        };
        endpoints.push((*first, endpoint));
    }
    Ok(Some(Slice { ipv6, ports, endpoints }))
}

/// One endpoint, with the API's meaning of what is left out: ready, serving as it is ready, not terminating.
fn backend(address: IpAddr, port: u16, endpoint: &discovery::Endpoint) -> Backend {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    Backend {
        address,
        port,
        node: endpoint.node_name.clone().unwrap_or_default(),
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        zone_hints: zones.iter().map(|zone| zone.name.clone()).collect(),
        node_hints: nodes.iter().map(|node| node.name.clone()).collect(),
        weight: WEIGHT,
    }
}
