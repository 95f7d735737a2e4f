//! The fuzz target over its stored inputs. Mutated packets by the million are in `hostile`.

use dataplane::testkit::target::{pipeline, seeds};

#[test]
fn stored_inputs_hold() {
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/pipeline")).unwrap() {
        pipeline(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
    seeds().iter().for_each(|seed| pipeline(seed));
    pipeline(&seeds().concat());
}
