//! The tamper matrix: each kind of attack, and the exact names it gets.
