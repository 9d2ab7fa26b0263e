//! The harness on the kernel alone: what the other tests lean on holds without Penstock in between.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::lab::Lab;
use tests::netns;
use tests::traffic::stream::{Pace, Stream};
use tests::traffic::udp::Ask;
use tests::traffic::{Outcome, clock_ns, icmp, raw, tcp, udp};

const PATIENCE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

struct Pair {
    a: tests::lab::Site,
    b: tests::lab::Site,
    lab: Lab,
}

fn pair(tag: &str) -> Pair {
    let lab = Lab::open(tag, true).unwrap();
    let address =
        |last| (Ipv4Addr::new(172, 30, 0, last), Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, last.into()));
    let (a, b) = (address(1), address(2));
    Pair { a: lab.site("a", a.0, a.1).unwrap(), b: lab.site("b", b.0, b.1).unwrap(), lab }
}

#[test]
fn servers_say_who_they_are_and_who_asked_in_both_families() {
    let Pair { a, b, .. } = &pair("harness-who");
    let _tcp = tcp::NameServer::start(&b.namespace, 8080, "bob").unwrap();
    let _udp = udp::EchoServer::start(&b.namespace, 7007, "bob").unwrap();
    let families: [(IpAddr, IpAddr); 2] = [(a.v4.into(), b.v4.into()), (a.v6.into(), b.v6.into())];
    for (from, to) in families {
        let answers = tcp::who(&a.namespace, (to, 8080).into(), 3, PATIENCE).unwrap();
        assert_eq!(answers.len(), 3);
        assert!(answers.iter().all(|answer| answer.name == "bob" && answer.seen == from), "{answers:?}");
        assert_eq!(udp::ask(&a.namespace, (to, 7007).into(), Ask::default()).unwrap(), "bob");
        let large = Ask { size: 5000, ..Ask::default() };
        assert_eq!(udp::ask(&a.namespace, (to, 7007).into(), large).unwrap(), "bob", "in fragments");
        icmp::ping(&a.namespace, to, 56, None, PATIENCE).unwrap();
        icmp::ping(&a.namespace, to, 4000, None, PATIENCE).unwrap();
    }
}

#[test]
fn outcomes_tell_refused_from_silent() {
    let Pair { a, b, .. } = &pair("harness-outcomes");
    let closed = tcp::probe(&a.namespace, (b.v4, 9).into(), PATIENCE);
    assert_eq!(closed, Outcome::Refused);
    assert_eq!(udp::ask(&a.namespace, (b.v4, 9).into(), Ask::default()), Err(Outcome::Refused));
    b.namespace.ip("link set dev uplink down").unwrap();
    assert_eq!(tcp::probe(&a.namespace, (b.v4, 9).into(), SHORT), Outcome::Silent);
    let ask = Ask { patience: SHORT, ..Ask::default() };
    assert_eq!(udp::ask(&a.namespace, (b.v6, 9).into(), ask), Err(Outcome::Silent));
}

#[test]
fn bulk_data_is_compared_at_both_ends() {
    let Pair { a, b, .. } = &pair("harness-bulk");
    for to in [IpAddr::from(b.v4), b.v6.into()] {
        let rate = tcp::bulk(&a.namespace, &b.namespace, (to, 9000).into(), 8 << 20, PATIENCE).unwrap();
        assert!(rate > 0.0);
    }
}

#[test]
fn a_stream_stands_still_while_the_link_is_down_and_is_whole_in_the_end() {
    let Pair { a, b, lab } = &pair("harness-stream");
    for pace in [Pace::Every(Duration::from_millis(1)), Pace::Bulk(64)] {
        let stream =
            Stream::start(&a.namespace, &b.namespace, 27017, (b.v4, 27017).into(), pace, PATIENCE).unwrap();
        stream.wait_flow(PATIENCE).unwrap();
        lab.underlay().ip("link set dev a nomaster").unwrap();
        let cut = clock_ns();
        std::thread::sleep(Duration::from_millis(100));
        let before = stream.progress();
        std::thread::sleep(SHORT);
        assert_eq!(stream.progress(), before, "nothing arrives across a cut link");
        assert!(before.newest_ns <= cut, "nothing sent after the cut has arrived");
        lab.underlay().ip("link set dev a master br0").unwrap();
        stream.wait_flow(PATIENCE).unwrap();
        assert!(stream.finish().unwrap() > before.records);
    }
}

#[test]
fn frames_go_out_and_come_in_as_they_are() {
    let Pair { a, b, .. } = &pair("harness-raw");
    let mut frame = vec![0xff; 6];
    frame.extend(raw::mac(&a.namespace, "uplink").unwrap());
    frame.extend([0x88, 0xb5]);
    frame.extend([7; 46]);
    let send = || raw::send(&a.namespace, "uplink", vec![frame.clone()]);
    let seen = raw::expect(&b.namespace, PATIENCE, send, |bytes| bytes == frame).unwrap();
    assert!(seen.is_some());
    assert!(raw::send(&a.namespace, "nothing", vec![frame]).is_err());
}

#[test]
fn a_second_run_is_refused_while_the_first_goes_on() {
    let first = Lab::open("harness-twice", true).unwrap();
    let error = Lab::open("harness-twice", false).unwrap_err().to_string();
    assert!(error.contains("is going on") && error.contains(&std::process::id().to_string()), "{error}");
    drop(first);
    Lab::open("harness-twice", false).unwrap();
}

#[test]
fn a_run_leaves_nothing_and_the_next_removes_what_a_killed_one_left() {
    let tag = "harness-left";
    let prefix = tests::lab::prefix(tag);
    drop(pair(tag));
    assert!(netns::existing(&prefix).unwrap().is_empty());
    assert!(!tests::lab::folder(tag).exists());

    // What a kill -9 leaves behind: a namespace, a process in it that outlived its parent, the folder.
    let name = format!("{prefix}ghost");
    netns::run("ip", &["netns", "add", &name]).unwrap();
    let mut ghost = Command::new("ip")
        .args(["netns", "exec", &name, "sleep", "600"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    std::fs::create_dir_all(tests::lab::folder(tag)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let lab = Lab::open(tag, true).unwrap();
    assert_eq!(netns::existing(&prefix).unwrap(), [format!("{prefix}underlay")]);
    assert!(!ghost.wait().unwrap().success(), "the process in it was killed");
    drop(lab);
    assert!(netns::existing(&prefix).unwrap().is_empty());
}

#[test]
fn programs_die_with_the_one_that_started_them() {
    let lab = Lab::open("harness-death", true).unwrap();
    let site = lab.site("a", Ipv4Addr::new(172, 30, 0, 1), "fd30::1".parse().unwrap()).unwrap();
    let log = std::fs::File::create(lab.folder().join("log")).unwrap();
    let mut child =
        site.namespace.start(std::path::Path::new("/bin/sleep"), &["600".to_owned()], log).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    // The namespace's thread is the parent; its end is what the kernel acts on.
    drop(site);
    let status = tests::wait_for("the end of the child", PATIENCE, || Ok(child.try_wait()?)).unwrap();
    assert!(!status.success());
}
