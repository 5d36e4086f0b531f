//! Caption cleaning against the official Python code: see `tools/golden/captions.py`.

use dreamclear::text::clean;

/// Every string the official code cleans, byte for byte. Where it raises an exception (its HTML
/// parser gives up on `<![` without a keyword), ours must give a text all the same.
#[test]
fn captions_are_cleaned_as_by_the_official_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/captions.json");
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let (mut equal, mut raised, mut wrong) = (0, 0, Vec::new());
    for case in cases {
        let text = case[0].as_str().unwrap();
        let found = clean::caption(text);
        match case[1].as_str() {
            None => raised += 1,
            Some(expected) if found == expected => equal += 1,
            Some(expected) => wrong.push(format!("{text:?}: expected {expected:?}, found {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!((equal, raised), (EQUAL, RAISED), "the golden file has changed");
}

/// Cases in the golden file with an official result, and those on which the official code raises.
const EQUAL: usize = 564;
const RAISED: usize = 14;
