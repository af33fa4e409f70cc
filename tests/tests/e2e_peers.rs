//! Conversations that the guest begins, with services of the host, through the forwarder.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use pollux_tests::client::Client;
use pollux_tests::guests::{ask, send};
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::status::Role;

/// Where the guest finds the host's loopback.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

fn probe(arguments: &[&str]) -> (Pair, Client) {
    let mut pair = Pair::up(&Options::new("probe").with(arguments));
    let client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    (pair, client)
}

/// A service of the host's loopback, and where the guest finds it.
fn tcp_service() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    (listener, format!("{GATEWAY}:{port}"))
}

fn udp_service() -> (UdpSocket, String) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    let port = socket.local_addr().expect("bound").port();
    (socket, format!("{GATEWAY}:{port}"))
}

fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    let (stream, _) = listener.accept().expect("the guest connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    BufReader::new(stream)
}

/// The next line that the guest has sent.
fn heard(service: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    service.read_line(&mut line).expect("the connection stands");
    line.trim_end().to_owned()
}

fn reply(service: &mut BufReader<TcpStream>, line: &str) {
    writeln!(service.get_mut(), "{line}").expect("the connection stands");
}

#[test]
fn a_connection_that_the_guest_opened_survives_its_primary() {
    let (mut pair, mut client) = probe(&["--allow-host"]);
    let (listener, place) = tcp_service();
    send(&mut client, &format!("connect {place}"));
    let mut service = accept(&listener);
    assert_eq!(client.line().expect("an answer"), "connected");
    for exchange in ["first", "second"] {
        send(&mut client, exchange);
        assert_eq!(heard(&mut service), exchange);
        reply(&mut service, &format!("{exchange} answer"));
        assert_eq!(client.line().expect("an answer"), format!("{exchange} answer"));
    }
    // The question is out, the answer is not in when the primary dies.
    send(&mut client, "asked of the primary");
    assert_eq!(heard(&mut service), "asked of the primary");
    pair.kill(Role::Primary, "KILL");
    reply(&mut service, "heard by the backup");
    assert_eq!(client.line().expect("both connections go on"), "heard by the backup");
    pair.wait_for_solo(2);
    send(&mut client, "asked of the backup");
    assert_eq!(heard(&mut service), "asked of the backup", "and nothing was said twice");
    reply(&mut service, "answered");
    assert_eq!(client.line().expect("an answer"), "answered");

    // A new one can be opened, and an end goes through.
    let mut other = Client::connect(pair.address(7000)).expect("a published port takes connections");
    send(&mut other, &format!("connect {place}"));
    let mut second = accept(&listener);
    assert_eq!(other.line().expect("an answer"), "connected");
    other.finish().expect("half closed");
    assert_eq!(heard(&mut second), "", "the end of the client's stream is the end of the guest's");
    drop(service);
    send(&mut client, "is anybody there?");
    assert_eq!(client.rest().expect("a polite end"), b"", "the service has gone, so the guest says goodbye");
    pair.down();
}

#[test]
fn datagrams_of_the_guest_are_sent_once_each_also_over_a_failover() {
    let (mut pair, mut client) = probe(&["--allow-host"]);
    let (service, place) = udp_service();
    assert_eq!(ask(&mut client, &format!("datagrams {place}")), "bound");
    let mut bytes = [0; 256];
    let mut exchange = |client: &mut Client, text: &str, between: &mut dyn FnMut()| {
        send(client, text);
        let (length, guest) = service.recv_from(&mut bytes).expect("a datagram");
        // Whatever had been sent twice would be here now, in front of this one.
        assert_eq!(str::from_utf8(&bytes[..length]), Ok(text));
        between();
        service.send_to(format!("{text} answered").as_bytes(), guest).expect("sent");
        assert_eq!(client.line().expect("an answer"), format!("{place} {text} answered"));
    };
    for number in 0..20 {
        exchange(&mut client, &format!("datagram {number}"), &mut || {});
    }
    exchange(&mut client, "in flight", &mut || {
        pair.kill(Role::Primary, "KILL");
    });
    pair.wait_for_solo(2);
    for number in 20..40 {
        exchange(&mut client, &format!("datagram {number}"), &mut || {});
    }
    pair.down();
}

#[test]
fn a_guest_that_may_not_reach_the_host_is_refused_and_told_so() {
    let (listener, place) = tcp_service();
    listener.set_nonblocking(true).expect("allowed");
    let (mut pair, mut client) = probe(&[]);
    assert_eq!(ask(&mut client, &format!("connect {place}")), "the peer refused the connection");
    assert!(listener.accept().is_err(), "nobody has come");
    assert!(pair.status().hub["connections_outbound_refused"] > 0, "{:?}", pair.status().hub);
    pair.down();

    let (mut pair, mut client) = probe(&["--allow-host"]);
    drop(listener);
    assert_eq!(ask(&mut client, &format!("connect {place}")), "the peer refused the connection", "nobody listens");
    pair.status();
    pair.down();
}
