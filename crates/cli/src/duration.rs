use std::time::Duration;

use api_node::{TIME_LIMIT_MS_MAX, TIMEOUT_S_MAX};

/// A time such as `30s`, `500ms`, `1.5m` or `2h`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("use a number and ms, s, m or h, such as 30s".to_owned()),
    };
    let number: f64 =
        number.parse().map_err(|_| "use a number and ms, s, m or h, such as 30s".to_owned())?;
    let duration = Duration::try_from_secs_f64(number * scale)
        .map_err(|_| "that is longer than a day".to_owned())?;
    match duration.as_millis() {
        0 => Err("it must be at least 1ms".to_owned()),
        ms if ms > u128::from(TIME_LIMIT_MS_MAX) => Err("that is longer than a day".to_owned()),
        _ => Ok(duration),
    }
}

/// The lifetime of a sandbox or key in seconds, such as `90s`, `30m`, `8h` or `7d`; 0 for `never`.
pub(crate) fn parse_lifetime(text: &str) -> Result<u32, String> {
    let advice = || "use a whole number and s, m, h or d, such as 30m, or `never`".to_owned();
    if text == "never" {
        return Ok(0);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(advice()),
    };
    let number: u32 = match number.parse() {
        Ok(number) => number,
        Err(_) if number.is_empty() => return Err(advice()),
        // All digits, and more of them than any year has seconds.
        Err(_) => u32::MAX,
    };
    let seconds = number.checked_mul(scale).filter(|seconds| *seconds <= TIMEOUT_S_MAX);
    seconds.ok_or_else(|| "that is longer than a year; `never` is without end".to_owned())
}

/// A time for people: `850 ms`, `3.2 s`, `2 min 5 s`, `3 h 10 min`, `12 d 4 h`.
pub(crate) fn shown(duration: Duration) -> String {
    const HOUR_MS: u128 = 60 * 60 * 1000;
    const DAY_MS: u128 = 24 * HOUR_MS;
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        60_000..HOUR_MS => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        HOUR_MS..DAY_MS => format!("{} h {} min", ms / HOUR_MS, ms % HOUR_MS / 60_000),
        _ => format!("{} d {} h", ms / DAY_MS, ms % DAY_MS / HOUR_MS),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn times_are_what_people_write() {
        for (text, ms) in
            [("30s", 30_000), ("500ms", 500), ("1.5m", 90_000), ("2h", 7_200_000), ("7", 7_000)]
        {
            assert_eq!(parse_duration(text).unwrap().as_millis(), ms, "{text}");
        }
        for text in ["", "s", "-1s", "0", "0ms", "1d", "25h", "1e9", "1.2.3s", "999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lifetimes_are_whole_seconds_up_to_a_year() {
        for (text, seconds) in [
            ("never", 0),
            ("0", 0),
            ("90", 90),
            ("30m", 1_800),
            ("8h", 28_800),
            ("365d", 31_536_000),
        ] {
            assert_eq!(parse_lifetime(text), Ok(seconds), "{text}");
        }
        for text in ["", "h", "-1s", "1.5h", "500ms", "366d", "1w", "99999999999", "99999999999s"] {
            assert!(parse_lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_read_well() {
        let shown = |ms| shown(Duration::from_millis(ms));
        assert_eq!([shown(9), shown(3_240), shown(125_000)], ["9 ms", "3.2 s", "2 min 5 s"]);
        assert_eq!([shown(3_600_000), shown(100 * 3_600_000)], ["1 h 0 min", "4 d 4 h"]);
    }
}
