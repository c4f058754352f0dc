//! Figures as metric families: a name, what it means, and its values under their labels.

use nvferry_io::tally::LatencyTotals;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Labels with their values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Writes families. The unit, and `_total` for counters, become part of the name.
pub(crate) struct Families<'a>(pub(crate) DescriptorEncoder<'a>);

/// A family, before its values.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) unit: Option<&'static Unit>,
}

/// A family, and how its value is had from what it tells of.
pub(crate) type Of<T, V = u64> = (Family, fn(&T) -> V);

/// Without a unit: it counts things.
pub(crate) const fn count(name: &'static str, help: &'static str) -> Family {
    Family { name, help, unit: None }
}

/// In bytes.
pub(crate) const fn bytes(name: &'static str, help: &'static str) -> Family {
    Family { name, help, unit: Some(&Unit::Bytes) }
}

/// In seconds.
pub(crate) const fn seconds(name: &'static str, help: &'static str) -> Family {
    Family { name, help, unit: Some(&Unit::Seconds) }
}

impl Families<'_> {
    /// Values that only grow.
    pub(crate) fn counters(&mut self, family: Family, values: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        self.each(family, MetricType::Counter, values, |encoder, value| {
            encoder.encode_counter::<Labels, u64, u64>(&value, None)
        })
    }

    /// Values that come and go.
    pub(crate) fn gauges(&mut self, family: Family, values: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        self.each(family, MetricType::Gauge, values, |encoder, value| encoder.encode_gauge(&value))
    }

    /// Moments, in seconds since 1970.
    pub(crate) fn moments(
        &mut self,
        family: Family,
        values: impl IntoIterator<Item = (Labels, SystemTime)>,
    ) -> fmt::Result {
        self.each(family, MetricType::Gauge, values, |encoder, at| {
            encoder.encode_gauge(&at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
        })
    }

    /// How long things took.
    pub(crate) fn latencies(
        &mut self,
        family: Family,
        values: impl IntoIterator<Item = (Labels, LatencyTotals)>,
    ) -> fmt::Result {
        self.each(family, MetricType::Histogram, values, |encoder, totals| {
            let buckets: Vec<_> = totals
                .classes()
                .map(|(bound, count)| (bound.map_or(f64::INFINITY, |it| it.as_secs_f64()), count))
                .collect();
            encoder.encode_histogram::<Labels>(totals.sum_us as f64 / 1e6, totals.count(), &buckets, None)
        })
    }

    fn each<V>(
        &mut self,
        Family { name, help, unit }: Family,
        metric_type: MetricType,
        values: impl IntoIterator<Item = (Labels, V)>,
        encode: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.0.encode_descriptor(name, help, unit, metric_type)?;
        for (labels, value) in values {
            match labels.is_empty() {
                true => encode(&mut encoder, value)?,
                false => encode(&mut encoder.encode_family(&labels)?, value)?,
            }
        }
        Ok(())
    }
}
