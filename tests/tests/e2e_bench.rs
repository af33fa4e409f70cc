//! The command that redoes the paper's evaluation, on what takes seconds: very many exact epochs compared under random traffic.

use std::fs;
use std::process::{Command, Stdio};

use pollux_tests::workbench::{Permit, command_path, image, seed};

#[test]
fn the_evaluation_compares_exact_epochs_and_writes_its_document() {
    let seed = seed("exact epochs in the evaluation");
    let _permit = Permit::take(2);
    let folder = std::env::temp_dir().join(format!("pollux-e2e-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let evaluate = |arguments: &[&str]| {
        let mut command = Command::new(command_path());
        command.args(["bench", "paper", "--json", "--out"]).arg(&folder).args(arguments);
        command.env("POLLUX_STATE_DIR", folder.join("state")).stdin(Stdio::null());
        command.output().expect("the pollux command starts")
    };
    let images = ["dhrystone", "kv", "diskload"].map(|app| [image(app), image(&format!("{app}.counted"))]);
    let images = images[0][0].parent().expect("a folder");
    let measured = evaluate(&[
        "--quick",
        "--only",
        "exactness",
        "--seed",
        &seed.to_string(),
        "--images",
        images.to_str().expect("UTF-8"),
    ]);
    let errors = String::from_utf8_lossy(&measured.stderr).into_owned();
    assert!(measured.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&measured.stdout).expect("JSON");
    let exactness = &report["exactness"];
    assert_eq!((&report["seed"], &exactness["wanted"]), (&seed.into(), &10_000.into()), "{exactness}");
    assert!(exactness["full"].as_u64() >= Some(10_000) && exactness["commands"].as_u64() > Some(100), "{exactness}");
    assert_eq!((&exactness["complaints"], &report["failures"]), (&Vec::<u8>::new().into(), &Vec::<u8>::new().into()));
    let document = fs::read_to_string(folder.join("evaluation.md")).expect("a document");
    assert!(document.contains("No digest differed") && document.contains("This was a quick look"), "{document}");
    // The document of an earlier run is written anew without any machine.
    let told = |name: &str| fs::read_to_string(folder.join(name)).expect("written");
    let json = folder.join("paper.json");
    fs::remove_file(folder.join("evaluation.md")).expect("ours");
    let again = evaluate(&["--from", json.to_str().expect("UTF-8")]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(told("evaluation.md"), document);
    let refused = evaluate(&["--quick", "--write-docs"]);
    assert_eq!(refused.status.code(), Some(2), "a quick look is no evaluation");
    fs::remove_dir_all(&folder).expect("it is ours");
}
