//! The message of a panic, for logs and errors.

use std::any::Any;

/// The text that a panic was raised with.
///
/// - `payload`: as `catch_unwind` or `JoinError::into_panic` returns it.
pub fn text(payload: &(dyn Any + Send)) -> &str {
    let formatted = payload.downcast_ref::<String>().map(String::as_str);
    let text = formatted.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_however_the_panic_was_raised() {
        let literal = std::panic::catch_unwind(|| panic!("no such index"));
        assert_eq!(text(&*literal.unwrap_err()), "no such index");
        let formatted = std::panic::catch_unwind(|| panic!("no index {}", 7));
        assert_eq!(text(&*formatted.unwrap_err()), "no index 7");
        let other = std::panic::catch_unwind(|| std::panic::panic_any(7));
        assert_eq!(text(&*other.unwrap_err()), "a panic without a message");
    }
}
