//! Splits a command line into words without a shell: blanks separate, quotes and backslashes protect, nothing expands.

/// A command line that cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    #[error("the command is empty")]
    Empty,
    #[error("a {0} is not closed")]
    Unclosed(char),
    #[error("it ends in a backslash")]
    Backslash,
}

/// The words of `text`. Inside `'…'` everything is literal; inside `"…"` a backslash protects the next character.
pub fn split(text: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('"') | None, '\\') => {
                word.get_or_insert_default().push(chars.next().ok_or(WordsError::Backslash)?);
            }
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(WordsError::Unclosed(open));
    }
    words.extend(word);
    if words.is_empty() { Err(WordsError::Empty) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_without_a_shell() {
        let words = |text| split(text).unwrap();
        assert_eq!(words("systemctl start web"), ["systemctl", "start", "web"]);
        assert_eq!(words("  a  'b c'  \"d \\\" e\" f\\ g '' "), ["a", "b c", "d \" e", "f g", ""]);
        assert_eq!(words("echo $HOME `id` ; rm"), ["echo", "$HOME", "`id`", ";", "rm"]);
        assert_eq!(split("   "), Err(WordsError::Empty));
        assert_eq!(split("a 'b"), Err(WordsError::Unclosed('\'')));
        assert_eq!(split("a \\"), Err(WordsError::Backslash));
    }
}
