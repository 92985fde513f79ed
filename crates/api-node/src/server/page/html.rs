//! Text made safe to stand in a page.

use std::fmt::{self, Write};

/// A text, written with what means something in HTML escaped.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A text of the document's Markdown: paragraphs, and code between backquotes.
pub(super) struct Prose<'a>(pub(super) &'a str);

impl fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for paragraph in self.0.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            f.write_str("<p>")?;
            for (place, part) in paragraph.split('`').enumerate() {
                match place % 2 {
                    0 => write!(f, "{}", Text(part))?,
                    _ => write!(f, "<code>{}</code>", Text(part))?,
                }
            }
            f.write_str("</p>")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_taken_for_markup() {
        let text = "<script>\"&'</script>";
        assert_eq!(Text(text).to_string(), "&lt;script&gt;&quot;&amp;&#39;&lt;/script&gt;");
        assert!(!Prose(text).to_string().contains("<script"));
        assert_eq!(Prose("a `b<c` d").to_string(), "<p>a <code>b&lt;c</code> d</p>");
    }
}
