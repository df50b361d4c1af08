//! Counts, in tests, the remembered items that are looked at: an event must cost as much when much is remembered as when
//! little is. Every loop over what rules remember reports here.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
}

/// Reports that a loop looks at so many remembered items. Does nothing outside tests.
#[inline]
pub(super) fn looked_at(items: usize) {
    #[cfg(test)]
    LOOKED_AT.set(LOOKED_AT.get() + items);
    let _ = items;
}

/// Does something, and counts nothing of it.
#[cfg(test)]
pub(super) fn uncounted<T>(act: impl FnOnce() -> T) -> T {
    let before = LOOKED_AT.get();
    let done = act();
    LOOKED_AT.set(before);
    done
}

/// Returns how many items were looked at on this thread since the last call.
#[cfg(test)]
pub(super) fn taken() -> usize {
    LOOKED_AT.take()
}
