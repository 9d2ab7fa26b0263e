#!/usr/bin/env bash
# Installs what is missing, and only that: quick and without the network where nothing is.
#
#   deploy/deps.sh build   what compiling needs
#   deploy/deps.sh lab     what the demo and the tests in network namespaces need
#   deploy/deps.sh bounds  what `make bounds` counts with
#   deploy/deps.sh dpdk    testpmd: the other end of the memif tests and of `make bench-memif`, a party of `make bench-peers`
#   deploy/deps.sh ovs     Open vSwitch, another party of `make bench-peers`
set -euo pipefail

# A package and a file that proves it is there: asking dpkg would miss what came another way.
build=(
  "clang:clang" "llvm:llvm-strip" "gcc:cc" "libc6-dev:/usr/include/stdlib.h" "make:make" "m4:m4"
  "pkg-config:pkg-config" "libelf-dev:/usr/include/libelf.h" "zlib1g-dev:/usr/include/zlib.h" "libpcap-dev:/usr/include/pcap/dlt.h"
  "protobuf-compiler:protoc" "libprotobuf-dev:/usr/include/google/protobuf/empty.proto"
)
lab=("iproute2:ip" "ethtool:ethtool" "nftables:nft" "util-linux:setpriv" "procps:sysctl")
bounds=("valgrind:valgrind")
ovs=("openvswitch-switch:/usr/lib/openvswitch-switch/ovs-vswitchd")
dpdk=(
  "dpdk-dev:dpdk-testpmd" "librte-net-af-xdp23:/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_net_af_xdp.so.23"
  "librte-net-memif23:/usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0/librte_net_memif.so.23"
)

present() {
  case "$1" in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ;;
  esac
}

missing=()
for group in "$@"; do
  case "$group" in
    build | lab | bounds | dpdk | ovs) declare -n packages="$group" ;;
    *) echo "deps.sh: no group \"$group\": build, lab, bounds, dpdk or ovs" >&2; exit 2 ;;
  esac
  for entry in "${packages[@]}"; do
    present "${entry#*:}" || missing+=("${entry%%:*}")
  done
done

if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}; install them (Debian's names), or run this as root on Debian" >&2
    exit 1
  fi
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

command -v cargo >/dev/null || { echo "missing: Rust (https://rustup.rs), with the version in Cargo.toml" >&2; exit 1; }

case " $* " in
  *" lab "*)
    if [ "$(id -u)" = 0 ] && ! grep -q ' /sys/fs/bpf bpf ' /proc/mounts; then
      # XDP programs are held by links of the running process; a pin in here is only for those who look at it.
      mount -t bpf bpf /sys/fs/bpf || echo "no BPF file system: bpftool will see less, nothing else changes" >&2
    fi
    ;;
esac
