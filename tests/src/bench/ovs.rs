//! Open vSwitch with its userspace datapath on AF_XDP, and the same policy, Service and VXLAN in OpenFlow: connection
//! tracking with NAT for the Service, flows for the policy, a vxlan port for the tunnel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::links::{BACKEND, CLIENT, INNER, Links, NEXT_HOP, NODES, is_tunnelled_to};
use super::party::{Load, Party, Round, Trial};
use crate::cluster::{VNI, WEB};
use crate::daemon::Daemon;
use crate::lab;
use crate::netns::run;
use crate::stage::ECHO;
use crate::wait_for;

/// How long its daemons may take to come up and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// The build without DPDK: its AF_XDP is its own.
const SWITCH: &str = "/usr/lib/openvswitch-switch/ovs-vswitchd";
const SERVER: &str = "/usr/sbin/ovsdb-server";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// The links and the database. The switch only runs during its rounds: it never rests.
pub(super) struct Rig {
    // Dropped first: it is in a namespace of the links.
    _database: Daemon,
    links: Links,
    folder: PathBuf,
    told: Vec<String>,
}

impl Rig {
    /// Configures it and lets a few packets through.
    pub(super) fn up(tag: &str) -> Result<Self> {
        let links = Links::make(tag, "ovs")?;
        let folder = lab::folder(tag).join("ovs");
        std::fs::create_dir_all(&folder)?;
        let database = folder.join("conf.db").display().to_string();
        run("ovsdb-tool", &["create", &database, SCHEMA]).context("(is it installed? deploy/deps.sh ovs)")?;
        let socket = folder.join("db.sock");
        let arguments = [
            database,
            format!("--remote=punix:{}", socket.display()),
            format!("--pidfile={}", folder.join("db.pid").display()),
            format!("--unixctl={}", folder.join("db.ctl").display()),
        ];
        let mut server =
            Daemon::start_program(&links.inside, Path::new(SERVER), &arguments, &links.log("ovsdb.log"))?;
        server.wait_ready(PATIENCE, || socket.exists())?;
        let mut rig = Rig { _database: server, links, folder, told: Vec::new() };
        rig.links.receive_far()?;
        rig.configure()?;
        rig.running(|links| {
            links.prove("in a tunnel to the backend", |frame| is_tunnelled_to(frame, BACKEND))
        })?;
        Ok(rig)
    }

    /// One bridge with both links and the tunnel; its thread on the CPU that the others' workers have.
    fn configure(&mut self) -> Result<()> {
        let port = |name: &str, number: u8| {
            format!(
                "add-port br0 {name} -- set interface {name} type=afxdp options:xdp-mode=native options:n_rxq=1 \
                 ofport_request={number}"
            )
        };
        let lines = [
            "init".to_owned(),
            "set Open_vSwitch . other_config:pmd-cpu-mask=0x1".to_owned(),
            "add-br br0 -- set bridge br0 datapath_type=netdev protocols=OpenFlow15".to_owned(),
            port("in0", 1),
            port("out0", 2),
            format!(
                "add-port br0 vx0 -- set interface vx0 type=vxlan options:remote_ip={} options:key={VNI} ofport_request=3",
                NODES[1]
            ),
        ];
        for line in lines {
            let database = format!("--db=unix:{}", self.folder.join("db.sock").display());
            let mut words = vec![database.as_str(), "--no-wait"];
            words.extend(line.split_whitespace());
            run("ovs-vsctl", &words)?;
            self.told.push(format!("ovs-vsctl {line}"));
        }
        self.told.push(format!("ovs-ofctl add-group br0 {}", group()));
        self.told.extend(flows().iter().map(|flow| format!("ovs-ofctl add-flow br0 {flow}")));
        Ok(())
    }

    /// Does something while the switch forwards.
    fn running<T>(&self, work: impl FnOnce(&Links) -> Result<T>) -> Result<T> {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let arguments = [
            format!("unix:{}", at("db.sock")),
            format!("--pidfile={}", at("switch.pid")),
            format!("--unixctl={}", at("switch.ctl")),
        ];
        // Where it makes the bridge's own socket.
        let program = [format!("OVS_RUNDIR={}", self.folder.display()), SWITCH.to_owned()];
        let arguments: Vec<String> = program.into_iter().chain(arguments).collect();
        let links = &self.links;
        let mut switch =
            Daemon::start_program(&links.inside, Path::new("env"), &arguments, &links.log("ovs.log"))?;
        switch.wait_ready(PATIENCE, || self.is_attached())?;
        self.program(&at("switch.ctl"))?;
        let done = work(links);
        ensure!(switch.is_running()?, "ovs-vswitchd has ended:\n{}", switch.tail(15));
        switch.terminate(PATIENCE)?;
        done
    }

    fn is_attached(&self) -> bool {
        let has_program = |device: &str| {
            self.links
                .inside
                .ip(&format!("-d -o link show dev {device}"))
                .is_ok_and(|text| text.contains("xdp"))
        };
        self.folder.join("br0.mgmt").exists() && ["in0", "out0"].into_iter().all(has_program)
    }

    /// Flows, and the way to the other node: neither outlives the switch.
    fn program(&self, control: &str) -> Result<()> {
        self.links.inside.ip(&format!("addr replace {}/24 dev br0", NODES[0]))?;
        self.links.inside.ip("link set dev br0 up")?;
        let [_, other] = NODES;
        wait_for("Open vSwitch's route to the other node", PATIENCE, || {
            let routes = run("ovs-appctl", &["-t", control, "ovs/route/show"])?;
            Ok(routes.contains("172.30.0.0/24 dev br0").then_some(()))
        })?;
        run("ovs-appctl", &["-t", control, "tnl/arp/set", "br0", other, NEXT_HOP])?;
        let bridge = format!("unix:{}", self.folder.join("br0.mgmt").display());
        run("ovs-ofctl", &["-O", "OpenFlow15", "del-flows", &bridge])?;
        run("ovs-ofctl", &["-O", "OpenFlow15", "add-group", &bridge, &group()])?;
        for flow in flows() {
            run("ovs-ofctl", &["-O", "OpenFlow15", "add-flow", &bridge, &flow])?;
        }
        Ok(())
    }
}

/// The Service's backends.
fn group() -> String {
    format!(
        "group_id=1,type=select,bucket=weight:1,actions=ct(commit,zone=1,nat(dst={BACKEND}:{ECHO}),table=2)"
    )
}

/// Table 0 tracks; table 1 is the Service; table 2 the policy, the next hop and the tunnel.
fn flows() -> Vec<String> {
    let web = WEB[0];
    vec![
        "table=0,priority=100,in_port=1,ip,actions=ct(table=1,zone=1,nat)".to_owned(),
        "table=0,priority=90,in_port=LOCAL,actions=output:2".to_owned(),
        "table=0,priority=0,actions=drop".to_owned(),
        format!("table=1,priority=100,ct_state=+trk+new,udp,nw_dst={web},tp_dst=7,actions=group:1"),
        "table=1,priority=90,ct_state=+trk-inv,ip,actions=resubmit(,2)".to_owned(),
        "table=1,priority=0,actions=drop".to_owned(),
        format!(
            "table=2,priority=100,udp,nw_src={CLIENT},nw_dst={BACKEND},tp_dst={ECHO},\
             actions=mod_dl_src:02:50:53:00:00:01,mod_dl_dst:{INNER},dec_ttl,output:3"
        ),
        "table=2,priority=0,actions=drop".to_owned(),
    ]
}

impl Party for Rig {
    fn name(&self) -> &'static str {
        "ovs"
    }

    fn does(&self) -> &'static str {
        "policy, Service, VXLAN"
    }

    fn version(&self) -> Result<String> {
        let told = run(SWITCH, &["--version"])?;
        Ok(told.lines().next().unwrap_or_default().replace("ovs-vswitchd (Open vSwitch)", "Open vSwitch"))
    }

    fn setup(&self) -> String {
        self.told.join("; ")
    }

    fn round(&mut self, load: &Load) -> Result<Round> {
        self.running(|links| links.path()?.count(load))
    }

    fn trial(&mut self, load: &Load, pps: f64) -> Result<Trial> {
        self.running(|links| links.path()?.trial(load, pps))
    }
}
