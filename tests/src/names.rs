//! A name server of a test's own.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

/// Starts a name server on the loopback that knows one address, 192.0.2.7, of all names that begin with w, and serves until the
/// test ends. Gives its port, which is the system's choice if `port` is 0.
///
/// # Panics
/// When it cannot have that port.
pub fn serve(port: u16) -> u16 {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
    let port = server.local_addr().expect("it has one").port();
    thread::spawn(move || answer_questions(&server));
    port
}

/// Starts one, and gives the arguments of `up` by which a guest asks it.
pub fn server() -> [String; 3] {
    let port = serve(0);
    // The gateway stands for this host.
    ["--allow-host".to_owned(), "--env".to_owned(), format!("POLLUX_DNS=10.0.2.2:{port}")]
}

fn answer_questions(server: &UdpSocket) {
    let mut question = [0; 512];
    while let Ok((bytes, from)) = server.recv_from(&mut question) {
        let mut answer = question[..bytes].to_vec();
        let known = answer.get(13) == Some(&b'w');
        // An answer to one question with one address, or that there is no such name (RFC 1035, 4.1.1).
        answer[2..8].copy_from_slice(if known { &[0x81, 0x80, 0, 1, 0, 1] } else { &[0x81, 0x83, 0, 1, 0, 0] });
        if known {
            // The question's name, an address, of the internet, for nine seconds.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
        }
        server.send_to(&answer, from).expect("it can be sent");
    }
}
