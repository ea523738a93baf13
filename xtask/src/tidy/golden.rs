//! Every elementwise definition has golden rows, and every golden row a definition.

use super::Tree;
use serde_json::Value;
use starling_ops::defs::{ALL, Definition, Gradient};

const PATH: &str = "tests/golden/elementwise.json";
/// The special values and a few ordinary ones; a definition with less is hardly checked.
const FEWEST_ROWS: usize = 12;

/// The reference shares the formulas, so only these rows can tell that one is wrong.
pub fn rows(tree: &Tree) -> Vec<String> {
    let Some(file) = tree.find(PATH) else {
        return vec![format!("{PATH}: is missing")];
    };
    let parsed: Value = match serde_json::from_str(&file.text) {
        Ok(value) => value,
        Err(error) => return vec![format!("{PATH}: {error}")],
    };
    let Some(recorded) = parsed["definitions"].as_object() else {
        return vec![format!("{PATH}: has no \"definitions\"")];
    };
    let mut complaints: Vec<String> = ALL
        .iter()
        .filter_map(|d| {
            let fault = check(d, recorded.get(d.name)?.as_object()?.get("rows")?).err()?;
            Some(format!("{PATH}: {}: {fault}", d.name))
        })
        .collect();
    let missing = ALL.iter().filter(|d| parsed["definitions"][d.name]["rows"].is_null());
    complaints.extend(missing.map(|d| format!("{PATH}: {} has no rows", d.name)));
    let stale = recorded.keys().filter(|name| Definition::find(name).is_none());
    complaints.extend(stale.map(|name| format!("{PATH}: no definition is called {name}")));
    complaints
}

/// Each row has the arguments, the values and, where there is one, the gradient.
fn check(d: &Definition, rows: &Value) -> Result<(), String> {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    if rows.len() < FEWEST_ROWS {
        return Err(format!("{} rows; {FEWEST_ROWS} at least", rows.len()));
    }
    let length = |v: &Value| v.as_array().map(Vec::len);
    let gradient = match d.gradient {
        Gradient::Derived | Gradient::Step => Some(d.tensors.len()),
        Gradient::Truth | Gradient::NotDifferentiable(_) => None,
    };
    for (i, row) in rows.iter().enumerate() {
        for (key, expected) in
            [("args", Some(d.tensors.len())), ("value", Some(d.outputs)), ("gradient", gradient)]
        {
            if length(&row[key]) != expected {
                return Err(format!("row {i}: {key:?} has another length than the definition"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real file with one change.
    fn complaints_after(change: impl FnOnce(&mut Value)) -> Vec<String> {
        // cargo runs tests in the package's folder.
        let text = std::fs::read_to_string(format!("../{PATH}")).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        change(&mut value["definitions"]);
        rows(&Tree::planted(&[(PATH, &value.to_string())]))
    }

    #[test]
    fn the_recorded_rows_pass() {
        assert_eq!(complaints_after(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn missing_stale_and_incomplete_rows_are_found() {
        let missing = complaints_after(|d| {
            d.as_object_mut().unwrap().remove("gelu");
        });
        assert_eq!(missing.len(), 1, "{missing:?}");
        let stale = complaints_after(|d| d["no_such"] = d["gelu"].clone());
        assert_eq!(stale.len(), 1, "{stale:?}");
        let few = complaints_after(|d| d["gelu"]["rows"].as_array_mut().unwrap().truncate(3));
        assert_eq!(few.len(), 1, "{few:?}");
        let no_gradient = complaints_after(|d| d["gelu"]["rows"][2]["gradient"] = Value::Null);
        assert_eq!(no_gradient.len(), 1, "{no_gradient:?}");
        let no_value = complaints_after(|d| d["gelu"]["rows"][2]["value"] = Value::Null);
        assert_eq!(no_value.len(), 1, "{no_value:?}");
    }
}
