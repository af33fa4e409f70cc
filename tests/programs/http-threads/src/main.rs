//! A list that is added to over HTTP, with threads that block.
//!
//! `POST /entries` adds its body and answers how many entries there are; `GET /entries` answers all, a line each; `GET /`
//! says hello.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::thread;

use tiny_http::{Method, Request, Response, Server};

type Entries = Mutex<Vec<String>>;

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
                    let _ = request.respond(Response::from_string(text).with_status_code(status));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("a worker does not panic");
    }
}
