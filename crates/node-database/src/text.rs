//! Texts of queries, for people to look at.
//!
//! A server keeps a query with `$1` and the like in place of its values, and in rare cases as it was asked:
//! when it had to forget the query while that ran. So whatever stands in quotes goes, and comments too.

/// LIMIT: bytes of a query that are shown.
const SHOWN_BYTES_MAX: usize = 1000;
/// What stands for a value.
const HIDDEN: &str = "'…'";

/// A query without what stands in quotes or comments, in one line. What follows quotes whose end depends
/// on a setting of the session is left out.
pub(crate) fn shown_query(query: &str) -> String {
    let mut shown = Shown(String::new());
    let mut rest = query;
    while let Some(next) = rest.chars().next() {
        if shown.0.len() >= SHOWN_BYTES_MAX {
            break;
        }
        rest = match next {
            '\'' => {
                shown.push_str(HIDDEN);
                quoted(rest).unwrap_or_default()
            }
            // A name: it is no value, and quotes in it begin none.
            '"' => {
                let end = rest[1..].find('"').map_or(rest.len(), |at| at + 2);
                shown.push_str(&rest[..end]);
                &rest[end..]
            }
            '$' if !shown.ends_in_a_name() => match dollar_mark(rest) {
                Some(mark) => {
                    shown.push_str(HIDDEN);
                    let inside = &rest[mark.len()..];
                    inside.find(mark).map_or("", |at| &inside[at + mark.len()..])
                }
                None => {
                    shown.push('$');
                    &rest[1..]
                }
            },
            '-' if rest.starts_with("--") => {
                shown.push(' ');
                rest.find(['\n', '\r']).map_or("", |at| &rest[at..])
            }
            '/' if rest.starts_with("/*") => {
                shown.push(' ');
                after_comment(rest)
            }
            other => {
                shown.push(other);
                &rest[other.len_utf8()..]
            }
        };
    }
    shown.finish()
}

/// What follows the quotes that `text` begins with; `None` when they are open, or where it is not certain
/// that they end: a backslash may or may not be one of them.
fn quoted(text: &str) -> Option<&str> {
    let mut inside = &text[1..];
    loop {
        let (before, after) = inside.split_once('\'')?;
        if before.ends_with('\\') {
            return None;
        }
        match after.strip_prefix('\'') {
            Some(more) => inside = more,
            None => return Some(after),
        }
    }
}

/// The `$mark$` that `text` begins with; `$1` is none.
fn dollar_mark(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let length = name.find('$')?;
    let mut letters = name[..length].chars();
    let legal = letters.next().is_none_or(|first| first.is_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_');
    legal.then(|| &text[..length + 2])
}

/// What follows the comment that `text` begins with; there may be comments in it.
fn after_comment(text: &str) -> &str {
    let mut rest = &text[2..];
    let mut depth = 1_usize;
    while depth > 0 {
        let Some(at) = rest.find(['/', '*']) else { return "" };
        rest = &rest[at..];
        let step = match &rest.as_bytes()[..rest.len().min(2)] {
            b"/*" => {
                depth += 1;
                2
            }
            b"*/" => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        rest = &rest[step..];
    }
    rest
}

/// A text in one line, with single spaces.
struct Shown(String);

impl Shown {
    fn push(&mut self, c: char) {
        if !c.is_whitespace() && !c.is_control() {
            self.0.push(c);
        } else if !self.0.is_empty() && !self.0.ends_with(' ') {
            self.0.push(' ');
        }
    }

    fn push_str(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c));
    }

    /// Whether a `$` that follows belongs to a name.
    fn ends_in_a_name(&self) -> bool {
        self.0.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
    }

    fn finish(mut self) -> String {
        self.0.truncate(self.0.floor_char_boundary(SHOWN_BYTES_MAX));
        self.0.truncate(self.0.trim_end().len());
        self.0
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_is_one_line_as_it_was_kept() {
        for (query, shown) in [
            ("SELECT $1, $2::text", "SELECT $1, $2::text"),
            ("SELECT\n\t x\r\n  FROM \"My 'table'\"", "SELECT x FROM \"My 'table'\""),
            ("INSERT INTO t VALUES ($1) -- it's\n, ($2)", "INSERT INTO t VALUES ($1) , ($2)"),
            ("/* don't /* nested */ */ SELECT 1", "SELECT 1"),
            ("SELECT a$b$c FROM t WHERE x = $3", "SELECT a$b$c FROM t WHERE x = $3"),
            ("SELECT 4 / 2 - 1 * 3", "SELECT 4 / 2 - 1 * 3"),
            ("", ""),
        ] {
            assert_eq!(shown_query(query), shown);
        }
    }

    #[test]
    fn what_is_in_quotes_is_not_shown() {
        for query in [
            "SELECT 'Secret#42', $1",
            "SELECT 'it''s Secret#42', $1",
            "SELECT E'\\'Secret#42', $1",
            "SELECT 'a\\' || 'Secret#42', $1",
            "SELECT $$Secret#42$$, $1",
            "SELECT $a$ $$ Secret#42 $a$, $1",
            "SELECT $_é1$Secret#42",
            "SELECT 'Secret#42",
            "SELECT \"'\", 'Secret#42'",
            "SELECT 1 -- 'Secret#42",
            "SELECT 1 /* Secret#42 '*/",
            "SELECT 1 /* ' */, 'Secret#42'",
        ] {
            let shown = shown_query(query);
            assert!(!shown.contains("Secret") && shown.starts_with("SELECT"), "{query}: {shown}");
        }
        assert_eq!(shown_query("SELECT 'a', $1, $$b$$"), "SELECT '…', $1, '…'");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = shown_query(&"é".repeat(SHOWN_BYTES_MAX));
        assert_eq!(long.len(), SHOWN_BYTES_MAX);
        let odd = shown_query(&format!("x{}", "é".repeat(SHOWN_BYTES_MAX)));
        assert_eq!(odd.len(), SHOWN_BYTES_MAX - 1);
    }

    proptest! {
        #[test]
        fn whatever_a_query_is_its_text_is_bounded(query in "[^\0]{0,2000}") {
            let shown = shown_query(&query);
            prop_assert!(shown.len() <= SHOWN_BYTES_MAX);
            prop_assert!(!shown.contains(char::is_control));
        }

        #[test]
        fn no_value_gets_out_of_its_quotes(
            before in "[a-z ,]{0,20}",
            value in "[A-Z'\"$/* -]{1,20}",
            after in "[a-z ,]{0,20}",
        ) {
            let query = format!("{before}'{}'{after}", value.replace('\'', "''"));
            let shown = shown_query(&query);
            prop_assert!(!shown.contains(|c: char| c.is_ascii_uppercase()), "{query}: {shown}");
        }
    }
}
