//! A list that is added to over HTTP, with tasks that await.
//!
//! `POST /entries` adds its body and answers how many entries there are; `GET /entries` answers all, a line each; `GET /`
//! says hello; `GET /later` does so after a while, and `GET /elsewhere` after having asked another thread.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;

type Entries = Arc<Mutex<Vec<Box<str>>>>;

async fn add(State(entries): State<Entries>, entry: String) -> String {
    let mut entries = entries.lock().unwrap();
    // A copy: what it is given is a part of the connection's buffer, and keeps all of that.
    entries.push(entry.as_str().into());
    entries.len().to_string()
}

async fn list(State(entries): State<Entries>) -> String {
    entries.lock().unwrap().join("\n")
}

async fn later() -> &'static str {
    tokio::time::sleep(Duration::from_millis(20)).await;
    "later"
}

async fn elsewhere() -> String {
    tokio::task::spawn_blocking(|| "elsewhere".to_owned()).await.expect("it does not panic")
}

#[tokio::main]
async fn main() {
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/entries", get(list).post(add))
        .route("/later", get(later))
        .route("/elsewhere", get(elsewhere))
        .with_state(Entries::default());
    let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await.expect("the port is free");
    println!("serving at {}", listener.local_addr().expect("it has one"));
    axum::serve(listener, app).await.expect("it serves");
}
