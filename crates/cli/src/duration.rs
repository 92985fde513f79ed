use std::time::Duration;

use api_node::TIME_LIMIT_MS_MAX;

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

/// A time for people: `850 ms`, `3.2 s`, `2 min 5 s`.
pub(crate) fn shown(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
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
    fn times_read_well() {
        let shown = |ms| shown(Duration::from_millis(ms));
        assert_eq!([shown(9), shown(3_240), shown(125_000)], ["9 ms", "3.2 s", "2 min 5 s"]);
    }
}
