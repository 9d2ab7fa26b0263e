//! The kernel: its IPv4 forwarding alone, or with the same policy and Service in nftables and its vxlan device.

use anyhow::Result;

use super::links::{BACKEND, CLIENT, INNER, Links, NEXT_HOP, NODES, is_tunnelled_to};
use super::party::{Load, Party, Round, Trial};
use crate::cluster::{VNI, WEB};
use crate::lab::GATEWAY_V4;
use crate::netns::run;
use crate::stage::ECHO;

/// What it is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Forward.
    Forwarding,
    /// What penstockd does.
    PolicyServiceVxlan,
}

/// The links and the kernel's configuration.
pub(super) struct Rig {
    links: Links,
    work: Work,
    told: Vec<String>,
}

impl Rig {
    /// Configures it and lets a few packets through.
    pub(super) fn up(tag: &str, work: Work) -> Result<Self> {
        let name = match work {
            Work::Forwarding => "kernel",
            Work::PolicyServiceVxlan => "nftables",
        };
        let mut rig = Rig { links: Links::make(tag, name)?, work, told: Vec::new() };
        rig.route()?;
        match work {
            Work::Forwarding => {
                rig.ip(&format!("route add {}/32 via {} dev out0", WEB[0], NODES[1]))?;
                // Forwarded: one hop fewer than the client's 64.
                rig.links.prove("one hop on", |frame| frame.get(22) == Some(&63))?;
            }
            Work::PolicyServiceVxlan => {
                rig.tunnel()?;
                rig.rules()?;
                rig.links.prove("in a tunnel to the backend", |frame| is_tunnelled_to(frame, BACKEND))?;
            }
        }
        Ok(rig)
    }

    /// A router between the two links, which works on the CPU that the others' workers have.
    fn route(&mut self) -> Result<()> {
        for (key, value) in [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0")] {
            self.links.inside.sysctl(key, value)?;
            self.told.push(format!("sysctl net.{}={value}", key.replace('/', ".")));
        }
        self.ip(&format!("addr add {GATEWAY_V4}/32 dev in0"))?;
        self.ip(&format!("route add {CLIENT}/32 dev in0"))?;
        self.ip(&format!("addr add {}/24 dev out0", NODES[0]))?;
        self.ip(&format!("neigh replace {} lladdr {NEXT_HOP} dev out0 nud permanent", NODES[1]))?;
        self.links.receive_on(&self.links.inside, "in0", 0)?;
        self.told.push("in0: gro on, threaded NAPI on CPU 0".to_owned());
        Ok(())
    }

    fn tunnel(&mut self) -> Result<()> {
        let [own, other] = NODES;
        self.ip(&format!("link add vx0 type vxlan id {VNI} local {own} dstport 4789 nolearning dev out0"))?;
        self.links.inside.sysctl("ipv6/conf/vx0/disable_ipv6", "1")?;
        self.ip("link set dev vx0 up")?;
        self.ip("addr add 10.244.1.1/32 dev vx0")?;
        self.ip("route add 10.244.2.0/24 via 10.244.2.0 dev vx0 onlink")?;
        self.ip(&format!("neigh replace 10.244.2.0 lladdr {INNER} dev vx0 nud permanent"))?;
        self.links.inside.command("bridge", &["fdb", "replace", INNER, "dev", "vx0", "dst", other])?;
        self.told.push(format!("bridge fdb replace {INNER} dev vx0 dst {other}"));
        Ok(())
    }

    /// The Service as kube-proxy's nftables mode has it: a map of frontends, a map of backends. The policy as a set of
    /// addresses that may come to a port; established connections pass before it.
    fn rules(&mut self) -> Result<()> {
        let rules = format!(
            "table ip penstock {{
  set client-pods {{ type ipv4_addr; elements = {{ {CLIENT}, 10.244.1.20 }}; }}
  map services {{
    type ipv4_addr . inet_proto . inet_service : verdict;
    elements = {{ {web} . udp . 7 : goto web-echo }};
  }}
  chain web-echo {{
    meta l4proto udp dnat ip addr . port to numgen random mod 1 map {{ 0 : {BACKEND} . {ECHO} }};
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr . meta l4proto . th dport vmap @services;
  }}
  chain policy-web-b {{ ip saddr @client-pods udp dport {ECHO} accept; drop; }}
  chain forward {{
    type filter hook forward priority filter;
    ct state vmap {{ established : accept, related : accept, invalid : drop }};
    ip daddr vmap {{ {BACKEND} : goto policy-web-b }};
  }}
}}
",
            web = WEB[0],
        );
        let path = self.links.log("rules.nft");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, &rules)?;
        self.links.inside.command("nft", &["-f", &path.display().to_string()])?;
        self.told.push(format!("nft -f: {}", rules.split_whitespace().collect::<Vec<_>>().join(" ")));
        Ok(())
    }

    fn ip(&mut self, words: &str) -> Result<()> {
        self.links.inside.ip(words)?;
        self.told.push(format!("ip {words}"));
        Ok(())
    }
}

impl Party for Rig {
    fn name(&self) -> &'static str {
        match self.work {
            Work::Forwarding => "kernel",
            Work::PolicyServiceVxlan => "nftables",
        }
    }

    fn does(&self) -> &'static str {
        match self.work {
            Work::Forwarding => "forwarding",
            Work::PolicyServiceVxlan => "policy, Service, VXLAN",
        }
    }

    fn version(&self) -> Result<String> {
        let kernel = run("uname", &["-r"])?;
        let kernel = format!("Linux {}", kernel.trim());
        Ok(match self.work {
            Work::Forwarding => kernel,
            Work::PolicyServiceVxlan => format!("{kernel}, {}", run("nft", &["--version"])?.trim()),
        })
    }

    fn setup(&self) -> String {
        self.told.join("; ")
    }

    fn round(&mut self, load: &Load) -> Result<Round> {
        self.links.path()?.count(load)
    }

    fn trial(&mut self, load: &Load, pps: f64) -> Result<Trial> {
        self.links.path()?.trial(load, pps)
    }
}
