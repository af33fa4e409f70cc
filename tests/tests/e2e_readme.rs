//! The README's console blocks, typed as they stand.
//!
//! Each block runs in a network namespace of its own, so that its ports are free whatever else the machine does, and with
//! a state folder of its own. `/var/tmp` is the test's folder. The two commands of the beginning are left out: the test
//! command runs this, and the demonstration has a test of its own (`e2e_start`).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use pollux_tests::workbench::{Permit, command_path, program_image};

/// A block may take so long, in seconds; images may have to be built.
const PATIENCE: &str = "400";
/// What stands behind a command that goes on while the next ones are typed.
const ELSEWHERE: &str = "# in another terminal";

/// A console block: what is typed, and what is shown of the answers.
struct Block {
    line: usize,
    typed: Vec<String>,
    shown: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("$ ")) {
            (None, _) if line == "```console" => {
                open = Some(Block { line: index + 1, typed: Vec::new(), shown: Vec::new() });
            }
            (Some(_), _) if line == "```" => blocks.extend(open.take()),
            (Some(block), Some(typed)) => block.typed.push(typed.to_owned()),
            (Some(block), None) => block.shown.push(line.to_owned()),
            (None, _) => {}
        }
    }
    blocks
}

/// The script that types a block: `cargo pollux` is the built command, and what runs in another terminal must answer at
/// once, and once more before the pair is taken down.
fn script(block: &Block, folder: &Path) -> String {
    let mut lines = vec![
        "set -euo pipefail".to_owned(),
        "ip link set lo up".to_owned(),
        r#"cargo() { shift; "$POLLUX" "$@"; }"#.to_owned(),
        "trap 'cargo pollux down > /dev/null 2>&1 || true' EXIT".to_owned(),
        r#"says() { echo "$1" >&"${COPROC[1]}"; read -r -t 60 line <&"${COPROC[0]}"; [ "$line" = "$1" ]; }"#.to_owned(),
    ];
    let elsewhere = block.typed.iter().any(|line| line.contains(ELSEWHERE));
    for (index, line) in block.typed.iter().enumerate() {
        if line.contains(ELSEWHERE) {
            lines
                .extend([format!("coproc {{ {}; }}", line.split('#').next().unwrap_or_default()), "says hello".into()]);
            continue;
        }
        if elsewhere && index + 1 == block.typed.len() {
            lines.push("says again".into());
        }
        lines.push(line.replace("/var/tmp", &folder.display().to_string()));
    }
    // It leaves nothing that the next block would trip over.
    lines.push("if cargo pollux status > /dev/null 2>&1; then echo the pair is still up; exit 1; fi".to_owned());
    lines.join("\n")
}

/// Types a block; returns all that it printed, or that with what went wrong.
fn type_in(block: &Block, folder: &Path) -> Result<String, String> {
    let unshare = if rustix::process::geteuid().is_root() { "--net" } else { "-rn" };
    let output = Command::new("timeout")
        .args(["--kill-after=20", PATIENCE, "unshare", unshare, "bash", "-c", &script(block, folder)])
        .env("POLLUX", command_path())
        .env("POLLUX_STATE_DIR", folder.join("state"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace"))
        .stdin(Stdio::null())
        .output()
        .expect("a shell starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{}\n{text}", output.status)) }
}

#[test]
fn every_block_can_be_typed_as_it_stands() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let blocks = blocks(&fs::read_to_string(readme).expect("there is a README"));
    let folder = std::env::temp_dir().join(format!("pollux-e2e-readme-{}", std::process::id()));
    // A block has no network to fetch crates by.
    program_image("database");
    let _permit = Permit::take(2);
    let (mut failures, mut typed) = (Vec::new(), 0);
    for block in &blocks {
        if block.typed.iter().all(|line| line == "cargo pollux demo" || line == "cargo pollux test") {
            continue;
        }
        println!("line {}: {:#?}", block.line, block.typed);
        fs::create_dir_all(&folder).expect("a folder");
        match type_in(block, &folder) {
            Ok(text) => {
                // Numbers differ; the words before them do not.
                let words = |line: &&String| line.trim_matches(|c| c == '.').trim().to_owned();
                let words = block.shown.iter().map(|line| words(&line));
                let words =
                    words.map(|line| line.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default().to_owned());
                for words in words.filter(|words| !text.contains(words.as_str())) {
                    failures.push(format!("line {}: {words:?} is not in\n{text}", block.line));
                }
            }
            Err(text) => failures.push(format!("line {}: {text}", block.line)),
        }
        typed += 1;
        let _ = fs::remove_dir_all(&folder);
    }
    assert!(typed >= 7, "{typed} blocks were found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
