//! `flashflood check`: that it looks at every kernel, that it passes, and that it fails where a kernel is wrong.

use std::collections::BTreeSet;

use flashflood::compute::shaders;
use serde_json::Value;

use super::*;

/// Every kernel has a row or is known not to be used by the device, and all agree.
#[test]
fn every_kernel_is_checked() {
    let report: Value = serde_json::from_str(&stdout(&["check", "--quick", "--json"])).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let names = |of: &Value| -> BTreeSet<String> {
        of.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let mut seen: BTreeSet<String> = rows.iter().map(|row| row["kernel"].as_str().unwrap().to_owned()).collect();
    let unused = names(&report["not_on_this_device"]);
    assert!(unused.is_disjoint(&seen), "{unused:?}");
    assert!(unused.iter().all(|name| name.contains("_cooperative")), "{unused:?}");
    seen.extend(unused);
    // a new kernel that nothing records here shows in this line
    assert_eq!(seen, shaders::names().map(str::to_owned).collect(), "kernels that `flashflood check` runs");
    assert!(names(&report["not_checked"]).is_empty() && report["failures"].as_array().unwrap().is_empty(), "{report}");
    for row in rows {
        assert!(row["agrees"] == true && row["error"].as_f64().unwrap() <= 1.0, "{row}");
        let is_timed = !["logits_top_k", "expert_count", "expert_group"].iter().any(|name| row["kernel"] == *name);
        assert!(!is_timed || row["us"].as_f64().unwrap() > 0.0, "{row}");
    }
    let products = rows.iter().filter(|row| row["kernel"].as_str().unwrap().starts_with("matvec"));
    assert!(products.into_iter().all(|row| row["gb_per_s"].as_f64().unwrap() > 0.0), "{report}");
    for form in report["small_moe"].as_array().unwrap() {
        assert!(form["agrees"] == true && form["gpu_tokens_per_s"].as_f64().unwrap() > 0.0, "{form}");
    }
    let forms: Vec<&str> =
        report["small_moe"].as_array().unwrap().iter().map(|form| form["activations"].as_str().unwrap()).collect();
    let by_units = (report["device"]["matrix_units"] == "8x8").then_some("f32, matrix units");
    assert_eq!(forms, ["f32", "int8"].into_iter().chain(by_units).collect::<Vec<_>>());
    for key in ["name", "backend", "driver", "max_binding", "subgroups"] {
        assert!(!report["device"][key].is_null(), "{key}: {report}");
    }
}

/// A number that is 2 % off, and an id: each is a mismatch, and the exit code says so.
#[test]
fn a_wrong_kernel_is_found() {
    for kernel in ["rms_norm", "router_top_k"] {
        let wrong = outcome(&["check", "--quick", "--kernel", kernel, "--disturb", kernel]);
        wrong.failed(&["does not compute what the CPU does", kernel, "hint: ", "flashflood check --json"]);
        let mismatch = |line: &str| line.starts_with("MISMATCH  ") && line.contains(kernel);
        assert!(wrong.stdout.lines().any(mismatch) && !wrong.stdout.contains("CPU twin"), "{wrong:#?}");
    }
}

/// Some kernels alone, at the shapes of a model on disk, timed by the host as where there are no timestamps.
#[test]
fn one_kernel_of_a_model() {
    let pack = in_repository("models/small-moe");
    let arguments = ["check", "--quick", "--kernel", "router_top_k", "--host-clock", "-m", pack.to_str().unwrap()];
    let report = stdout(&arguments);
    let rows: Vec<&str> = report.lines().filter(|line| line.starts_with("| router_top_k |")).collect();
    assert!(rows.len() >= 2 && report.matches("| router_top_k |").count() == rows.len(), "{report}");
    // kernel, tokens, shape, error, us
    let times = rows.iter().map(|row| row.split('|').nth(5).unwrap().trim().parse::<f64>().unwrap());
    assert!(times.into_iter().all(|us| us > 0.0) && report.contains("times are of the host"), "{report}");
    assert!(report.trim_end().lines().next_back().unwrap().starts_with("1 kernel agrees"), "{report}");
    assert!(!report.contains("| f32 |"), "the small model is left out: {report}");
}

#[test]
fn what_cannot_be_checked() {
    outcome(&["check", "--kernel", "abacus"]).failed(&["no kernel has a name with `abacus`", "hint: ", "rms_norm"]);
    outcome(&["check", "--model", "/does/not/exist"]).failed(&["/does/not/exist"]);
    let mut command = flashflood(&["check"]);
    let blind = command.env("VK_DRIVER_FILES", "/does/not/exist").env("VK_ICD_FILENAMES", "/does/not/exist");
    ended(blind.spawn().unwrap()).failed(&["no GPU or software driver found", "hint: ", "driver"]);
}
