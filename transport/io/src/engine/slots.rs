//! The table of what an engine has under way: room for its capacity, made once.

/// A fixed number of places, each empty or taken.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { places: (0..capacity).map(|_| None).collect(), free: (0..capacity).rev().collect() }
    }

    pub(crate) fn taken(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Puts a value in; gives it back when there is no room.
    pub(crate) fn insert(&mut self, value: T) -> Result<u32, T> {
        match self.free.pop() {
            Some(index) => {
                self.places[index as usize] = Some(value);
                Ok(index)
            }
            None => Err(value),
        }
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.places.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.places.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(value)
    }

    /// What is in, with its place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| Some((index as u32, place.as_ref()?)))
    }
}
