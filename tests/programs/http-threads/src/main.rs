//! A list that is added to over HTTP, with threads that block.
//!
//! `POST /entries` adds its body and answers how many entries there are; `GET /entries` answers all, a line each; `GET /`
//! says hello; `GET /resolve/NAME` answers the addresses of a name.

use std::io::Read;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex};
use std::thread;

use tiny_http::{Method, Request, Response, Server};

type Entries = Mutex<Vec<String>>;

/// The addresses of a name, or why it has none.
fn resolve(name: &str) -> (u16, String) {
    match (name, 0).to_socket_addrs() {
        Ok(found) => (200, found.map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" ")),
        Err(error) => (404, error.to_string()),
    }
}

fn answer(request: &mut Request, entries: &Entries) -> (u16, String) {
    match (request.method(), request.url()) {
        (Method::Get, "/") => (200, "hello".to_owned()),
        (Method::Get, "/entries") => (200, entries.lock().unwrap().join("\n")),
        (Method::Post, "/entries") => {
            let mut entry = String::new();
            if request.as_reader().read_to_string(&mut entry).is_err() {
                return (400, "not UTF-8".to_owned());
            }
            let mut entries = entries.lock().unwrap();
            entries.push(entry);
            (200, entries.len().to_string())
        }
        (Method::Get, path) if path.starts_with("/resolve/") => resolve(&path["/resolve/".len()..]),
        _ => (404, "no such thing".to_owned()),
    }
}

fn main() {
    let server = Arc::new(Server::http("0.0.0.0:8080").expect("the port is free"));
    let entries = Arc::new(Entries::default());
    println!("serving at {}", server.server_addr());
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (server, entries) = (server.clone(), entries.clone());
            thread::spawn(move || {
                for mut request in server.incoming_requests() {
                    let (status, text) = answer(&mut request, &entries);
                    // A client that has gone wants no answer.
                    let response = Response::from_string(text).with_status_code(status);
                    let _ = request.respond(response.with_chunked_threshold(usize::MAX));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("a worker does not panic");
    }
}
