//! `{% generation %}`: transformers' mark of what the assistant writes, for training.
//!
//! The engine knows no such tag and cannot be taught one. Rendered, it is a block with variables of its own, so it
//! becomes `{% with %}`.

/// `source` with `with` for every `generation` tag; lines and columns of other tags stay.
pub(super) fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = find_opening(rest) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = match &rest[..2] {
            "{#" => rest.find("#}").map_or(rest.len(), |end| end + 2),
            "{{" => end_of_tag(rest, "}}"),
            _ => end_of_tag(rest, "%}"),
        };
        let tag = &rest[..end];
        match tag.strip_prefix("{%").map(|tag| tag.trim_start_matches(['-', '+']).trim_start()) {
            Some(inside) if is_tag(inside, "endgeneration") => {
                out.push_str(&tag.replacen("endgeneration", "endwith", 1))
            }
            Some(inside) if is_tag(inside, "generation") => out.push_str(&tag.replacen("generation", "with", 1)),
            Some(inside) if is_tag(inside, "raw") => {
                out.push_str(tag);
                rest = &rest[end..];
                let end = end_of_raw(rest);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            _ => out.push_str(tag),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn find_opening(text: &str) -> Option<usize> {
    ["{#", "{{", "{%"].iter().filter_map(|opening| text.find(opening)).min()
}

/// Whether the inside of a tag, after its sign, is `word` alone.
fn is_tag(inside: &str, word: &str) -> bool {
    inside.strip_prefix(word).is_some_and(|rest| rest.trim_start().trim_start_matches(['-', '+']) == "%}")
}

/// Where a tag ends that `text` begins with: after `closing`, outside of strings.
fn end_of_tag(text: &str, closing: &str) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices().skip(2);
    while let Some((at, c)) = chars.next() {
        match quote {
            Some(_) if c == '\\' => {
                chars.next();
            }
            Some(open) if open == c => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if text[at..].starts_with(closing) => return at + 2,
            None => {}
        }
    }
    text.len()
}

/// Where `{% endraw %}` begins.
fn end_of_raw(text: &str) -> usize {
    let mut from = 0;
    while let Some(found) = text[from..].find("{%") {
        let at = from + found;
        if text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw") {
            return at;
        }
        from = at + 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tags_are_changed() {
        for (source, expected) in [
            ("a{% generation %}b{%- endgeneration -%}", "a{% with %}b{%- endwith -%}"),
            ("{%generation-%}\n{% endgeneration%}", "{%with-%}\n{% endwith%}"),
            ("{% set generation = 1 %}{{ generation }}", "{% set generation = 1 %}{{ generation }}"),
            ("{{ '{% generation %}' }}{# {% generation %} #}", "{{ '{% generation %}' }}{# {% generation %} #}"),
            ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
            ("{{ 'it\\'s }}' }}{% generation %}", "{{ 'it\\'s }}' }}{% with %}"),
            ("{", "{"),
            ("{%", "{%"),
            ("{{ '", "{{ '"),
        ] {
            assert_eq!(without_generation(source), expected);
        }
    }
}
