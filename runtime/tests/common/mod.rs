//! What the hosts at the other end have in common.

use netstack::{ConnId, Error, Stack, UdpId};

/// Sends back what has come, over connections and by datagrams. Connections that end are left.
pub fn send_back(stack: &mut Stack, connections: &mut Vec<ConnId>, udp: UdpId, buffer: &mut [u8]) {
    connections.retain(|&id| {
        // Not more than goes back at once.
        let room = buffer.len().min(stack.send_capacity(id).unwrap_or(0));
        match stack.recv(id, &mut buffer[..room]) {
            Ok(0) if room > 0 => stack.close(id).is_err(),
            Ok(bytes) => stack.send(id, &buffer[..bytes]).is_ok(),
            Err(error) => error == Error::WouldBlock,
        }
    });
    while let Ok(datagram) = stack.recv_from(udp, buffer) {
        stack.send_to(udp, &buffer[..datagram.len_bytes], datagram.remote).expect("room for an answer");
    }
}
