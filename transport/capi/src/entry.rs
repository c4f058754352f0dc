//! What all entries share: no panic crosses, errors become numbers, and their text stays with the thread.

use nvferry_engine::{EngineError, ErrorKind};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// An error for an argument that cannot be right.
pub(crate) fn invalid(message: impl Into<String>) -> EngineError {
    EngineError::new(ErrorKind::InvalidArgument, message)
}

/// Runs an entry. An error or a panic leaves its text with this thread and becomes `Err(code)`.
pub(crate) fn guard<T>(body: impl FnOnce() -> Result<T, EngineError>) -> Result<T, i32> {
    let caught = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        Err(EngineError::new(
            ErrorKind::Context,
            "a defect in nvferry stopped this call; please report what it printed",
        ))
    });
    caught.map_err(|error| {
        keep_text(text_of(&error));
        error.code()
    })
}

/// An error's text as C has it.
pub(crate) fn text_of(error: &impl std::fmt::Display) -> CString {
    let text: Vec<u8> = error.to_string().into_bytes().into_iter().filter(|byte| *byte != 0).collect();
    // No zero byte is left in it.
    CString::new(text).unwrap_or_default()
}

/// Keeps a text as this thread's last. Nothing is kept when the thread is ending.
pub(crate) fn keep_text(text: CString) -> *const c_char {
    let _gone = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
    last_error()
}

/// As [`guard`], for entries that return 0 or an error number.
pub(crate) fn code(body: impl FnOnce() -> Result<(), EngineError>) -> i32 {
    guard(body).err().unwrap_or(0)
}

/// The text of this thread's last error; it stays valid until this thread's next failing call.
pub(crate) fn last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A C string as text.
///
/// # Safety
/// `text` is NULL or points to a string that ends with a zero byte and stays as it is for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, EngineError> {
    if text.is_null() {
        return Err(invalid(format!("{what} is NULL")));
    }
    // SAFETY: it is not NULL, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| invalid(format!("{what} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_number_with_a_text() {
        assert_eq!(code(|| panic!("on purpose")), ErrorKind::Context as i32);
        // SAFETY: the pointer is this thread's last error, which ends with a zero byte.
        assert!(unsafe { text(last_error(), "text") }.is_ok_and(|text| text.contains("defect")));
    }

    #[test]
    fn the_text_belongs_to_its_thread() {
        assert_eq!(code(|| Err(invalid("mine"))), -1);
        // SAFETY: as above.
        let other = std::thread::spawn(|| unsafe { text(last_error(), "text") }.map(str::to_owned));
        assert!(other.join().is_ok_and(|text| text.is_ok_and(|text| text.is_empty())));
    }
}
