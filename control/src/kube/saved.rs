//! The last known state in a file: what serves after a restart while the API server is away.
//!
//! A header, then one object a line, as JSON of the model. Replaced whole. It is of one cluster: a file that another source
//! left, or a newer version of this program, is not used. Not here: when it is written, and when it is taken.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

use crate::manifests::object::{Id, Object};
use crate::state_dir::StateDir;

/// Its name in the stateDir.
const FILE: &str = "kubernetes";
/// Of the form of the lines. A field added to the model with a default needs no new version.
const VERSION: u32 = 1;
/// Most objects that are taken.
const OBJECTS_MAX: usize = 1_000_000;

#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Header {
    version: u32,
    /// Which source it is of.
    source: String,
}

/// Writes all objects; `source` says where they come from.
///
/// # Errors
/// When the disk is full or the folder is gone; the old file stays.
pub(super) fn write(state: &StateDir, source: &str, objects: &BTreeMap<Id, Object>) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(&Header { version: VERSION, source: source.to_owned() })?;
    text.push(b'\n');
    for object in objects.values() {
        serde_json::to_writer(&mut text, object)?;
        text.write_all(b"\n")?;
    }
    state.write(FILE, &text)
}

/// The objects of the file; none when there is none of this source.
///
/// # Errors
/// Why there is a file that cannot be used, in one sentence.
pub(super) fn read(state: &StateDir, source: &str) -> Result<Option<BTreeMap<Id, Object>>, String> {
    let refuse = |what: String| format!("{FILE} in the stateDir: {what}; it is not used");
    let Some(text) = state.read(FILE).map_err(|error| refuse(error.to_string()))? else { return Ok(None) };
    let mut lines = text.split(|byte| *byte == b'\n');
    let header = lines.next().unwrap_or_default();
    let header: Header = serde_json::from_slice(header).map_err(|error| refuse(error.to_string()))?;
    if header.version != VERSION {
        return Err(refuse(format!("version {}, {VERSION} is expected", header.version)));
    }
    if header.source != source {
        return Err(refuse(format!("it is of {}, not of {source}", header.source)));
    }
    let mut objects = BTreeMap::new();
    for (number, line) in (2..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        let object: Object =
            serde_json::from_slice(line).map_err(|error| refuse(format!("line {number}: {error}")))?;
        if objects.len() == OBJECTS_MAX {
            return Err(refuse(format!("over {OBJECTS_MAX} objects")));
        }
        objects.insert(object.id(), object);
    }
    Ok(Some(objects))
}
