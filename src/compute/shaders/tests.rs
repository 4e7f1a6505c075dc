use super::*;

const FILES: [File; 5] = [
    File { name: "low", text: "enable f16;\nlow" },
    File { name: "middle", text: "// middle\n\n//import low\nmiddle" },
    File { name: "lost", text: "//import nowhere" },
    File { name: "chicken", text: "//import egg" },
    File { name: "egg", text: "//import chicken" },
];

fn of(text: &'static str) -> Result<String, ShaderError> {
    assemble(File { name: "kernel", text }, &|import| FILES.iter().find(|file| file.name == import).copied())
}

#[test]
fn imports_come_once_and_before_their_users() {
    let text = of("//import middle\n//import low\nkernel\n").expect("all is there");
    let code: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with("//")).collect();
    assert_eq!(code, ["enable f16;", "low", "middle", "kernel"]);
}

#[test]
fn what_is_not_there_is_refused() {
    let nowhere = |file, import| Err(ShaderError::Import { file, import });
    assert_eq!(of("//import nothing"), nowhere("kernel", "nothing"));
    assert_eq!(of("//import low \n"), nowhere("kernel", "low "), "a name is the rest of the line");
    assert_eq!(of("//import lost"), nowhere("lost", "nowhere"));
    assert_eq!(of("//import chicken"), Err(ShaderError::Circle("chicken")));
    assert_eq!(source("matvec_q7"), Err(ShaderError::Unknown("matvec_q7".to_owned())));
    // roles are those of products
    assert!(piece("weights").is_none() && piece("block").is_none());
}
