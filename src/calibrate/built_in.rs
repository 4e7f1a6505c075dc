//! The text that a calibration has without being given one: conversations, stories, code and sums in many languages, written
//! for this project, and any number of sums, JSON objects, calls of tools and lists that are made up as they are needed. The
//! same documents come out on every machine.

use flashflood_formats::split_mix;
use serde_json::{Value, json};

use super::text::Document;
use crate::text::Message;

/// Documents behind a line `=== KIND`: turns begin with `S: ` (system), `U: ` (user) or `A: ` (assistant), or there are none.
const WRITTEN: &str = include_str!("built_in.txt");

const NAMES: [&str; 16] = [
    "Amara", "Bao", "Carlos", "Dewi", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Katya", "Liam", "Mei",
    "Nadia", "Oskar", "Priya",
];
const CITIES: [&str; 16] = [
    "Accra", "Berlin", "Chennai", "Dublin", "Esbjerg", "Fukuoka", "Granada", "Hanoi", "Istanbul", "Jakarta", "Krakow",
    "Lagos", "Montreal", "Nairobi", "Osaka", "Porto",
];
const THINGS: [&str; 16] = [
    "apples",
    "books",
    "cables",
    "drills",
    "envelopes",
    "forks",
    "gloves",
    "hammers",
    "jars",
    "keys",
    "lamps",
    "mugs",
    "notebooks",
    "oranges",
    "pens",
    "ropes",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// The documents that were written, once, in the order of the file.
pub(super) fn written() -> Vec<Document> {
    let documents = WRITTEN.split("=== ").filter_map(|document| document.split_once('\n'));
    documents.map(|(_, text)| of_text(text.trim_end())).collect()
}

fn of_text(text: &str) -> Document {
    if !["S: ", "U: "].iter().any(|mark| text.starts_with(mark)) {
        return Document::Plain(text.to_owned());
    }
    let mut messages: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        let turn = [("S: ", "system"), ("U: ", "user"), ("A: ", "assistant")];
        match turn.iter().find_map(|(mark, role)| Some((*role, line.strip_prefix(mark)?))) {
            Some((role, said)) => messages.push((role, said.to_owned())),
            None => {
                if let Some((_, said)) = messages.last_mut() {
                    said.push('\n');
                    said.push_str(line);
                }
            }
        }
    }
    let messages = messages.into_iter().map(|(role, said)| Message::new(role, said)).collect();
    Document::Chat { messages, tools: None }
}

/// Numbers for what is made up.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        split_mix(&mut self.0) % end
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Document `n` of those that are made up.
pub(super) fn made_up(n: u64) -> Document {
    let mut dice = Dice(n.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x63_616c);
    match n % 6 {
        0 => sums(&mut dice),
        1 => object(&mut dice),
        2 => call(&mut dice),
        3 => table(&mut dice),
        4 => look_up(&mut dice),
        _ => code(&mut dice),
    }
}

fn chat(turns: Vec<(String, String)>) -> Document {
    let turn = |(asked, answer)| [Message::new("user", asked), Message::new("assistant", answer)];
    Document::Chat { messages: turns.into_iter().flat_map(turn).collect(), tools: None }
}

fn sums(dice: &mut Dice) -> Document {
    let mut turns = Vec::new();
    for _ in 0..1 + dice.below(4) {
        let (a, b) = (dice.below(1000), dice.below(100));
        let (c, d) = (2 + dice.below(30), 2 + dice.below(12));
        turns.push(match dice.below(5) {
            0 => (format!("What is {a} plus {b}?"), format!("{a} + {b} = {}", a + b)),
            1 => (format!("{} - {b} = ?", a + b), format!("{}", a)),
            2 => (format!("Multiply {c} by {d}."), format!("{c} x {d} = {}", c * d)),
            3 => (format!("Divide {} by {d}.", c * d), format!("{} / {d} = {c}", c * d)),
            _ => {
                let (name, thing) = (dice.one_of(&NAMES), dice.one_of(&THINGS));
                let asked = format!("{name} has {a} {thing}, buys {b} more and gives away {c}. How many are left?");
                let left = a as i64 + b as i64 - c as i64;
                (asked, format!("{a} + {b} = {}, and {} - {c} = {left}. {name} has {left} {thing} left.", a + b, a + b))
            }
        });
    }
    chat(turns)
}

fn object(dice: &mut Dice) -> Document {
    let (name, city, thing, day) =
        (dice.one_of(&NAMES), dice.one_of(&CITIES), dice.one_of(&THINGS), dice.one_of(&DAYS));
    let (count, price, paid) = (1 + dice.below(40), dice.below(90_00) as f64 / 100.0, dice.below(2) == 0);
    let was = if paid { "paid" } else { "not paid yet" };
    let text = format!("{name} from {city} ordered {count} {thing} on {day}, {price} each, {was}.");
    let answer = json!({
        "customer": {"name": name, "city": city}, "items": [{"what": thing, "count": count, "price": price}],
        "day": day, "paid": paid, "note": null,
    });
    let answer = if dice.below(2) == 0 { answer.to_string() } else { format!("{answer:#}") };
    chat(vec![(format!("Turn this into JSON with customer, items, day, paid and note: {text}"), answer)])
}

/// Functions as OpenAI's protocol describes them.
fn tools() -> Value {
    let text = |about: &str| json!({"type": "string", "description": about});
    let function = |name: &str, about: &str, properties: Value, required: Value| {
        json!({"type": "function", "function": {"name": name, "description": about,
            "parameters": {"type": "object", "properties": properties, "required": required}}})
    };
    json!([
        function(
            "get_weather",
            "The weather of a city on a day",
            json!({"city": text("Name of the city"),
            "day": text("Day of the week")}),
            json!(["city"])
        ),
        function(
            "send_message",
            "Sends a message",
            json!({"to": text("Who gets it"), "text": text("What it says")}),
            json!(["to", "text"])
        ),
        function(
            "order",
            "Orders goods",
            json!({"what": text("Goods"), "count": {"type": "integer"}}),
            json!(["what", "count"])
        ),
    ])
}

fn call(dice: &mut Dice) -> Document {
    let (name, city, thing, day) =
        (dice.one_of(&NAMES), dice.one_of(&CITIES), dice.one_of(&THINGS), dice.one_of(&DAYS));
    let (degrees, count) = (dice.below(35), 1 + dice.below(50));
    let (asked, function, arguments, result, answer) = match dice.below(3) {
        0 => (
            format!("Do I need an umbrella in {city} on {day}?"),
            "get_weather",
            json!({"city": city, "day": day}),
            json!({"degrees": degrees, "rain": degrees % 2 == 0}),
            match degrees % 2 {
                0 => format!("Yes: it will rain in {city} on {day}, at {degrees} degrees."),
                _ => format!("No, {city} stays dry on {day}, with {degrees} degrees."),
            },
        ),
        1 => (
            format!("Tell {name} that I arrive on {day} with {count} {thing}."),
            "send_message",
            json!({"to": name, "text": format!("I arrive on {day} with {count} {thing}.")}),
            json!({"sent": true}),
            format!("Done: {name} knows."),
        ),
        _ => (
            format!("Please order {count} {thing}."),
            "order",
            json!({"what": thing, "count": count}),
            json!({"order": dice.below(100_000), "delivered": day}),
            format!("I ordered {count} {thing}; they come on {day}."),
        ),
    };
    let call = json!([{"type": "function", "function": {"name": function, "arguments": arguments}}]);
    let calls = Message { role: "assistant".to_owned(), tool_calls: call.as_array().cloned(), ..Message::default() };
    let messages = vec![
        Message::new("user", asked),
        calls,
        Message::new("tool", result.to_string()),
        Message::new("assistant", answer),
    ];
    Document::Chat { messages, tools: Some(tools()) }
}

fn table(dice: &mut Dice) -> Document {
    let mut rows: Vec<(&str, &str, u64)> =
        (0..3 + dice.below(5)).map(|_| (dice.one_of(&NAMES), dice.one_of(&CITIES), dice.below(1000))).collect();
    let list = |rows: &[(&str, &str, u64)]| {
        let rows: Vec<String> = rows.iter().map(|(name, city, n)| format!("| {name} | {city} | {n} |")).collect();
        format!("| name | city | points |\n| --- | --- | ---: |\n{}", rows.join("\n"))
    };
    let asked = format!("Sort this by points, most first, and say who leads:\n\n{}", list(&rows));
    rows.sort_by_key(|row| std::cmp::Reverse(row.2));
    let (name, _, points) = rows[0];
    chat(vec![(asked, format!("{}\n\n{name} leads with {points} points.", list(&rows)))])
}

fn look_up(dice: &mut Dice) -> Document {
    let facts: Vec<(&str, &str, u64, &str)> = (0..4 + dice.below(8))
        .map(|_| (dice.one_of(&NAMES), dice.one_of(&CITIES), 1 + dice.below(99), dice.one_of(&THINGS)))
        .collect();
    let text: Vec<String> = facts
        .iter()
        .map(|(name, city, n, thing)| match n % 3 {
            0 => format!("In {city}, {name} keeps {n} {thing} in the cellar."),
            1 => format!("{name} took {n} {thing} to {city} last {}.", DAYS[*n as usize % 7]),
            _ => format!("There are {n} {thing} at {name}'s place in {city}."),
        })
        .collect();
    let (name, city, n, thing) = facts[dice.below(facts.len() as u64) as usize];
    let asked = format!("{}\n\nHow many {thing} is it with {name} and {city}?", text.join(" "));
    chat(vec![(asked, format!("{n} {thing}."))])
}

fn code(dice: &mut Dice) -> Document {
    let (thing, name) = (dice.one_of(&THINGS), dice.one_of(&NAMES).to_lowercase());
    let (a, b) = (dice.below(90) + 10, dice.below(9) + 1);
    let text = match dice.below(4) {
        0 => format!(
            "def count_{thing}(rows, least={b}):\n    \"\"\"Counts the rows that have at least `least` {thing}.\"\"\"\n    \
             total = 0\n    for row in rows:\n        if row.get(\"{thing}\", 0) >= least:\n            total += 1\n    \
             return total\n\n\nassert count_{thing}([{{\"{thing}\": {a}}}, {{}}]) == 1\n"
        ),
        1 => format!(
            "/// How many boxes of {b} hold `{thing}`.\npub fn boxes_of_{thing}({thing}: usize) -> usize {{\n    \
             {thing}.div_ceil({b})\n}}\n\n#[test]\nfn a_box_that_is_not_full_counts() {{\n    \
             assert_eq!(boxes_of_{thing}({a}), {});\n}}\n",
            a.div_ceil(b)
        ),
        2 => format!(
            "SELECT {name}.id, SUM({thing}.count) AS total\nFROM {name}\nJOIN {thing} ON {thing}.owner = {name}.id\n\
             WHERE {thing}.count > {b}\nGROUP BY {name}.id\nHAVING SUM({thing}.count) >= {a}\nORDER BY total DESC;\n"
        ),
        _ => format!(
            "[service]\nname = \"{name}-{thing}\"\nport = {}\nworkers = {b}\n\n[limits]\nbody_kb = {a}\n\
             timeout_s = {}\n",
            8000 + a,
            b * 5
        ),
    };
    Document::Plain(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_as_turns() {
        let all = written();
        assert!(all.len() >= 45, "{}", all.len());
        let chats = all.iter().filter(|document| matches!(document, Document::Chat { .. })).count();
        assert!(chats > 25 && chats < all.len(), "{chats}");
        for document in &all {
            if let Document::Chat { messages, .. } = document {
                let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
                let turns = roles.strip_prefix(&["system"]).unwrap_or(&roles);
                assert!(turns.chunks(2).all(|pair| pair == ["user", "assistant"]), "{roles:?}");
            }
        }
        assert!(WRITTEN.len() < 60_000);
    }

    #[test]
    fn what_is_made_up_differs_and_comes_again() {
        let text = |n| format!("{:?}", made_up(n));
        for n in 0..60 {
            assert_eq!(text(n), text(n));
            assert_ne!(text(n), text(n + 6));
        }
    }
}
