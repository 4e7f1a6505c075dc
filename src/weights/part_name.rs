//! Names of the files that a model is cut into: `NAME-00001-of-00003` and an ending.

/// What is in front of the number, the number, from 1, and how many there are.
pub(crate) fn part_of<'a>(file_name: &'a str, ending: &str) -> Option<(&'a str, usize, usize)> {
    let (rest, count) = file_name.strip_suffix(ending)?.rsplit_once("-of-")?;
    let (start, number) = rest.rsplit_once('-')?;
    let of_five = |digits: &str| {
        let is_number = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { digits.parse().ok() } else { None }
    };
    Some((start, of_five(number)?, of_five(count)?))
}
