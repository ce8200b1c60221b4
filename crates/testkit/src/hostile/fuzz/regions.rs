//! Bytes become a region: what of a whole one is overwritten with what. It is attached, walked, used, checked, repaired.

use super::Target;
use crate::hostile::cases::{Case, run};
use crate::hostile::places::{Place, places};
use crate::hostile::population::{Population, SIZE};

pub struct Regions {
    population: Population,
    places: Vec<Place>,
}

impl Regions {
    pub fn new() -> Self {
        let population = Population::new("fuzz");
        let places = places(&population.region.attach());
        Self { population, places }
    }

    /// Up to 8 writes, each {place 2, offset 2, length and kind 1, bytes}.
    fn decode(&self, input: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut rest = input;
        let mut writes = Vec::new();
        while let [low, high, a, b, head, tail @ ..] = rest
            && writes.len() < 8
        {
            let place = &self.places[usize::from(u16::from_le_bytes([*low, *high])) % self.places.len()];
            let offset = u64::from(u16::from_le_bytes([*a, *b])) % place.length;
            let length = usize::from(head & 31) + 1;
            let at = place.at + offset;
            let (data, next) = match head >> 5 {
                0..=3 => (tail[..length.min(tail.len())].to_vec(), &tail[length.min(tail.len())..]),
                // A word that is in another place of the region: looks right, and is not.
                4 | 5 if tail.len() >= 4 => {
                    let from = u16::from_le_bytes([tail[0], tail[1]]);
                    let place = &self.places[usize::from(from) % self.places.len()];
                    let from = place.at + u64::from(u16::from_le_bytes([tail[2], tail[3]])) % place.length / 8 * 8;
                    ((0..8).map(|index| self.population.byte(from + index)).collect(), &tail[4..])
                }
                6 => (vec![0; length * 8], tail),
                _ => (vec![0xff; length * 8], tail),
            };
            let at = if head >> 5 >= 4 { at / 8 * 8 } else { at };
            let room = (SIZE - at) as usize;
            writes.push((at, data[..data.len().min(room)].to_vec()));
            rest = next;
        }
        writes
    }
}

impl Target for Regions {
    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let case = Case {
            what: "a region".into(),
            place: "fuzz",
            bytes: self.decode(input),
            one_bit: false,
            says_no_links: None,
        };
        let (_, faults) = run(&self.population, &case);
        faults.into_iter().next().map_or(Ok(()), Err)
    }
}
