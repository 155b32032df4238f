//! Choosing by id and filter, and giving the choice out in pages.
//!
//! Guarantees: work and memory are linear in what there is; a token that was never given out is an error or a page
//! like any other, never a panic.

use crate::ApiError;
use crate::cloud::describe::{Filter, Page, PageLimits, PageRequest};

/// Values a filter may list (EC2 user guide, "List and filter your resources").
const FILTER_VALUES_MAX: usize = 200;

/// The values a thing has under a filter's name; `None` if there is no such filter.
pub(super) type Values = Option<Vec<String>>;

pub(super) fn select<T>(
    all: impl Iterator<Item = T>,
    ids: &[String],
    filters: &[Filter],
    id_of: impl Fn(&T) -> String,
    values_of: impl Fn(&T, &str) -> Values,
) -> Result<Vec<T>, ApiError> {
    if let Some(filter) = filters.iter().find(|f| f.values.len() > FILTER_VALUES_MAX) {
        let message = format!(
            "The filter '{}' exceeds the limit of {FILTER_VALUES_MAX} values",
            filter.name
        );
        return Err(ApiError::new("FilterLimitExceeded", message));
    }
    let mut found = Vec::new();
    for item in all {
        let mut wanted = ids.is_empty() || ids.contains(&id_of(&item));
        for filter in filters {
            let unknown =
                || ApiError::invalid_value(format!("The filter '{}' is invalid", filter.name));
            let values = values_of(&item, &filter.name).ok_or_else(unknown)?;
            wanted &= values
                .iter()
                .any(|value| filter.values.iter().any(|pattern| wildcard(pattern, value)));
        }
        if wanted {
            found.push(item);
        }
    }
    found.sort_by_key(id_of);
    Ok(found)
}

pub(super) fn paged<T>(
    found: Vec<T>,
    ids: &[String],
    page: &PageRequest,
    limits: PageLimits,
    id_of: impl Fn(&T) -> String,
) -> Result<Page<T>, ApiError> {
    if !ids.is_empty() && page.max_results.is_some() {
        let message = "MaxResults cannot be combined with a list of ids in the same request";
        return Err(ApiError::combination(message));
    }
    let size = page.max_results.unwrap_or(limits.default);
    if !(limits.min..=limits.max).contains(&size) {
        let (min, max) = (limits.min, limits.max);
        let message = format!(
            "Value ( {size} ) for parameter maxResults is invalid. Expecting {min} to {max}."
        );
        return Err(ApiError::invalid_value(message));
    }
    let after = page.next_token.as_deref().map(read_token).transpose()?;
    let mut items: Vec<T> = match after {
        Some(after) => found
            .into_iter()
            .filter(|item| id_of(item) > after)
            .collect(),
        None => found,
    };
    let more = items.len() > size;
    items.truncate(size);
    let next_token = items
        .last()
        .filter(|_| more)
        .map(|last| write_token(&id_of(last)));
    Ok(Page { items, next_token })
}

/// Tokens are the last id in hexadecimal, so that nobody takes them for ids.
fn write_token(id: &str) -> String {
    id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn read_token(token: &str) -> Result<String, ApiError> {
    let pairs = token.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair)
            .ok()
            .filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    let id = bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|id| !id.is_empty());
    id.ok_or_else(|| ApiError::new("InvalidNextToken", "The token is not valid"))
}

/// Whether `text` matches `pattern`, in which `*` is any text, `?` any character and `\` takes both literally.
fn wildcard(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some('?'), Some(_)) => Some(1),
            (Some('\\'), Some(c)) if pattern.get(p + 1) == Some(c) => Some(2),
            (Some(literal), Some(c)) if literal == c && *literal != '\\' => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(width), _) => (p, t) = (p + width, t + 1),
            // Back to the last star, which takes one character more.
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, _) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_ec2_says() {
        let cases = [
            ("aws-K8S-*", "aws-K8S-i-1", true),
            ("aws-K8S-*", "aws-K8S-", true),
            ("*K8S*1", "aws-K8S-i-1", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("abc", "abcd", false),
            ("", "", true),
            ("", "a", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("*a*b*c", "xxaxxbxxbxxc", true),
            ("*a*b*c", "xxaxxbxxbxx", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(wildcard(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!wildcard(&pattern, &"a".repeat(255)));
    }

    #[test]
    fn tokens_survive_the_round_trip_and_garbage_does_not() {
        assert_eq!(read_token(&write_token("eni-1")).unwrap(), "eni-1");
        for bad in ["", "0", "zz", "ff", "é"] {
            assert_eq!(
                read_token(bad).unwrap_err().code,
                "InvalidNextToken",
                "{bad}"
            );
        }
    }
}
