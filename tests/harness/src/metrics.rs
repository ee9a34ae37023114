//! Reading Prometheus' text format, as far as tests ask of it: sums over samples with given labels.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of a scrape.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Name of the metric.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Reads a scrape.
    ///
    /// # Errors
    /// A line is not of the form; the error names it.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|line| parse_line(line).with_context(|| format!("not a sample: {line}")))
            .collect::<Result<_>>()?;
        Ok(Self { samples })
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Samples of that name with (at least) these labels.
    pub fn find<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(k, v)| sample.labels.get(*k).is_some_and(|value| value == v))
        })
    }

    /// Sum over the samples of that name with (at least) these labels.
    ///
    /// # Errors
    /// There is none: a name that is spelt wrong never counts as 0.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut found = self.find(name, labels).peekable();
        if found.peek().is_none() {
            bail!("no sample of {name} with {labels:?}");
        }
        Ok(found.map(|sample| sample.value).sum())
    }
}

fn parse_line(line: &str) -> Result<Sample> {
    let (name, labels, value) = match line.split_once('{') {
        None => {
            let (name, value) = line.split_once(' ').context("no value")?;
            (name, BTreeMap::new(), value)
        }
        Some((name, rest)) => {
            let (labels, value) = parse_labels(rest)?;
            (name, labels, value)
        }
    };
    // A timestamp may follow the value.
    let value = value.split_whitespace().next().context("no value")?;
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse()?,
    })
}

/// Labels from behind the brace, and what follows them.
fn parse_labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(value) = rest.strip_prefix('}') {
            return Ok((labels, value));
        }
        let (name, quoted) = rest.split_once("=\"").context("no label")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        rest = loop {
            match chars.next().context("label value without an end")? {
                (end, '"') => break quoted.get(end + 1..).context("label value without an end")?,
                (_, '\\') => match chars.next().context("label value without an end")?.1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (_, plain) => value.push(plain),
            }
        };
        labels.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_samples_and_sums_them() {
        let text = "# HELP a_total A.\n# TYPE a_total counter\n\
                    a_total{backend=\"10.0.0.1:80\",pool=\"x\"} 3\na_total{backend=\"b \\\"q\\\"\",pool=\"x\"} 4.5\n\
                    up 1 1700000000\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("a_total", &[("pool", "x")]).unwrap(), 7.5);
        assert_eq!(metrics.sum("a_total", &[("backend", "b \"q\"")]).unwrap(), 4.5);
        assert_eq!(metrics.sum("up", &[]).unwrap(), 1.0);
        assert!(metrics.sum("a_totl", &[]).is_err());
        assert!(metrics.sum("a_total", &[("pool", "y")]).is_err());
    }

    #[test]
    fn a_broken_line_is_named() {
        for line in ["name", "name{a=\"1\" 3", "name{a} 3", "name{} x"] {
            let error = Metrics::parse(line).unwrap_err();
            assert_eq!(error.to_string(), format!("not a sample: {line}"));
        }
    }
}
