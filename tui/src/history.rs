//! What is remembered, each with a bound: a day of watching takes as much memory as a minute.

use crate::figures::Moment;
use std::collections::VecDeque;

/// Samples of a sparkline: one a second.
pub const SAMPLES: usize = 240;

/// Over how long a rate is taken, in milliseconds: short enough to follow a change, long enough not to dance.
const WINDOW: u64 = 8_000;

/// The last `bound` of something, each with a number that is never used twice.
#[derive(Debug, Clone)]
pub struct Ring<T> {
    items: VecDeque<T>,
    bound: usize,
    /// Number of the first one kept.
    first: u64,
}

impl<T> Ring<T> {
    /// An empty one.
    pub fn new(bound: usize) -> Ring<T> {
        Ring {
            items: VecDeque::new(),
            bound,
            first: 0,
        }
    }

    /// Add one; the oldest goes when there are too many.
    pub fn push(&mut self, item: T) {
        self.items.push_back(item);
        if self.items.len() > self.bound {
            self.items.pop_front();
            self.first += 1;
        }
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The newest first, with their numbers.
    pub fn newest_first(&self) -> impl Iterator<Item = (u64, &T)> {
        let first = self.first;
        let all = self.items.iter().enumerate().rev();
        all.map(move |(at, item)| (first + at as u64, item))
    }

    /// The oldest first.
    pub fn oldest_first(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// By number; `None` when it is not kept any more.
    pub fn get(&self, number: u64) -> Option<&T> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.items.get(at)
    }
}

/// A counter that only grows, as a rate.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    points: VecDeque<(Moment, u64)>,
}

impl Meter {
    /// The counter stands at `value`. One that went back was started anew.
    pub fn record(&mut self, at: Moment, value: u64) {
        if self
            .points
            .back()
            .is_some_and(|(t, v)| *v > value || *t > at)
        {
            self.points.clear();
        }
        // Several a second would only fill the window.
        let several = self.points.len() >= 2;
        match self.points.back_mut() {
            Some(last) if several && at.since(last.0) < 200 => last.1 = value,
            _ => self.points.push_back((at, value)),
        }
        while self.points.len() > 2 && at.since(self.points[1].0) >= WINDOW {
            self.points.pop_front();
        }
    }

    /// Per second; `None` before there are two points.
    pub fn per_second(&self) -> Option<u64> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let ms = last.0.since(first.0);
        (ms > 0).then(|| (last.1 - first.1).saturating_mul(1000) / ms)
    }

    /// How long `remaining` takes at this rate, in milliseconds.
    pub fn time_for(&self, remaining: u64) -> Option<u64> {
        let per_second = self.per_second().filter(|r| *r > 0)?;
        Some(remaining.saturating_mul(1000) / per_second)
    }

    /// How many points are kept.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

/// A counter as rates over time, for a sparkline.
#[derive(Debug, Clone)]
pub struct Series {
    last: Option<(Moment, u64)>,
    rates: Ring<u64>,
}

impl Default for Series {
    fn default() -> Self {
        Series {
            last: None,
            rates: Ring::new(SAMPLES),
        }
    }
}

impl Series {
    /// The counter stands at `value`.
    pub fn record(&mut self, at: Moment, value: u64) {
        if let Some((then, before)) = self.last {
            let ms = at.since(then);
            if ms < 500 {
                return; // answers that came close to each other say nothing of a second
            }
            // One that went back was started anew.
            let moved = value.saturating_sub(before);
            self.rates.push(moved.saturating_mul(1000) / ms);
        }
        self.last = Some((at, value));
    }

    /// The newest rate, per second.
    pub fn now(&self) -> u64 {
        self.rates
            .newest_first()
            .next()
            .map_or(0, |(_, rate)| *rate)
    }

    /// The last `n` rates, oldest first.
    pub fn last(&self, n: usize) -> Vec<u64> {
        let skip = self.rates.len().saturating_sub(n);
        self.rates.oldest_first().skip(skip).copied().collect()
    }

    /// How many rates are kept.
    pub fn len(&self) -> usize {
        self.rates.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_newest_under_their_numbers() {
        let mut ring = Ring::new(3);
        (0..10).for_each(|n| ring.push(n));
        assert_eq!(ring.len(), 3);
        let newest: Vec<(u64, i32)> = ring.newest_first().map(|(n, v)| (n, *v)).collect();
        assert_eq!(newest, [(9, 9), (8, 8), (7, 7)]);
        assert_eq!(
            (ring.get(6), ring.get(7), ring.get(10)),
            (None, Some(&7), None)
        );
    }

    #[test]
    fn a_meter_tells_rate_and_remaining_time() {
        let mut meter = Meter::default();
        assert_eq!(meter.per_second(), None);
        for s in 0..60 {
            meter.record(Moment(s * 1000), s as u64 * 50);
        }
        assert_eq!(meter.per_second(), Some(50));
        assert_eq!(meter.time_for(500), Some(10_000));
        assert!(meter.len() < 12);
        meter.record(Moment(61_000), 3);
        assert_eq!(meter.per_second(), None, "it was started anew");
    }

    #[test]
    fn a_meter_is_bounded_however_often_it_is_fed() {
        let mut meter = Meter::default();
        (0..100_000).for_each(|n| meter.record(Moment(n), n as u64));
        assert!(meter.len() < 50, "{}", meter.len());
    }

    #[test]
    fn a_series_is_bounded_and_survives_a_restart_of_the_counter() {
        let mut series = Series::default();
        for s in 0..10_000_i64 {
            series.record(Moment(s * 1000), (s * 10) as u64);
        }
        assert_eq!((series.len(), series.now()), (SAMPLES, 10));
        series.record(Moment(10_000_000), 5);
        assert_eq!(series.now(), 0);
        assert_eq!(series.last(3).len(), 3);
    }
}
