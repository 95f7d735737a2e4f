//! The fuzz targets over their stored inputs. Mutated packets by the million are in `hostile`.

use std::{fs, path::PathBuf};

use dataplane::testkit::target::{ALL, pipeline, seeds};

fn folder(target: &str) -> PathBuf {
    PathBuf::from("fuzz/corpus").join(target)
}

#[test]
fn stored_inputs_hold() {
    for (name, target, _) in ALL {
        let mut count = 0;
        for entry in fs::read_dir(folder(name)).expect("a corpus") {
            let path = entry.expect("an entry").path();
            println!("{}", path.display());
            target(&fs::read(path).expect("a file"));
            count += 1;
        }
        assert!(count > 0, "{name}");
    }
}

#[test]
fn where_fuzzers_begin_holds() {
    for (name, target, seeds) in ALL {
        println!("{name}");
        seeds().iter().for_each(|seed| target(seed));
        target(&seeds().concat());
    }
    pipeline(&seeds().concat());
}

/// `WRITE_SEEDS=1 cargo test -p dataplane --test fuzz` stores them anew.
#[test]
fn seeds_are_stored() {
    for (name, _, seeds) in &ALL[..2] {
        for (n, seed) in seeds().iter().enumerate() {
            let path = folder(name).join(format!("seed-{n:03}"));
            if std::env::var_os("WRITE_SEEDS").is_some() {
                fs::create_dir_all(folder(name)).expect("a folder");
                fs::write(&path, seed).expect("a file");
            }
            assert_eq!(fs::read(&path).ok().as_ref(), Some(seed), "{}", path.display());
        }
    }
}
