//! Glob patterns as KEYS, SCAN and CONFIG GET take them: `* ? [a-c] [^x] \x`.

/// Whether the whole of `text` matches `pattern`. Case counts.
///
/// Iterative, with one point to back up to: the time is O(pattern * text) whatever the pattern, where the usual
/// recursive matcher is exponential in the number of stars.
pub fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            if p == pattern.len() {
                return true;
            }
            retry = Some((p, t));
            continue;
        }
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if let (Some(&byte), true) = (text.get(t), p < pattern.len())
            && let (true, next) = match_one(pattern, p, byte)
        {
            p = next;
            t += 1;
            continue;
        }
        match retry {
            Some((star, from)) if from < text.len() => {
                retry = Some((star, from + 1));
                p = star;
                t = from + 1;
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the pattern element at `p`; also gives where the next element starts.
fn match_one(pattern: &[u8], p: usize, byte: u8) -> (bool, usize) {
    match pattern.get(p) {
        Some(b'?') => (true, p + 1),
        Some(b'[') => match_class(pattern, p + 1, byte),
        Some(b'\\') if p + 1 < pattern.len() => (pattern.get(p + 1) == Some(&byte), p + 2),
        Some(&literal) => (literal == byte, p + 1),
        None => (false, p),
    }
}

/// Matches one byte against a class whose first byte after the bracket is at `p`. A class left open runs to the end of
/// the pattern, as in redis.
fn match_class(pattern: &[u8], mut p: usize, byte: u8) -> (bool, usize) {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut matched = false;
    while let Some(&c) = pattern.get(p) {
        match (c, pattern.get(p + 1), pattern.get(p + 2)) {
            (b'\\', Some(&literal), _) => {
                matched |= literal == byte;
                p += 2;
            }
            (b']', ..) => return (matched != negated, p + 1),
            (low, Some(b'-'), Some(&high)) => {
                matched |= (low.min(high)..=low.max(high)).contains(&byte);
                p += 3;
            }
            (literal, ..) => {
                matched |= literal == byte;
                p += 1;
            }
        }
    }
    (matched != negated, p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_redis_documents_them() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h*llo", "hllo", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxxcd", false),
            ("a*", "abc", true),
            ("*c", "abcabc", true),
            ("[ab", "a", true),
            ("[\\]]", "]", true),
            ("a**b", "ab", true),
            ("ab", "a", false),
        ] {
            assert_eq!(glob_match(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        let pattern = "a*".repeat(30) + "b";
        assert!(!glob_match(pattern.as_bytes(), "a".repeat(2000).as_bytes()));
    }
}
