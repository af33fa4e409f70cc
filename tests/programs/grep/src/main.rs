//! Searches a folder, and all in it, for a pattern, as ripgrep does: a line for each match, in the order of paths, and how
//! many there were. As often as it is told, or once.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use grep_matcher::Matcher;
use grep_regex::RegexMatcher;
use grep_searcher::{BinaryDetection, SearcherBuilder, sinks::UTF8};

/// All files in a folder, in the order of paths.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

fn main() {
    // Arguments of an image are words: the pattern may use `\s` for a space.
    let mut arguments = env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder"));
    let matcher = RegexMatcher::new_line_matcher(&arguments.next().expect("a pattern")).expect("a regular expression");
    let rounds: u32 = arguments.next().map_or(1, |rounds| rounds.parse().expect("a number of rounds"));
    for _ in 0..rounds {
        search(&folder, &matcher);
    }
}

fn search(folder: &Path, matcher: &RegexMatcher) {
    let mut searcher =
        SearcherBuilder::new().binary_detection(BinaryDetection::quit(0)).line_number(true).after_context(0).build();
    let (mut matches, mut bytes) = (0, 0);
    let mut paths = Vec::new();
    files(folder, &mut paths).expect("the folder is there");
    for path in &paths {
        let name = path.strip_prefix(folder).expect("it lies in it").display();
        let sink = UTF8(|number, line| {
            matcher.find_iter(line.as_bytes(), |found| {
                println!("{name}:{number}:{}:{}", found.start(), &line[found.start()..found.end()]);
                matches += 1;
                true
            })?;
            Ok(true)
        });
        searcher.search_path(matcher, path, sink).expect("it can be read");
        bytes += fs::metadata(path).expect("it is there").len();
    }
    println!("{matches} matches in {} files of {bytes} bytes", paths.len());
}
