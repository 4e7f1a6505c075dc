//! Kernels against their CPU twins, for programs without a terminal.

use flashflood::{CheckOptions, CheckShapes};
use serde_json::{Value, json};

use crate::text::{Failure, json as parsed};

pub(crate) fn check(options: &str) -> Result<Value, Failure> {
    let options = parsed(options, "options_json")?;
    if !options.is_object() && !options.is_null() {
        return Err(Failure::Other(format!("options_json: expected an object, found {options}")));
    }
    let mut wanted = CheckOptions::default();
    for (key, value) in options.as_object().into_iter().flatten() {
        match (key.as_str(), value.as_str(), value.as_array()) {
            ("shapes", Some("auto"), _) => wanted.shapes = CheckShapes::Auto,
            ("shapes", Some("model"), _) => wanted.shapes = CheckShapes::Model,
            ("shapes", Some("small"), _) => wanted.shapes = CheckShapes::Small,
            ("kernels", _, Some(names)) if names.iter().all(Value::is_string) => {
                wanted.kernels = names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
            }
            _ => {
                let known = "shapes (auto, model or small) and kernels (a list of names)";
                return Err(Failure::Other(format!("options_json: expected {known}, found {key}: {value}")));
            }
        }
    }
    crate::engine::start_threads()?;
    let report = flashflood::check(&wanted, &mut |_, _| true).map_err(Failure::of)?;
    let mut told = json!(report);
    told["mismatches"] = json!(report.mismatches());
    Ok(told)
}
