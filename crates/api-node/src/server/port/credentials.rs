//! What a request brings to be let to a port, taken out of it: none of it is for the program.

use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, REFERER};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::server::port::place::Way;
use crate::{PORT_TOKEN_HEADER, PORT_TOKEN_NAME, PortToken};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const TOKEN: HeaderName = HeaderName::from_static(PORT_TOKEN_HEADER);
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// What a key of ours begins with; one with a typing error is still nobody else's business.
const KEY_PREFIX: &str = "sfk_";
/// LIMIT: tokens of one request that are looked at; a browser may hold a few cookies of one name.
const TOKENS_MAX: usize = 8;

/// What a request brought.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    /// From a header, or a cookie that counts.
    tokens: Vec<PortToken>,
    /// From the query.
    in_query: Option<PortToken>,
    pub(crate) key: Option<String>,
}

impl Credentials {
    /// Takes them out of a request's headers and query, whether they are good or not.
    pub(crate) fn take(headers: &mut HeaderMap, query: &mut Option<String>, way: Way) -> Self {
        let mut found = Self { in_query: from_query(query), ..Self::default() };
        found.add(headers.get_all(TOKEN).iter().filter_map(|value| value.to_str().ok()));
        headers.remove(TOKEN);
        // The address of a page that was opened with one.
        if headers.get(REFERER).is_some_and(|page| contains(page.as_bytes(), PORT_TOKEN_NAME)) {
            headers.remove(REFERER);
        }
        found.take_keys(headers, way);
        let cookies = take_cookies(headers, way);
        if way == Way::Host && !is_of_another_origin(headers) {
            found.add(cookies.iter().map(String::as_str));
        }
        found
    }

    fn add<'a>(&mut self, texts: impl Iterator<Item = &'a str>) {
        let tokens = texts.filter_map(|text| text.trim().parse::<PortToken>().ok());
        self.tokens.extend(tokens.take(TOKENS_MAX - self.tokens.len()));
    }

    fn take_keys(&mut self, headers: &mut HeaderMap, way: Way) {
        let ours = |text: &str| {
            text.get(..KEY_PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(KEY_PREFIX))
        };
        let bearer = |value: &HeaderValue| {
            let (scheme, key) = value.to_str().ok()?.trim().split_once(' ')?;
            let key = key.trim();
            (scheme.eq_ignore_ascii_case("bearer") && ours(key)).then(|| key.to_owned())
        };
        let plain = |value: &HeaderValue| {
            let key = value.to_str().ok()?.trim();
            ours(key).then(|| key.to_owned())
        };
        let key = take_matching(headers, &API_KEY, plain);
        let bearer = take_matching(headers, &AUTHORIZATION, bearer);
        // On a host name of its own, that header is between the program and its users.
        self.key = key.or(bearer.filter(|_| way != Way::Host));
    }

    /// Whether the sandbox's token is among them.
    pub(crate) fn have(&self, token: PortToken) -> bool {
        // No early end: how long it takes does not tell which one was right.
        let among = self.tokens.iter().fold(false, |found, one| found | (*one == token));
        among | self.in_query_is(token)
    }

    /// Whether the query has it.
    pub(crate) fn in_query_is(&self, token: PortToken) -> bool {
        self.in_query == Some(token)
    }
}

fn contains(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|part| part == word.as_bytes())
}

/// Removes the values of a header that `ours` knows, and returns the first of them.
fn take_matching(
    headers: &mut HeaderMap,
    name: &HeaderName,
    ours: impl Fn(&HeaderValue) -> Option<String>,
) -> Option<String> {
    let (taken, others): (Vec<_>, Vec<_>) =
        headers.get_all(name).iter().cloned().partition(|value| ours(value).is_some());
    if taken.is_empty() {
        return None;
    }
    headers.remove(name);
    for other in others {
        headers.append(name, other);
    }
    taken.first().and_then(ours)
}

/// Removes our parameters from a query.
fn from_query(query: &mut Option<String>) -> Option<PortToken> {
    let text = query.take()?;
    let mut token = None;
    let others = text.split('&').filter(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let ours = name == PORT_TOKEN_NAME;
        if ours {
            token = token.or(value.parse().ok());
        }
        !ours
    });
    let others = others.collect::<Vec<_>>().join("&");
    *query = Some(others).filter(|others| !others.is_empty() || text.is_empty());
    token
}

/// Removes our cookies, and where the origin is not the port's alone all others too: they would be
/// those of every sandbox there.
fn take_cookies(headers: &mut HeaderMap, way: Way) -> Vec<String> {
    let lines: Vec<_> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    let mut ours = Vec::new();
    if way != Way::Host {
        return ours;
    }
    for line in lines {
        // As bytes: the program's own may be in any encoding.
        let pairs = line.as_bytes().split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let others = pairs.filter(|pair| {
            let mut sides = pair.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
            let named = sides.next() == Some(PORT_TOKEN_NAME.as_bytes());
            match sides.next().filter(|_| named) {
                Some(value) => {
                    ours.push(String::from_utf8_lossy(value).into_owned());
                    false
                }
                None => true,
            }
        });
        let others = others.collect::<Vec<_>>().join(&b"; "[..]);
        if let Ok(value) = HeaderValue::from_bytes(&others)
            && !others.is_empty()
        {
            headers.append(COOKIE, value);
        }
    }
    ours
}

/// Whether a page of another origin had the browser send this, other than by leading there.
pub(crate) fn is_of_another_origin(headers: &HeaderMap) -> bool {
    let text =
        |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(&HOST).unwrap_or_default();
    let foreign = text(&ORIGIN).is_some_and(|origin| {
        let origin = origin.split_once("://").map_or("", |(_, rest)| rest);
        !origin.eq_ignore_ascii_case(host)
    });
    let elsewhere = matches!(text(&FETCH_SITE), Some("cross-site" | "same-site"));
    // A link that leads there opens a page of its own; a frame would open it inside the other one.
    foreign || (elsewhere && text(&FETCH_DEST) != Some("document"))
}

#[cfg(test)]
mod test {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        headers.iter().map(line).collect()
    }

    fn token(byte: u8) -> PortToken {
        PortToken::from_bytes([byte; 16])
    }

    #[test]
    fn a_token_counts_from_header_query_and_on_a_host_name_cookie_and_none_stays() {
        let (one, cookie) =
            (token(1).text(), format!("a=b; {PORT_TOKEN_NAME}={}; c=d", token(2).text()));
        let page = format!("http://h/?{PORT_TOKEN_NAME}={one}");
        let lines_of =
            [(PORT_TOKEN_HEADER, &*one), ("cookie", &*cookie), ("host", "h"), ("referer", &*page)];
        for (way, cookies) in [(Way::Host, true), (Way::Path, false), (Way::Headers, false)] {
            let mut headers = headers(&lines_of);
            let mut query = Some(format!("x=1&{PORT_TOKEN_NAME}={}&y=2", token(3).text()));
            let found = Credentials::take(&mut headers, &mut query, way);
            assert!(
                found.have(token(1)) && found.have(token(3)) && !found.have(token(4)),
                "{way:?}"
            );
            assert_eq!(found.have(token(2)), cookies, "{way:?}");
            assert!(found.in_query_is(token(3)) && !found.in_query_is(token(1)), "{way:?}");
            assert_eq!(query.as_deref(), Some("x=1&y=2"));
            let left = lines(&headers);
            assert!(!format!("{left:?}").contains("sft_"), "{left:?}");
            assert_eq!(
                headers.get(COOKIE).map(|c| c.to_str().unwrap()),
                cookies.then_some("a=b; c=d")
            );
        }
    }

    #[test]
    fn a_token_is_found_and_taken_beside_cookies_in_any_encoding() {
        for other in ["name=Zo\u{eb}", "name=\u{7f16}\u{7801}"] {
            let line = format!("{other}; {PORT_TOKEN_NAME} = {}; c=d", token(1).text());
            let mut sent = HeaderMap::new();
            sent.insert(COOKIE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            assert!(Credentials::take(&mut sent, &mut None, Way::Host).have(token(1)), "{line}");
            assert_eq!(sent[COOKIE].as_bytes(), format!("{other}; c=d").as_bytes());
        }
        // A line that is no text; what is only nearly the token is taken, and does not count.
        let line = [&b"a=\xff; sandflare_token="[..], token(1).text().as_bytes(), b"\xe9"].concat();
        let mut sent = HeaderMap::new();
        sent.insert(COOKIE, HeaderValue::from_bytes(&line).unwrap());
        assert!(!Credentials::take(&mut sent, &mut None, Way::Host).have(token(1)));
        assert_eq!(sent[COOKIE].as_bytes(), b"a=\xff");
    }

    #[test]
    fn a_cookie_does_not_count_when_a_page_of_another_origin_sends_it() {
        let cookie = format!("{PORT_TOKEN_NAME}={}", token(1).text());
        let with = |more: &[(&'static str, &str)]| {
            let mut all = vec![("cookie", &*cookie), ("host", "8000-x.localhost:1")];
            all.extend(more);
            Credentials::take(&mut headers(&all), &mut None, Way::Host).have(token(1))
        };
        for good in [
            &[][..],
            &[("origin", "http://8000-x.localhost:1")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "document")],
        ] {
            assert!(with(good), "{good:?}");
        }
        for bad in [
            &[("origin", "http://9000-x.localhost:1")][..],
            &[("origin", "null")],
            &[("sec-fetch-site", "same-site"), ("sec-fetch-dest", "image")],
            &[("sec-fetch-site", "same-site"), ("sec-fetch-dest", "iframe")],
            &[("sec-fetch-site", "cross-site")],
        ] {
            assert!(!with(bad), "{bad:?}");
        }
    }

    #[test]
    fn keys_of_ours_are_taken_and_those_of_the_program_stay() {
        let own = [("authorization", "Basic abc"), ("x-api-key", "the-programs")];
        let mut kept = headers(&own);
        assert_eq!(Credentials::take(&mut kept, &mut None, Way::Path).key, None);
        assert_eq!(lines(&kept).len(), 2);
        for (way, bearer) in
            [(Way::Host, None), (Way::Path, Some("sfk_1")), (Way::Headers, Some("sfk_1"))]
        {
            let mut sent =
                headers(&[("authorization", "bearer  sfk_1"), ("authorization", "Basic abc")]);
            assert_eq!(Credentials::take(&mut sent, &mut None, way).key.as_deref(), bearer);
            assert_eq!(lines(&sent), [("authorization".to_owned(), "Basic abc".to_owned())]);
            let mut sent = headers(&[("x-api-key", "SFK_2"), ("x-api-key", "sfk_3")]);
            assert_eq!(Credentials::take(&mut sent, &mut None, way).key.as_deref(), Some("SFK_2"));
            assert_eq!(lines(&sent), []);
        }
    }

    #[test]
    fn a_query_without_a_token_is_left_letter_by_letter() {
        for text in ["", "a", "a=b&&c", "%73andflare_token=x", "a=sandflare_token=b"] {
            let mut query = Some(text.to_owned());
            let found = Credentials::take(&mut HeaderMap::new(), &mut query, Way::Path);
            assert_eq!((query.as_deref(), found.in_query), (Some(text), None));
        }
        let mut query = Some(format!("{PORT_TOKEN_NAME}=wrong&{PORT_TOKEN_NAME}"));
        Credentials::take(&mut HeaderMap::new(), &mut query, Way::Path);
        assert_eq!(query, None);
    }
}
