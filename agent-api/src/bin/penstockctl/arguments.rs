//! What may be typed.

use std::path::PathBuf;

use agent_api::address::{Address, DEFAULT_SOCKET};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use policy_compiler::intent::ObjectName;
use policy_compiler::objects::{DEFAULT_VNI, IntentOptions};

use crate::answer::Output;
use crate::shadow::ShadowCommand;

/// Asks a running penstockd, or judges a folder of Kubernetes manifests offline.
#[derive(Debug, Parser)]
#[command(name = "penstockctl", version, after_help = EXIT_CODES, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How to print answers and errors.
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Human)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done; the answer is on standard output
  1  the answer is negative (explain: dropped; policy diff, lint: something found; policy, apply: bad manifests;
     shadow: none is set),
     or penstockd refused
  2  wrong arguments, or a file that they name cannot be read (policy diff, lint: or is bad)
  3  penstockd is not reachable
  simulate: the exit code of `penstockd simulate`

With -o json an error is {\"error\": {\"object\", \"field\", \"problem\", \"kind\"}} on standard error.";

#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// Where penstockd is: a path, unix:///path, or http:// with a loopback address.
    #[arg(long, global = true, value_name = "ADDRESS", env = "PENSTOCK_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: Address,
    /// How long to try to connect.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) wait: u64,
    /// How long an answer may take.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replace the whole state as one transaction.
    Apply(Apply),
    /// The running generation and state.
    Status,
    /// Counters of workers, ports and flow tables.
    Stats,
    /// Dropped packets: counters by reason, or each as it happens.
    Drops {
        /// Print each dropped packet as it happens, until interrupted (as JSON: one object a line).
        #[arg(short, long)]
        follow: bool,
    },
    /// The attached ports; add and remove them.
    Ports {
        #[command(subcommand)]
        command: Option<PortsCommand>,
    },
    /// Live flow entries.
    Flows {
        /// At most this many.
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
    },
    /// Services of the running state, with their backends.
    Services,
    /// A candidate state evaluated on live traffic beside the running one, without effect.
    Shadow {
        #[command(subcommand)]
        command: Option<ShadowCommand>,
    },
    /// Judge and compare manifests and states, through the compiled tables.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Answer a list of probes offline, through the compiled tables.
    Evaluate(Evaluate),
    /// What would happen to a packet now, and why.
    Explain(Explain),
    /// Run a capture through the pipeline, offline and without root.
    ///
    /// Compiles the manifests and hands them to `penstockd simulate`, which is looked for beside penstockctl, then in
    /// PATH. Options that are not penstockctl's are passed on.
    Simulate(Simulate),
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("source").required(true).multiple(false).args(["manifests", "file"]))]
pub(crate) struct Apply {
    /// Folder of manifests.
    #[arg(long, value_name = "DIR", requires = "node")]
    pub(crate) manifests: Option<PathBuf>,
    /// Name of the Node object whose state is made.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node: Option<String>,
    /// A state as JSON, as `penstockctl status -o json` prints it; - for standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["vni", "service_ranges"])]
    pub(crate) file: Option<PathBuf>,
    /// Refuse unless this generation is running.
    #[arg(long, value_name = "GENERATION")]
    pub(crate) expect: Option<u64>,
    #[command(flatten)]
    pub(crate) network: Network,
}

/// What manifests do not say.
#[derive(Debug, Clone, Args)]
pub(crate) struct Network {
    /// VXLAN network identifier of the pod network.
    #[arg(long, default_value_t = DEFAULT_VNI, value_parser = clap::value_parser!(u32).range(..1 << 24))]
    vni: u32,
    /// The API server's --service-cluster-ip-range; may be repeated.
    #[arg(long = "service-range", value_name = "CIDR")]
    service_ranges: Vec<ipnet::IpNet>,
}

impl Network {
    pub(crate) fn options(&self) -> IntentOptions {
        IntentOptions { vni: self.vni, service_ranges: self.service_ranges.clone() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Manifests {
    /// Folder of manifests.
    #[arg(long = "manifests", value_name = "DIR")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) network: Network,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortsCommand {
    /// List the ports (what `ports` alone does).
    List,
    /// Attach a device.
    Add(AddPort),
    /// Detach a device.
    Remove {
        /// Device name in penstockd's network namespace.
        #[arg(long)]
        device: String,
    },
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("role").required(true).multiple(false).args(["pod", "uplink", "host"]))]
pub(crate) struct AddPort {
    /// Device name in penstockd's network namespace.
    #[arg(long)]
    pub(crate) device: String,
    /// A pod or virtual machine is behind it.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod_name)]
    pub(crate) pod: Option<String>,
    /// The underlay is behind it.
    #[arg(long)]
    pub(crate) uplink: bool,
    /// The node's own network stack is behind it.
    #[arg(long)]
    pub(crate) host: bool,
    /// MAC address of what is behind it; learned where left out.
    #[arg(long, value_name = "ADDRESS", value_parser = mac)]
    pub(crate) mac: Option<[u8; 6]>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check the objects and compile them; say who is isolated by what.
    Check {
        #[command(flatten)]
        manifests: Manifests,
        /// Compile everything for this node, not only the policies.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Who reaches whom.
    Matrix(Matrix),
    /// What a change newly allows and newly denies: all of it, each with a packet that shows it.
    ///
    /// A state is a folder or file of manifests, a file that `penstockctl status -o json` has written, `running`, or the
    /// number of the running generation.
    #[command(after_help = DIFF_EXIT_CODES)]
    Diff {
        /// The state before.
        old: Source,
        /// The state after.
        new: Source,
    },
    /// Who can reach a port of a pod, and by which rules at both ends.
    WhoCanReach(WhoCanReach),
    /// How often each rule of the running policies has decided, on this node.
    ///
    /// Packets of allowed flows are not counted: their flow is, once, at a rule of each end.
    Hits(Hits),
    /// What is wrong with the NetworkPolicies of a folder.
    #[command(after_help = LINT_EXIT_CODES)]
    Lint {
        /// Folder or file of manifests.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

const DIFF_EXIT_CODES: &str = "\
Exit codes, as diff's:
  0  no difference in what policy allows
  1  differences
  2  a state cannot be read or does not compile, or wrong arguments
  3  penstockd is not reachable";

const LINT_EXIT_CODES: &str = "\
Exit codes:
  0  nothing found
  1  findings
  2  the folder cannot be read, or wrong arguments";

/// Where a state comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// What penstockd runs; where a generation is given, only if it is that one.
    Running(Option<u64>),
    /// A folder or file.
    Path(PathBuf),
}

impl std::str::FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match (text, text.parse()) {
            ("running", _) => Source::Running(None),
            (_, Ok(generation)) => Source::Running(Some(generation)),
            _ => Source::Path(text.into()),
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Running(None) => f.write_str("running"),
            Source::Running(Some(generation)) => write!(f, "generation {generation}"),
            Source::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Examples: `policy who-can-reach shop/db-0:5432`; `policy who-can-reach shop/dns-1:53/udp --denied --manifests x`
#[derive(Debug, Args)]
pub(crate) struct WhoCanReach {
    /// NAMESPACE/POD:PORT, with /PROTOCOL where it is not tcp; port 0 for protocols without ports.
    #[arg(value_name = "POD:PORT[/PROTOCOL]", value_parser = pod_port)]
    pub(crate) target: PodPort,
    /// Folder or file of manifests; without it the running state is asked.
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// List those, too, who cannot.
    #[arg(long)]
    pub(crate) denied: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Hits {
    /// Only policies of this namespace; '' for those of the cluster.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Only policies of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) policy: Option<String>,
    /// Only rules that have never decided; those that pass to the next tier never do, and are left out.
    #[arg(long)]
    pub(crate) unused: bool,
    /// Rules with the most flows first, or in the order of their names.
    #[arg(long, value_enum, value_name = "ORDER", default_value_t = Order::Count)]
    pub(crate) sort: Order,
}

/// What rules are listed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    Count,
    Name,
}

/// A port of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodPort {
    pub(crate) pod: ObjectName,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Matrix {
    #[command(flatten)]
    pub(crate) manifests: Manifests,
    /// Name of a Node object; the policies are the same for each.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// tcp, udp, sctp, icmp, icmpv6 or a number.
    #[arg(long, default_value = "tcp", value_parser = protocol)]
    pub(crate) protocol: u8,
    /// The destination's port.
    #[arg(long, default_value_t = 80)]
    pub(crate) port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Evaluate {
    #[command(flatten)]
    pub(crate) manifests: Manifests,
    /// Name of the Node object that the probes are seen from.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: String,
    /// JSON list of {"from", "to", "protocol", "port"}; - for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) probes: PathBuf,
}

/// Examples: `explain tcp 10.1.0.2:40000 10.2.0.3:27017`; `explain udp '[fd00::1]:5000' '[fd00::2]:53'`;
/// `explain tcp shop/web-1 shop/db:5432`; `explain tcp shop/web-1 shop/db-0:5432 --manifests x`
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// tcp, udp, sctp, icmp, icmpv6 or a number.
    #[arg(value_parser = protocol)]
    pub(crate) protocol: u8,
    /// Address or namespace/pod, with :PORT or without; IPv6 in brackets before a port.
    pub(crate) source: String,
    /// Address, namespace/pod or namespace/service, likewise.
    pub(crate) destination: String,
    /// Judge by this folder of manifests, offline, instead of asking penstockd.
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Name of the Node object that the packet is seen from: needed for the address of a Service.
    #[arg(long, value_name = "NAME", requires = "manifests")]
    pub(crate) node: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Simulate {
    #[command(flatten)]
    pub(crate) manifests: Manifests,
    /// Name of the Node object whose penstockd is simulated.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: String,
    /// The capture.
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: PathBuf,
    /// Folder for the packets that leave each port.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Port by which the capture's packets come in.
    #[arg(long, value_name = "PORT")]
    pub(crate) ingress_port: Vec<String>,
    /// Further options of `penstockd simulate`, after all of the others.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    pub(crate) rest: Vec<String>,
}

/// An IP protocol by name or number.
pub(crate) fn protocol(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmpv6" => Ok(58),
        "sctp" => Ok(132),
        number => number.parse().map_err(|_| "none of tcp, udp, sctp, icmp, icmpv6 and 0 to 255".into()),
    }
}

fn pod_port(text: &str) -> Result<PodPort, String> {
    let wrong = || format!("{text:?} is not NAMESPACE/POD:PORT[/PROTOCOL]");
    let (pod, rest) = text.split_once(':').ok_or_else(wrong)?;
    let (port, name) = rest.split_once('/').unwrap_or((rest, "tcp"));
    let (namespace, pod) = pod_name(pod).ok().and_then(|_| pod.split_once('/')).ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| format!("{port:?} is not a port from 0 to 65535"))?;
    let protocol = protocol(name)?;
    match (matches!(protocol, 6 | 17 | 132), port) {
        (true, 0) => Err(format!("{name} ports are 1 to 65535")),
        (false, 1..) => Err(format!("{name} has no ports: write port 0")),
        _ => Ok(PodPort { pod: ObjectName::new(namespace, pod), protocol, port }),
    }
}

fn pod_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("not NAMESPACE/NAME".into()),
    }
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    // `from_str_radix` would take a sign.
    let is_hex = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let octet = |part: &str| is_hex(part).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(|| "not six octets such as 02:00:00:00:00:01".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_port_has_one_role_and_a_state_one_source() {
        let good = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(good("penstockctl ports add --device veth0 --pod a/b --mac 02:00:00:00:00:01"));
        assert!(good("penstockctl ports add --device veth0 --uplink"));
        assert!(good("penstockctl apply --manifests x --node y --expect 3"));
        for wrong in [
            "ports add --device veth0",
            "ports add --device veth0 --uplink --host",
            "apply --node y",
            "apply --manifests x",
        ] {
            assert!(!good(&format!("penstockctl {wrong}")), "{wrong}");
        }
    }

    #[test]
    fn mac_addresses_and_pods_are_checked() {
        assert_eq!(mac("02:00:00:00:0a:Ff"), Ok([2, 0, 0, 0, 10, 255]));
        for wrong in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:0g",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:00",
        ] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
        assert!(pod_name("shop/web").is_ok());
        for wrong in ["web", "/web", "shop/", "a/b/c", ""] {
            assert!(pod_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_of_pods() {
        let good = |pod: &str, protocol, port| Ok(PodPort { pod: ObjectName::new("a", pod), protocol, port });
        assert_eq!(pod_port("a/b:80"), good("b", 6, 80));
        assert_eq!(pod_port("a/b-0:53/udp"), good("b-0", 17, 53));
        assert_eq!(pod_port("a/b:0/icmp"), good("b", 1, 0));
        for wrong in
            ["a/b", "a:80", "/b:80", "a/b:", "a/b:http", "a/b:0", "a/b:8/icmp", "a/b:70000", "a/b:80/x"]
        {
            assert!(pod_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn states_come_from_paths_or_run() {
        let rows = [
            ("running", Source::Running(None)),
            ("12", Source::Running(Some(12))),
            ("./12", Source::Path("./12".into())),
            ("manifests", Source::Path("manifests".into())),
        ];
        for (text, source) in rows {
            assert_eq!(text.parse(), Ok(source), "{text}");
        }
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        let rows =
            [("tcp", 6), ("TCP", 6), ("udp", 17), ("sctp", 132), ("icmp", 1), ("icmpv6", 58), ("47", 47)];
        for (text, number) in rows {
            assert_eq!(protocol(text), Ok(number));
        }
        assert!(protocol("256").is_err() && protocol("").is_err());
    }
}
